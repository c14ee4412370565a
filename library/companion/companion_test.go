package companion

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/boxo/keystore"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const owner = peer.ID("owner")

// fakeReplicator is a Replicator for databases that a test creates. Open
// fetches one that the test has put into remote.
type fakeReplicator struct {
	orbit *orbit.Orbit

	mu       sync.Mutex
	remote   map[string]orbit.Options // databases that can be fetched, by name
	opened   []string
	dropped  []string
	statuses map[string]replicate.Status
	changed  chan struct{} // closed when a status changes
}

func (r *fakeReplicator) Open(ctx context.Context, address string, _ orbit.OpenOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = append(r.opened, address)
	for name, opts := range r.remote {
		if at, err := r.orbit.AddressOf(name, opts); err == nil && at == address {
			if _, err := r.orbit.Create(ctx, name, opts); err != nil {
				return err
			}
			r.setStatusLocked(address)
		}
	}
	return nil
}

func (r *fakeReplicator) Drop(ctx context.Context, address string, keep func(context.Context, []block.Block) error) error {
	r.mu.Lock()
	r.dropped = append(r.dropped, address)
	r.mu.Unlock()
	return r.orbit.Drop(ctx, address, keep)
}

func (r *fakeReplicator) Follow(ctx context.Context, address string) iter.Seq2[replicate.Status, error] {
	return func(yield func(replicate.Status, error) bool) {
		for {
			r.mu.Lock()
			status, changed := r.statuses[address], r.changed
			r.mu.Unlock()
			if !yield(status, nil) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (r *fakeReplicator) Status(_ context.Context, address string) (replicate.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.statuses[address], nil
}

func (r *fakeReplicator) CompareNow(string)  {}
func (r *fakeReplicator) Fetching() []string { return nil }

func (r *fakeReplicator) setStatus(address string, peers ...replicate.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setStatusLocked(address, peers...)
}

func (r *fakeReplicator) setStatusLocked(address string, peers ...replicate.Peer) {
	r.statuses[address] = replicate.Status{Address: address, State: replicate.Open, Peers: peers}
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *fakeReplicator) drops() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.dropped)
}

// fakeContent is the Content of a companion whose user database names what a
// test says.
type fakeContent struct {
	mu        sync.Mutex
	addresses Addresses
	failed    map[Kind]error
	read      map[Kind]string // addresses of the databases that are being read
	isNew     map[Kind]func(uint64) bool
	ends      map[Kind]chan error // ends Read with an error
}

func newFakeContent(a Addresses) *fakeContent {
	return &fakeContent{addresses: a, failed: make(map[Kind]error), read: make(map[Kind]string), isNew: make(map[Kind]func(uint64) bool), ends: map[Kind]chan error{
		User: make(chan error), Pieces: make(chan error), Practice: make(chan error),
	}}
}

func (c *fakeContent) Addresses() (Addresses, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addresses, nil
}

func (c *fakeContent) Followed(context.Context) {}

func (c *fakeContent) Read(ctx context.Context, kind Kind, db *orbit.Database, isNew func(uint64) bool) error {
	c.mu.Lock()
	c.read[kind], c.isNew[kind] = db.Address(), isNew
	c.mu.Unlock()
	select {
	case err := <-c.ends[kind]:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *fakeContent) Failed(kind Kind, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[kind] = err
}

func (c *fakeContent) Reset(kind Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.read, kind)
}

func (c *fakeContent) reads(kind Kind) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read[kind]
}

// fixture is the databases of companions on a disk in memory.
type fixture struct {
	t          testing.TB
	orbit      *orbit.Orbit
	store      *store.Store
	replicator *fakeReplicator
	*Databases
}

