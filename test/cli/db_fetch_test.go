package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// bitswap does not ask peers of other networks from which it never got a block.
// Those that have a database open are asked all the same.
func TestDatabaseIsFetchedFromPeersThatBitswapWouldNotAsk(t *testing.T) {
	n, m := harness.New(t).Start(), harness.New(t).
		Set("Internal.Bitswap.BroadcastControl", map[string]any{"LocalPeers": true, "PeeredPeers": true}).Start()
	address := strings.TrimSpace(n.MustRun("npp", "db", "create", "far", "--write", "*"))
	for range 3 {
		n.MustRun("npp", "db", "put", address, `"event"`)
	}
	m.Connect(n)
	m.MustRun("npp", "db", "open", address)
	waitForEntries(t, m, address, 3)
}

// waitForEntries waits until a daemon has so many entries of a database.
func waitForEntries(t *testing.T, n *harness.Node, address string, want uint64) {
	t.Helper()
	var last harness.Result
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		last = n.Run("npp", "db", "info", address, "--enc=json")
		var info struct{ Entries uint64 }
		if last.Code == 0 && json.Unmarshal([]byte(last.Stdout), &info) == nil && info.Entries == want {
			return
		}
	}
	t.Fatalf("never %d entries: %v", want, last)
}
