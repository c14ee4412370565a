// Package cli holds the promises of the built ipfs that can be seen from its
// command line and its HTTP interfaces, beside stock kubo where it has to be
// like it.
package cli

import (
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