// inBubble runs a test in a synctest bubble, in which pauses take no time.
func inBubble(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		disk := storetest.NewDisk()
		orbitStore := store.New(disk, "/orbit")
		o, err := orbit.New(t.Context(), orbit.Config{Store: orbitStore, Keystore: keystore.NewMemKeystore()})
		must(t, err)
		f := &fixture{t: t, orbit: o, store: store.New(disk, "/library"), replicator: &fakeReplicator{
			orbit: o, remote: make(map[string]orbit.Options), statuses: make(map[string]replicate.Status), changed: make(chan struct{}),
		}}
		f.restart()
		test(t, f)
		f.Close()
		must(t, o.Close())
		must(t, f.store.Close())
		must(t, orbitStore.Close())
	})
}

// restart replaces the Databases by new ones on the same disk.
func (f *fixture) restart() {
	f.t.Helper()
	if f.Databases != nil {
		f.Close()
	}
	var err error
	f.Databases, err = New(f.t.Context(), Config{
		Orbit: f.orbit, Replicator: f.replicator, Store: f.store, IsOwn: func(context.Context, string) bool { return false },
	})
	must(f.t, err)
}

// remote makes a database available to the replicator, and returns its address.
func (f *fixture) remote(name string, kind Kind) string {
	f.t.Helper()
	opts := orbit.Options{Type: orbit.TypeKeyValue}
	if kind == Pieces {
		opts = orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"}
	}
	f.replicator.remote[name] = opts
	address, err := f.orbit.AddressOf(name, opts)
	must(f.t, err)
	return address
}

// local creates a database that is here before a companion has it.
func (f *fixture) local(name string, kind Kind) string {
	f.t.Helper()
	address := f.remote(name, kind)
	_, err := f.orbit.Create(f.t.Context(), name, f.replicator.remote[name])
	must(f.t, err)
	f.replicator.setStatus(address)
	return address
}

// run runs a Set until the returned function is called.
func (f *fixture) run(s *Set) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// settle waits until all goroutines are blocked, after any pauses.
func settle() {
	time.Sleep(10 * changePause)
	synctest.Wait()
}

// complete makes peers report that the databases are in sync with their owner.
func (f *fixture) complete(addresses ...string) {
	for _, address := range addresses {
		f.replicator.setStatus(address, inSync(owner))
	}
	settle()
}

func inSync(id peer.ID) replicate.Peer {
	now := time.Now()
	return replicate.Peer{ID: id, Open: true, Exchanged: now, InSync: now, Heads: 1}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) wantDropped(want ...string) {
	f.t.Helper()
	got := f.replicator.drops()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		f.t.Errorf("%q were dropped, want %q", got, want)
	}
}

func TestAutoOpenedDatabasesAreDroppedWithTheLastCompanion(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user, other, pieces := f.remote("user", User), f.remote("other", User), f.remote("pieces", Pieces)
		var stops []func()
		for _, address := range []string{user, other} {
			content := newFakeContent(Addresses{Pieces: pieces})
			s := f.NewSet(owner, address, content)
			stops = append(stops, f.run(s))
			settle()
			s.AddressesChanged()
			settle()
			if got := content.reads(Pieces); got != pieces {
				t.Errorf("%q is read as the pieces", got)
			}
		}
		stops[0]()
		f.wantDropped(user)
		if err := f.Check(pieces); !errors.Is(err, ErrIncomplete) {
			t.Errorf("after the first companion: %v", err)
		}
		stops[1]()
		f.wantDropped(user, other, pieces)
		if err := f.Check(pieces); !errors.Is(err, ErrNotHere) || f.IsIncomplete(pieces) {
			t.Errorf("after both: %v, incomplete: %v", err, f.IsIncomplete(pieces))
		}
	})
}

