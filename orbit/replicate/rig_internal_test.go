package replicate

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/keystore"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/test/loopback"
)

// rig is a Replicator on a host, with what it uses.
type rig struct {
	*Replicator
	t      testing.TB
	orbit  *orbit.Orbit
	host   host.Host
	router *router.Router
}

func newRig(t testing.TB, as ...func(*orbit.Config, *Config)) *rig {
	t.Helper()
	keys := keystore.NewMemKeystore()
	for _, name := range []string{"orbitdb-root", "orbitdb-signing"} {
		if err := identity.Generate(keys, name); err != nil {
			t.Fatal(err)
		}
	}
	disk := storetest.NewDisk()
	inner := orbit.Config{Store: store.New(disk, "/orbit"), Keystore: keys}
	h := loopback.Host(t)
	ctx, cancel := context.WithCancel(context.Background())
	r, err := router.New(ctx, h, router.Options{SupportsBursts: func(peer.ID) bool { return true }})
	check(t, err)
	c := Config{Store: store.New(disk, "/replicate"), Host: h, Router: r}
	for _, f := range as {
		f(&inner, &c)
	}
	o, err := orbit.New(ctx, inner)
	check(t, err)
	c.Orbit = o
	one, err := New(ctx, c)
	check(t, err)
	t.Cleanup(func() {
		one.Close()
		o.Close()
		h.Close()
		cancel()
	})
	check(t, one.awaitLoaded(t.Context()))
	return &rig{one, t, o, h, r}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create creates a database of events to which anybody may write.
func (r *rig) create(name string) *orbit.Database {
	r.t.Helper()
	db, err := r.orbit.Create(r.t.Context(), name, orbit.Options{Access: orbit.Access{Write: []string{manifest.Anyone}}})
	check(r.t, err)
	return db
}

func (r *rig) add(db *orbit.Database, texts ...any) {
	r.t.Helper()
	events, err := db.Events()
	check(r.t, err)
	_, err = events.AddMany(r.t.Context(), func(yield func(any) bool) {
		for _, text := range texts {
			if !yield(text) {
				return
			}
		}
	})
	check(r.t, err)
}

// started returns the replica of a database, which is open.
func (r *rig) started(address string) *replica {
	r.t.Helper()
	rp, release := r.acquire(address)
	if rp == nil {
		r.t.Fatalf("%s is not replicated", address)
	}
	defer release()
	<-rp.tried
	return rp
}

// restLater stops what can rest at a later time.
func (r *rig) restLater(d time.Duration) (running int) { return r.restIdle(time.Now().Add(d)) }

// patience is the time after which a test fails; a test that passes does not
// wait for it.
const patience = 30 * time.Second

// within waits for a condition.
func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never: %s", what)
		}
	}
}

// goroutinesOf returns how many goroutines run a function whose name contains a
// text.
func goroutinesOf(name string) int {
	b := make([]byte, 1<<24)
	n := 0
	for one := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.Contains(one, name) {
			n++
		}
	}
	return n
}

// reader returns a host that speaks no inventory, as the Replicator knows.
func (r *rig) reader() host.Host {
	r.t.Helper()
	h := loopback.Host(r.t)
	loopback.Connect(r.t, h, r.host)
	within(r.t, "the reader is identified", func() bool { return !inventory.MaySpeak(r.host, h.ID()) })
	return h
}

// daemon is a peer that speaks the inventory protocol and nothing else. It says
// that it has some databases, and remembers what it hears of them.
type daemon struct {
	host    host.Host
	session *inventory.Session

	mu      sync.Mutex
	states  map[inventory.Key]inventory.State
	heard   map[inventory.Key]inventory.State
	entries map[string]int // by CID: how often it was sent
}

// newDaemon returns a daemon with a session with a Replicator.
func newDaemon(t testing.TB, to *rig, has ...inventory.Key) *daemon {
	t.Helper()
	d := &daemon{
		host:    loopback.Host(t),
		states:  make(map[inventory.Key]inventory.State),
		heard:   make(map[inventory.Key]inventory.State),
		entries: make(map[string]int),
	}
	for _, k := range has {
		d.states[k] = inventory.State{1}
	}
	loopback.Connect(t, d.host, to.host)
	d.begin(t, to)
	return d
}

// begin begins a session.
func (d *daemon) begin(t testing.TB, to *rig) (ended <-chan error) {
	t.Helper()
	s, err := inventory.Open(t.Context(), d.host, to.host.ID(), inventory.Config{Catalog: d, Handler: d, Passes: inventory.NewPasses()})
	check(t, err)
	d.session = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { done <- s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return done
}

func (d *daemon) Len() int { return len(d.states) }

func (d *daemon) Keys() iter.Seq[inventory.Key] {
	return func(yield func(inventory.Key) bool) {
		for k := range d.states {
			if !yield(k) {
				return
			}
		}
	}
}

func (d *daemon) State(_ context.Context, k inventory.Key) inventory.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.states[k]
}

func (d *daemon) Common(k inventory.Key, theirs inventory.State) { d.Changed(k, theirs, nil) }

func (d *daemon) Changed(k inventory.Key, theirs inventory.State, entries []block.Block) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard[k] = theirs
	for _, b := range entries {
		d.entries[b.Hash]++
	}
}

func (d *daemon) Gone(k inventory.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.heard, k)
}

// has returns the last state of a database that the daemon heard.
func (d *daemon) has(k inventory.Key) inventory.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.heard[k]
}

// received returns the number of entries that the daemon was sent.
func (d *daemon) received() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, times := range d.entries {
		n += times
	}
	return n
}

// tell tells a state and entries.
func (d *daemon) tell(k inventory.Key, s inventory.State, entries ...block.Block) {
	d.mu.Lock()
	d.states[k] = s
	d.mu.Unlock()
	d.session.Tell(k, s, entries)
}

// link returns the link of a Replicator with the daemon.
func (r *rig) link(p peer.ID) *link {
	r.links.mu.RLock()
	defer r.links.mu.RUnlock()
	return r.links.all[p]
}

// linked waits until both sides know that both have a database.
func (d *daemon) linked(t testing.TB, to *rig, k inventory.Key) *link {
	t.Helper()
	within(t, "both have the database", func() bool {
		_, here := d.session.Common(k)
		_, there := to.links.common(d.host.ID(), k)
		return here && there
	})
	return to.link(d.host.ID())
}

func named(i int) string { return fmt.Sprint("database ", i) }
