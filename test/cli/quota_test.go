package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// A daemon with a small quota replicates as much of another's database as fits,
// says so, can still write, and replicates the rest once the quota is raised.
func TestFullDatabaseIsShownAndGoesOnOnceItsQuotaIsRaised(t *testing.T) {
	t.Parallel()
	const key = "Plugins.Plugins.npp.Config"
	a := harness.New(t).Start()
	b := harness.Bare(t, harness.NPP(t)).Init().Set(key, map[string]any{"Databases": map[string]any{"DatabaseBytes": 8 << 20}}).Start()
	db := strings.TrimSpace(a.MustRun("npp", "db", "create", "large", "--type=keyvalue"))
	for i := range 12 {
		if r := a.RunStdin(fmt.Sprintf("%q", strings.Repeat("x", 900<<10)), "npp", "db", "put", "large", fmt.Sprint("key", i), "-"); r.Code != 0 {
			t.Fatal(r)
		}
	}
	b.Connect(a)
	b.MustRun("npp", "db", "open", db)
	eventually(t, "the database is full", func() bool { return replica(t, b, "info", db).State == "full" })
	if has := replica(t, b, "info", db).Entries; has == 0 || has > 9 {
		t.Errorf("%d entries", has)
	}
	if ls := b.MustRun("npp", "db", "ls"); !strings.Contains(ls, "  full ") || !strings.Contains(ls, "quota is used up: the quota of this database") {
		t.Errorf("db ls: %s", ls)
	}
	if f := findings(t, b, db)["quota"]; f.Level != "problem" || !strings.Contains(f.Advice, "raise the quota") {
		t.Errorf("db doctor: %+v", f)
	}
	if found := statusOf(t, b).about(db); len(found) != 1 || !strings.Contains(found[0].Text, "accepts no entries from others") {
		t.Errorf("status: %+v", found)
	}
	if text := b.MustRun("npp", "db", "info", db); !strings.Contains(text, " of 8.0 MiB\n") {
		t.Errorf("db info: %s", text)
	}
	if r := b.Run("npp", "db", "open", "--wait", "--timeout=2s", db); r.Code == 0 {
		t.Errorf("the replica is in sync: %v", r)
	}
	b.Stop()
	b.Set(key, map[string]any{}).Start()
	b.Connect(a)
	eventually(t, "all is here", func() bool { return replica(t, b, "info", db).Entries == 12 })
}