func TestManualDatabasesStay(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user, pieces, practice := f.local("user", User), f.remote("pieces", Pieces), f.remote("practice", Practice)
		s := f.NewSet(owner, user, newFakeContent(Addresses{pieces, practice}))
		stop := f.run(s)
		s.AddressesChanged()
		settle()
		must(t, f.MarkManual(t.Context(), pieces))
		db, err := f.orbit.Open(t.Context(), practice, orbit.OpenOptions{})
		must(t, err)
		kv, err := db.KeyValue()
		must(t, err)
		_, err = kv.Put(t.Context(), "key", "an entry of this daemon")
		must(t, err)
		stop()
		f.wantDropped()
		f.restart()
		f.Prune(nil)
		f.wantDropped()
	})
}

func TestCloseDropsNothingAndPruneDropsTheRest(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user, pieces := f.remote("user", User), f.remote("pieces", Pieces)
		s := f.NewSet(owner, user, newFakeContent(Addresses{Pieces: pieces}))
		stop := f.run(s)
		s.AddressesChanged()
		settle()
		f.Close()
		stop()
		f.wantDropped()
		f.restart()
		f.Prune(map[string]bool{user: true}) // the pieces were opened for the same companion
		f.wantDropped()
		if !f.IsIncomplete(user) || !f.IsIncomplete(pieces) {
			t.Error("a needed database is complete after a restart")
		}
		f.Prune(nil)
		f.wantDropped(user, pieces)
		if f.IsIncomplete(user) || f.IsIncomplete(pieces) {
			t.Error("a dropped database is still recorded")
		}
	})
}

func TestIncompleteUserDatabaseIsNotRead(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user, pieces := f.local("user", User), f.local("pieces", Pieces)
		content := newFakeContent(Addresses{Pieces: pieces})
		s := f.NewSet(owner, user, content)
		early := inSync(owner)
		time.Sleep(time.Second)
		stop := f.run(s)
		defer func() { stop() }()
		s.AddressesChanged()
		settle()
		if content.reads(User) != "" || content.reads(Pieces) != pieces {
			t.Errorf("user database %q, pieces %q", content.reads(User), content.reads(Pieces))
		}
		if content.isNew[Pieces](1 << 40) {
			t.Error("an entry of an incomplete database is new")
		}
		f.replicator.setStatus(user, early) // before it was followed
		settle()
		if !f.IsIncomplete(user) {
			t.Error("an earlier time makes it complete")
		}
		f.Close()
		stop()
		f.restart()
		if !f.IsIncomplete(user) || !f.IsIncomplete(pieces) {
			t.Error("complete after a restart")
		}
		s = f.NewSet(owner, user, content, user, pieces)
		stop = f.run(s)
		s.AddressesChanged()
		settle()
		f.complete(user, pieces)
		if f.Check(user) != nil || f.Check(pieces) != nil || content.reads(User) != user {
			t.Errorf("%v, %v, user database %q", f.Check(user), f.Check(pieces), content.reads(User))
		}
		if content.isNew[Pieces](0) || !content.isNew[Pieces](1) {
			t.Error("not the entries after the last one are new")
		}
	})
}

func TestDatabaseDroppedByHandComesBackWithRetry(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user, pieces := f.local("user", User), f.remote("pieces", Pieces)
		content := newFakeContent(Addresses{Pieces: pieces})
		s := f.NewSet(owner, user, content, user)
		stop := f.run(s)
		defer func() { stop() }()
		s.AddressesChanged()
		settle()
		must(t, f.orbit.Drop(t.Context(), pieces, nil))
		content.ends[Pieces] <- orbit.ErrDropped
		settle()
		if err := s.Problem(Pieces); !errors.Is(err, errDropped) || f.IsHere(pieces) {
			t.Errorf("problem: %v, here: %v", err, f.IsHere(pieces))
		}
		s.Retry()
		settle()
		if err := s.Problem(Pieces); err != nil || content.reads(Pieces) != pieces || !f.IsHere(pieces) {
			t.Errorf("after Retry: %v, %q is read", err, content.reads(Pieces))
		}
	})
}

