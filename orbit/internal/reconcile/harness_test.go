package reconcile

import (
	"bytes"
	"context"
	"iter"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/test/loopback"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newOrbit returns the databases of a new identity.
func newOrbit(t testing.TB) *orbit.Orbit {
	t.Helper()
	s := store.New(dssync.MutexWrap(datastore.NewMapDatastore()), "/orbit")
	o, err := orbit.New(t.Context(), orbit.Config{Store: s, Keystore: keystore.NewMemKeystore()})
	must(t, err)
	t.Cleanup(func() {
		o.Close()
		s.Close()
	})
	return o
}

// create creates an events database that anyone may write.
func create(t testing.TB, o *orbit.Orbit) *orbit.Database {
	t.Helper()
	db, err := o.Create(t.Context(), "gigs", orbit.Options{Type: orbit.TypeEvents, Access: orbit.Access{Write: []string{manifest.Anyone}}})
	must(t, err)
	return db
}

// add adds n events.
func add(t testing.TB, db *orbit.Database, n int) {
	t.Helper()
	ev, err := db.Events()
	must(t, err)
	_, err = ev.AddMany(t.Context(), func(yield func(any) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	})
	must(t, err)
}

// copyAll copies all entries of one database to another.
func copyAll(t testing.TB, from, to *orbit.Database, o, toOrbit *orbit.Orbit) {
	t.Helper()
	at := make(orbit.Attached)
	var bs []block.Block
	for a, err := range oplog.Of(from).Stored(t.Context(), 0) {
		must(t, err)
		bs = append(bs, a.Entry.Block)
		if at[a.Entry.Identity].Hash == "" {
			b, err := o.Block(t.Context(), a.Entry.Identity)
			must(t, err)
			at[b.Hash] = b
		}
	}
	_, err := to.Join(t.Context(), orbit.NewCandidates(bs...), orbit.JoinOptions{Attached: at})
	must(t, err)
}

// writers are databases with the same address and different identities.
type writers struct {
	orbits    []*orbit.Orbit
	databases []*orbit.Database
}

func newWriters(t testing.TB, n int) (w writers) {
	t.Helper()
	for range n {
		o := newOrbit(t)
		w.orbits = append(w.orbits, o)
		w.databases = append(w.databases, create(t, o))
	}
	return w
}

// history makes all of them write, and sometimes join entries of another.
func (w writers) history(t testing.TB, rng *rand.Rand, steps int) {
	t.Helper()
	for range steps {
		i, j := rng.IntN(len(w.orbits)), rng.IntN(len(w.orbits))
		if i == j {
			add(t, w.databases[i], 1+rng.IntN(60))
		} else {
			copyAll(t, w.databases[i], w.databases[j], w.orbits[i], w.orbits[j])
		}
	}
}

// peerOf is a host that serves databases.
type peerOf struct {
	host.Host
	traffic *metrics.BandwidthCounter
}

func newPeer(t testing.TB) peerOf {
	t.Helper()
	p := peerOf{traffic: metrics.NewBandwidthCounter()}
	p.Host = loopback.Host(t, libp2p.BandwidthReporter(p.traffic))
	return p
}

// serve makes the host serve databases.
func (p peerOf) serve(o *orbit.Orbit, dbs ...*orbit.Database) {
	p.SetStreamHandler(Protocol, handler(o, dbs...))
}

func handler(o *orbit.Orbit, dbs ...*orbit.Database) network.StreamHandler {
	return func(s network.Stream) {
		Serve(context.Background(), s, Source{
			Log: func(address string) (log, access *oplog.Log, ok bool) {
				for _, db := range dbs {
					if db.Address() == address {
						return oplog.Of(db), accessLog(db), true
					}
				}
				return nil, nil, false
			},
			Block: o.Block,
		})
	}
}

// accessLog returns the log of a database's access database, or nil.
func accessLog(db *orbit.Database) *oplog.Log {
	if inner := db.Access().Database(); inner != nil {
		return oplog.Of(inner)
	}
	return nil
}

// session begins a session with a server about a database.
func session(t testing.TB, server peerOf, address string) *Session {
	t.Helper()
	return sessionWithin(t.Context(), t, server, address)
}

func sessionWithin(ctx context.Context, t testing.TB, server peerOf, address string) *Session {
	t.Helper()
	client := newPeer(t)
	loopback.Connect(t, client, server)
	for !MaySpeak(client, server.ID()) { // the announced protocols lag behind the handlers
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	s, err := Open(ctx, client, server.ID(), address)
	must(t, err)
	t.Cleanup(s.Reset)
	return s
}

// reconcileWith transfers to a database the entries that it lacks, and returns
// the number of received blocks and of requested items. The parents of each
// batch must be there.
func reconcileWith(t testing.TB, s *Session, to *orbit.Database) (blocks, items int) {
	t.Helper()
	for d, err := range s.Compare(t.Context(), oplog.Of(to)) {
		must(t, err)
		items += len(d.items)
		blocks += joinBatches(t, to, s.Transfer(d))
	}
	return blocks, items
}

// difference returns what a database lacks, as a single part.
func difference(t testing.TB, s *Session, db *orbit.Database) (found Difference) {
	t.Helper()
	parts := 0
	for d, err := range s.Compare(t.Context(), oplog.Of(db)) {
		must(t, err)
		found = d
		parts++
	}
	if parts > 1 {
		t.Errorf("%d parts", parts)
	}
	return found
}

// joinBatches joins all batches, and returns the number of received blocks. The
// parents of each batch must be there.
func joinBatches(t testing.TB, to *orbit.Database, batches iter.Seq2[[]block.Block, error]) (blocks int) {
	t.Helper()
	for bs, err := range batches {
		must(t, err)
		blocks += len(bs)
		for _, j := range joinBatch(t, to, bs) {
			if j.Outcome == orbit.Pending || j.Outcome == orbit.Known {
				t.Errorf("%s is %s", j.Hash, j.Outcome)
			}
		}
	}
	return blocks
}

func joinBatch(t testing.TB, to *orbit.Database, bs []block.Block) []orbit.JoinResult {
	t.Helper()
	at := make(orbit.Attached)
	for _, b := range bs {
		at[b.Hash] = b
	}
	joined, err := to.Join(t.Context(), orbit.NewCandidates(bs...), orbit.JoinOptions{Attached: at})
	must(t, err)
	return joined
}

// hashes returns the order of a database, newest first.
func hashes(t testing.TB, db *orbit.Database) (list []string) {
	t.Helper()
	for e, err := range db.Iterate(t.Context(), orbit.Range{}) {
		must(t, err)
		list = append(list, e.Hash())
	}
	return list
}

// chainOfInvalid adds a chain of n invalid entries and a valid entry that
// descends from them, and returns the hash of the latter.
func chainOfInvalid(t testing.TB, db *orbit.Database, n int) string {
	t.Helper()
	s := newSigner(t)
	heads, err := oplog.Of(db).Heads(t.Context())
	must(t, err)
	bs := []block.Block{s.Block()}
	parents := heads
	for range n {
		e := write(t, s, db, "forged", parents...)
		b := block.New(bytes.Replace(e.Block.Data, []byte("forged"), []byte("FORGED"), 1)) // it has the signature of another entry
		bs = append(bs, b)
		parents = []entry.Position{{Rank: entry.Rank{Time: e.Clock.Time}, ID: e.Clock.ID, Hash: b.Hash}}
	}
	top := write(t, s, db, "on top", parents...)
	joinBatch(t, db, append(bs, top.Block))
	if reason, err := oplog.Of(db).Unauthorized(t.Context(), parents[0].Hash); err != nil || reason == "" {
		t.Fatalf("no entry is invalid: %q, %v", reason, err)
	}
	return top.Hash()
}

// newSigner returns a new identity.
func newSigner(t testing.TB) *identity.Signer {
	t.Helper()
	keys := keystore.NewMemKeystore()
	must(t, identity.Generate(keys, "root"))
	must(t, identity.Generate(keys, "signing"))
	s, err := identity.Load(keys, "root", "signing")
	must(t, err)
	return s
}

// write returns an entry of a database with the given parents.
func write(t testing.TB, s *identity.Signer, db *orbit.Database, text string, next ...entry.Position) *entry.Entry {
	t.Helper()
	payload, err := value.FromJSON([]byte(`{"op":"ADD","key":null,"value":"` + text + `"}`))
	must(t, err)
	e, err := entry.New(s, db.Address(), payload, next, nil)
	must(t, err)
	return e
}
