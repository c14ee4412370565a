package commands

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

func TestWhatIsFullIsShownWithItsReason(t *testing.T) {
	full := fmt.Errorf("%w: that of this database", orbit.ErrQuotaFull)
	s := newStatusLine(replicate.Status{State: replicate.Open, Full: full, Abandoned: true}, nil)
	if s.State != "full" || s.Full != full.Error() {
		t.Errorf("status: %+v", s)
	}
	for want, got := range map[string]string{
		"nothing is accepted from other peers: " + full.Error(): text(t, dbOpenCmd, nil, &openLine{Address: "/orbitdb/z", statusLine: s}),
		"full      " + full.Error() + "\n":                      text(t, dbInfoCmd, nil, &infoLine{Address: "/orbitdb/z", statusLine: s}),
		"state     full\n":                                      text(t, dbInfoCmd, nil, &infoLine{Address: "/orbitdb/z", statusLine: s}),
		"deleted   some pending entries":                        text(t, dbInfoCmd, nil, &infoLine{Address: "/orbitdb/z", statusLine: s}),
		"  full       pieces\n  " + full.Error() + "\n":         text(t, dbLsCmd, nil, &listLine{Address: "/orbitdb/z", Name: "pieces", State: s.State, Full: s.Full}),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := dbError(full, "guests"); !strings.HasSuffix(err.Error(), "; hint: "+daemon.QuotaAdvice) {
		t.Errorf("%v", err)
	}
	out := newStatusOutput(daemon.Status{Started: time.Now(), Databases: 3, Full: []string{"/orbitdb/z"}, Others: orbit.Usage{Entries: 70, Pending: 5, Quota: 100}})
	for _, want := range []string{"databases   3 databases, 1 full\n", "others      75 bytes of 100 bytes used by databases of others\n"} {
		if got := out.text(); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	b, err := json.Marshal(out)
	if err != nil || !strings.Contains(string(b), `"full":["/orbitdb/z"],"others":{"bytes":70,"waiting":5,"maxBytes":100}`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestInfoShowsWhatADatabaseTakesOfItsQuota(t *testing.T) {
	for want, u := range map[string]orbit.Usage{
		"stored    7 bytes, no quota\n":                                                  {Entries: 5, Pending: 2, Quota: math.MaxUint64},
		"stored    7 bytes of 100 bytes\n":                                               {Entries: 5, Pending: 2, Quota: 100, Limited: true},
		"stored    7 bytes; all databases of the companion take 60 bytes of 100 bytes\n": {Entries: 5, Pending: 2, Quota: 100, Limited: true, Group: "peer", Grouped: 60},
		"entries   0, keys 0, unauthorized 0, pending 3 for 9 others\n":                  {},
	} {
		if got := text(t, dbInfoCmd, nil, &infoLine{Pending: 3, MissingCount: 9, Stored: newStoredLine(u)}); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	many := &infoLine{Missing: strings.Fields(strings.Repeat("hash ", 1000)), MissingCount: 4000}
	if got := text(t, dbInfoCmd, nil, many); !strings.Contains(got, "missing   and 3992 more\n") {
		t.Errorf("got %q", got)
	}
}