func TestWrongTypeIsReleased(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user, pieces := f.local("user", User), f.remote("keyvalue", Practice)
		content := newFakeContent(Addresses{Pieces: pieces})
		s := f.NewSet(owner, user, content)
		stop := f.run(s)
		s.AddressesChanged()
		settle()
		f.wantDropped(pieces)
		if s.Problem(Pieces) == nil || content.reads(Pieces) != "" {
			t.Errorf("problem: %v, %q is read", s.Problem(Pieces), content.reads(Pieces))
		}
		stop()
		f.wantDropped(pieces)
	})
}

func TestFirstAddressesAreFollowedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user, pieces := f.remote("user", User), f.remote("pieces", Pieces)
		content := newFakeContent(Addresses{Pieces: pieces})
		s := f.NewSet(owner, user, content)
		defer f.run(s)()
		synctest.Wait()
		begin := time.Now()
		s.AddressesChanged()
		synctest.Wait()
		if got := content.reads(Pieces); got != pieces || time.Since(begin) > 0 {
			t.Errorf("%q is read as the pieces after %s", got, time.Since(begin))
		}
	})
}

func TestAddressesChangeAtMostEveryTwoSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user := f.local("user", User)
		content := newFakeContent(Addresses{})
		s := f.NewSet(owner, user, content)
		stop := f.run(s)
		defer func() { stop() }()
		for range 100 {
			content.mu.Lock()
			content.addresses.Pieces = f.remote(time.Now().String(), Pieces)
			content.mu.Unlock()
			s.AddressesChanged()
			time.Sleep(changePause / 10)
		}
		settle()
		if n := len(f.replicator.opened); n < 8 || n > 11 {
			t.Errorf("%d databases were opened for 100 changes in 20 s", n)
		}
	})
}

func TestInvalidAddressLeavesNoRecord(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		user := f.local("user", User)
		content := newFakeContent(Addresses{Pieces: "/orbitdb/junk", Practice: "junk"})
		s := f.NewSet(owner, user, content, user)
		stop := f.run(s)
		defer func() { stop() }()
		s.AddressesChanged()
		settle()
		if err := s.Problem(Pieces); !errors.Is(err, orbit.ErrInvalidAddress) {
			t.Errorf("problem: %v", err)
		}
		for e, err := range f.store.Scan(t.Context(), incompletePrefix) {
			must(t, err)
			t.Errorf("record %s", e.Key)
		}
	})
}

func TestProvenByTheOwnerOrByAPeerWithHeads(t *testing.T) {
	now := time.Now()
	other := peer.ID("other")
	for name, test := range map[string]struct {
		peers   []replicate.Peer
		missing int
		want    time.Time
	}{
		"nobody":                      {},
		"the owner":                   {peers: []replicate.Peer{{ID: owner, Open: true, InSync: now}}, want: now},
		"the owner, later":            {peers: []replicate.Peer{{ID: owner, InSync: now}}, want: now},
		"another peer":                {peers: []replicate.Peer{{ID: other, InSync: now, Exchanged: now, Heads: 1}}, want: now},
		"another, while owner open":   {peers: []replicate.Peer{{ID: other, InSync: now, Exchanged: now, Heads: 1}, {ID: owner, Open: true}}},
		"another, empty":              {peers: []replicate.Peer{{ID: other, InSync: now, Exchanged: now}}},
		"another, exchanged since":    {peers: []replicate.Peer{{ID: other, InSync: now, Exchanged: now.Add(1), Heads: 1}}},
		"not comparable":              {peers: []replicate.Peer{{ID: owner, Open: true, By: replicate.NotComparable, Exchanged: now}}, want: now},
		"not comparable, one missing": {peers: []replicate.Peer{{ID: owner, Open: true, By: replicate.NotComparable, Exchanged: now}}, missing: 1},
	} {
		status := replicate.Status{Peers: test.peers, Missing: make([]replicate.Missing, test.missing)}
		if got := proven(status, owner); !got.Equal(test.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
