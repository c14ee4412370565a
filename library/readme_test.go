package library

import (
	"testing"

	"github.com/newpieceplease/npp/test/readme"
)

func TestReadmeHasTheLimits(t *testing.T) {
	readme.Says(t, "At most %d companions are followed", MaxCompanions)
	readme.Says(t, "of a companion at most %d MiB, of all together %d MiB", companionBudget>>20, companionsBudget>>20)
}
