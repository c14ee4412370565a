package oplog_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store/storetest"
)

// quota is a quota that a test sets, and the usage that the log reported.
type quota struct {
	all, pendingLimit uint64
	entries, pending  uint64
}

func (q *quota) Limits() (total, pending uint64) { return q.all, q.pendingLimit }
func (q *quota) Stored(entries, pending uint64)  { q.entries, q.pending = entries, pending }

// limited returns a log with a quota. Only the given writers may write it.
func limited(t testing.TB, bytes uint64, writers ...string) (replica, *quota) {
	t.Helper()
	q := &quota{all: bytes, pendingLimit: math.MaxUint64}
	r, err := openWith(t.Context(), storetest.NewDisk(), func(c *oplog.Config) {
		c.Quota = q
		c.Access = oplog.Access{Writers: writers, Known: writers}
	})
	must(t, err)
	return r, q
}

func sizeOf(entries []*entry.Entry) (size uint64) {
	for _, e := range entries {
		size += uint64(len(e.Block.Data))
	}
	return size
}

func TestFullLogTakesNothingOfOthersUntilItsQuotaIsRaised(t *testing.T) {
	entries := chain(60, value.Null)
	r, q := limited(t, sizeOf(entries[:40]), "a", signers[0].PublicKey)
	outcomes := r.join(t, entries...)
	same(t, "outcomes", outcomes, slices.Concat(slices.Repeat([]oplog.Outcome{oplog.Joined}, 40), slices.Repeat([]oplog.Outcome{oplog.QuotaFull}, 20)))
	own := r.append(t, signers[0], value.Null, value.Null)
	same(t, "outcomes", r.join(t, entries[40:]...), slices.Repeat([]oplog.Outcome{oplog.QuotaFull}, 20))
	r.audit(t, accept)
	equal(t, "told of entries", q.entries, must1(r.Stats(t.Context())).Bytes)
	q.all = math.MaxUint64
	same(t, "outcomes", r.join(t, entries...), slices.Concat(slices.Repeat([]oplog.Outcome{oplog.Known}, 40), slices.Repeat([]oplog.Outcome{oplog.Joined}, 20)))
	log, _ := r.audit(t, accept)
	equal(t, "in the log", len(log), 60+len(own))
}

// Pending entries count against the quota, and are evicted in favour of entries
// that can be joined.
func TestPendingEntriesAreEvictedForEntriesThatCanBeJoined(t *testing.T) {
	entries := chain(60, value.Null)
	total := sizeOf(entries)
	r, q := limited(t, total, "a")
	made := 0
	junk := func() {
		for range 100 {
			made++
			nowhere := draft{key: "a", time: 1, payload: value.Text(fmt.Sprint(made))}.entry()
			must1(r.Join(t.Context(), of("evil", draft{key: "a", time: 2, next: []*entry.Entry{nowhere}}.entry())))
			if q.entries+q.pending > total {
				t.Fatalf("%d and %d bytes", q.entries, q.pending)
			}
		}
	}
	junk()
	for i, e := range entries {
		if i == len(entries)/2 {
			junk()
		}
		same(t, "outcomes", r.join(t, e), []oplog.Outcome{oplog.Joined})
		if q.entries+q.pending > total {
			t.Fatalf("%d and %d bytes", q.entries, q.pending)
		}
	}
	r.audit(t, accept)
}

// An entry that would exceed the bound on pending entries is refused with its
// own outcome.
func TestEntryBeyondTheBoundOnPendingEntriesIsRefused(t *testing.T) {
	entries := chain(2, value.Null)
	r, q := limited(t, 560, "a")
	same(t, "outcomes", r.join(t, entries[1]), []oplog.Outcome{oplog.QuotaFull})
	q.all = math.MaxUint64
	same(t, "outcomes", r.join(t, entries[1]), []oplog.Outcome{oplog.Pending})
	r = bounded(t, storetest.NewDisk(), 560)
	same(t, "outcomes", r.join(t, entries[1]), []oplog.Outcome{oplog.PendingFull})
	r.audit(t, verify)
}

