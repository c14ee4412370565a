package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// What a writer wrote stays when it is revoked, unless it is discarded; what was
// discarded counts again when the writer is granted again. Both daemons show the
// same at each step.
func TestRevocationKeepsOrDiscardsWhatWasWritten(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), harness.New(t).Start()
	address := db(t, a, "create", "band", "--managed", "--type=keyvalue")[0].Address
	b.Connect(a)
	b.MustRun("npp", "db", "open", address, "--wait")
	id := identityOf(t, b)
	keys := func(want string) {
		t.Helper()
		for _, n := range []*harness.Node{a, b} {
			eventually(t, n.PeerID()+" has "+want, func() bool {
				out := n.MustRun("npp", "db", "all", "band")
				var got []string
				for line := range strings.Lines(out) {
					key, _, _ := strings.Cut(line, "\t")
					got = append(got, key)
				}
				slices.Sort(got)
				return strings.Join(got, " ") == want
			})
		}
	}
	write := func(key string) {
		t.Helper()
		eventually(t, "b may write", func() bool { return b.Run("npp", "db", "put", "band", key, "1").Code == 0 })
	}
	a.MustRun("npp", "db", "grant", "band", id)
	write("kept")
	keys("kept")

	r := a.Run("npp", "db", "revoke", "band", id, "--dry-run")
	if want := "note   apps on @orbitdb/core that lack its 1 entry cannot join them\nnote   1 entry that nobody built on is kept\n"; r.Code != 0 || r.Stderr != want || r.Stdout != "" {
		t.Errorf("dry run: %v", r)
	}
	write("kept too") // it was not revoked
	keys("kept kept too")
	if r := a.Run("npp", "db", "revoke", "band", id); r.Code != 0 || !strings.Contains(r.Stderr, "2 entries that nobody built on are kept") {
		t.Errorf("revoke: %v", r)
	}
	eventually(t, "b may not write any more", func() bool { return b.Run("npp", "db", "put", "band", "no", "1").Code == 1 })
	keys("kept kept too")

	a.MustRun("npp", "db", "grant", "band", id)
	write("discarded")
	keys("discarded kept kept too")
	if r := a.Run("npp", "db", "revoke", "band", id, "--discard"); r.Code != 0 || !strings.Contains(r.Stderr, "1 entry that nobody built on is discarded") {
		t.Errorf("revoke: %v", r)
	}
	keys("kept kept too")
	b.Stop()
	b.Start()
	b.Connect(a)
	keys("kept kept too")
	a.MustRun("npp", "db", "grant", "band", id)
	keys("discarded kept kept too")
}
