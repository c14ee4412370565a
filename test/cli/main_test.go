// Package cli tests the promises of the built ipfs that are visible at its
// command line and its HTTP interfaces, and compares it with stock kubo where
// the two must agree.
package cli

import (
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
