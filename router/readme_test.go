package router

import (
	"testing"

	"github.com/newpieceplease/npp/test/readme"
)

func TestReadmeHasTheLimits(t *testing.T) {
	readme.Says(t, "somewhat less by pubsub (%d bytes)", MaxMessageBytes)
	readme.Says(t, "is paced to %d messages a second", stockRate)
}
