package cli

import (
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// bitswap does not ask peers on other networks from which it has never received
// a block. Peers that have a database open are asked nevertheless.
func TestDatabaseIsFetchedFromPeersThatBitswapWouldNotAsk(t *testing.T) {
	t.Parallel()
	n, m := harness.New(t).Start(), harness.New(t).
		Set("Internal.Bitswap.BroadcastControl", map[string]any{"LocalPeers": true, "PeeredPeers": true}).Start()
	address := strings.TrimSpace(n.MustRun("npp", "db", "create", "far", "--write", "*"))
	for range 3 {
		n.MustRun("npp", "db", "put", address, `"event"`)
	}
	m.Connect(n)
	m.MustRun("npp", "db", "open", "--wait", address)
	if l := replica(t, m, "info", address); l.Entries != 3 {
		t.Errorf("%+v, want 3 entries", l)
	}
}