// A log whose quota is used up while it fetches newest first continues from
// there.
func TestFullLogGoesOnWhereItWas(t *testing.T) {
	seeds(t, 5, func(t *testing.T, rng *rand.Rand) {
		entries := chain(80, value.Null)
		r, q := limited(t, sizeOf(entries)*2/3, "a")
		full := false
		for i := 0; i < 1000 && !full; i++ {
			missing := must1(r.Missing(t.Context()))
			if len(missing) == 0 {
				missing = hashes(entries[len(entries)-1:])
			}
			g := newGraph(entries...)
			for _, hash := range shuffled(rng, missing)[:min(len(missing), 5)] {
				full = full || slices.Contains(r.join(t, g[hash]), oplog.QuotaFull)
			}
			r.audit(t, accept)
		}
		if !full {
			t.Error("it was never full")
		}
		q.all = math.MaxUint64
		r.joinAll(t, newGraph(entries...), entries[len(entries)-1:])
		log, _ := r.audit(t, accept)
		equal(t, "in the log", len(log), len(entries))
	})
}

func TestWriterAndPeerHaveAQuotaPlusWhatOthersNeed(t *testing.T) {
	const all = 100_000
	text := strings.Repeat("x", 500)
	made := 0
	by := func(writer string, next ...*entry.Entry) *entry.Entry {
		made++
		return draft{key: writer, time: float64(made), next: next, payload: value.Text(fmt.Sprint(made, text))}.entry()
	}
	fill := func(r replica, offer func() (peer string, e *entry.Entry)) (bytes uint64) {
		for {
			peer, e := offer()
			outcomes := must1(r.Join(t.Context(), of(peer, e)))
			if outcomes[0] != oplog.Joined {
				equal(t, "outcome", outcomes[0], oplog.PeerQuotaFull)
				return bytes
			}
			bytes += uint64(len(e.Block.Data))
		}
	}
	peers, writers := 0, 0
	for name, offer := range map[string]func() (string, *entry.Entry){
		"a writer by many peers": func() (string, *entry.Entry) { peers++; return fmt.Sprint("peer", peers), by("W") },
		"a peer of many writers": func() (string, *entry.Entry) { writers++; return "P", by(fmt.Sprint("writer", writers)) },
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := limited(t, all, oplog.Anyone)
			if got := fill(r, offer); got < all*3/4 || got > all*4/5+2000 {
				t.Errorf("it has %d bytes of %d", got, all)
			}
			// Others have a quota, and so has the next one that uses all of it.
			same(t, "outcomes", must1(r.Join(t.Context(), of("other", by("other")))), []oplog.Outcome{oplog.Joined})
			// An entry that another writer's entry names is accepted.
			_, e := offer()
			top := by("other", e)
			same(t, "outcomes", must1(r.Join(t.Context(), of("other", top))), []oplog.Outcome{oplog.Pending})
			same(t, "outcomes", r.join(t, e), []oplog.Outcome{oplog.Joined})
			log, pending := r.audit(t, accept)
			equal(t, "pending", len(pending), 0)
			if log[top.Hash()] == nil {
				t.Error("the entry of the other one is not in the log")
			}
		})
	}
	// If writers are named, only the quota of the log applies.
	r, _ := limited(t, all, "W")
	bytes := uint64(0)
	for {
		e := by("W")
		if o := r.join(t, e)[0]; o != oplog.Joined {
			equal(t, "outcome", o, oplog.QuotaFull)
			break
		}
		bytes += uint64(len(e.Block.Data))
	}
	if bytes < all-1000 {
		t.Errorf("%d bytes of %d", bytes, all)
	}
}

func TestUsageIsReadWithoutOpeningTheLog(t *testing.T) {
	r := newReplica(t)
	entries := chain(5, value.Null)
	r.join(t, slices.Concat(entries[:3], entries[4:])...)
	g := must1(oplog.Look(t.Context(), r.store, logNumber))
	equal(t, "entries", g.Bytes, sizeOf(entries[:3]))
	equal(t, "pending", g.PendingBytes, must1(r.Stats(t.Context())).PendingBytes)
}
