package entry

import (
	"testing"

	"github.com/newpieceplease/npp/test/readme"
)

func TestReadmeHasTheLimit(t *testing.T) {
	readme.Says(t, "An entry of a database has at most %d bytes", MaxSize)
}
