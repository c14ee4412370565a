package replicate

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/space/spacetest"
)

func TestReplicaRestsWhenNothingIsToDo(t *testing.T) {
	r := newRig(t)
	rp := r.started(r.create("gigs").Address())
	if r.restLater(0) != 1 {
		t.Error("a replica that had something to do a moment ago rests")
	}
	if r.restLater(restAfter) != 0 || r.find(rp.address) != nil {
		t.Fatal("a replica with nothing to do runs")
	}
	<-rp.done
	within(t, "the end is forgotten", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ending) == 0
	})
	if again := r.started(rp.address); again == rp || again.database() == nil {
		t.Error("the database is not open again")
	}
}

func TestReplicaDoesNotRestWhile(t *testing.T) {
	r := newRig(t)
	reader := r.reader()
	for name, begin := range map[string]func(rp *replica) (end func()){
		"it is held": func(rp *replica) func() {
			_, release := r.acquire(rp.address)
			return release
		},
		"a peer is subscribed": func(rp *replica) func() {
			r.interest.subscription(reader.ID(), rp.address, true)
			return func() { r.interest.subscription(reader.ID(), rp.address, false) }
		},
		"an exchange runs": func(rp *replica) func() {
			rp.peers.remember("other")
			rp.peers.refresh("other")
			return func() { rp.peers.finish("other", nil) }
		},
		"blocks are requested": func(rp *replica) func() {
			rp.wants.mu.Lock()
			defer rp.wants.mu.Unlock()
			rp.wants.wanted["a"] = true
			return func() { rp.wants.remove("a") }
		},
		"a transfer runs or waits": func(rp *replica) func() {
			rp.slot.announce()
			return rp.slot.withdraw
		},
	} {
		t.Run(name, func(t *testing.T) {
			rp := r.started(r.create(name).Address())
			end := begin(rp)
			if r.restLater(time.Hour); r.find(rp.address) != rp {
				t.Fatal("it rests")
			}
			end()
			if r.restLater(time.Hour); r.find(rp.address) != nil {
				t.Error("it does not rest afterwards")
			}
		})
	}
}

// The topic of a database is subscribed to while a peer is, and for a while
// after the last one left.
func TestTopicIsLeftAfterTheLastSubscriber(t *testing.T) {
	r := newRig(t)
	address := r.create("gigs").Address()
	one, two := r.reader(), r.reader()
	isFollowed := func() bool { return slices.Contains(r.router.GetTopics(), address) }
	r.started(address)
	if isFollowed() {
		t.Error("a topic is subscribed to for nobody")
	}
	r.interest.subscription(one.ID(), address, true)
	r.interest.subscription(two.ID(), address, true)
	within(t, "the topic is subscribed to", isFollowed)
	r.interest.subscription(one.ID(), address, false)
	if r.restLater(time.Hour) != 1 {
		t.Error("the replica rests although a peer is subscribed")
	}
	r.interest.subscription(two.ID(), address, false)
	if r.restLater(lingerFor-time.Second) != 1 || !isFollowed() {
		t.Error("the topic is left at once")
	}
	// An exchange of heads may still run.
	within(t, "the replica rests", func() bool { return r.restLater(lingerFor+time.Second) == 0 })
	within(t, "the topic is left", func() bool { return !isFollowed() })
}

// Of many replicas with nothing to do, maxIdle go on for a moment: those that
// were used last. A replica that was used since they were looked at goes on in
// any case.
func TestFewIdleReplicasRun(t *testing.T) {
	r := newRig(t)
	const beyond = 8
	var all []*replica
	for i := range maxIdle + beyond {
		all = append(all, r.started(r.create(named(i)).Address()))
	}
	before := time.Now().Add(-time.Minute)
	r.restIdle(before)
	if n := len(r.running()); n != len(all) {
		t.Errorf("%d of %d replicas run that were used since", n, len(all))
	}
	r.restLater(0)
	for i, rp := range all {
		if runs := r.find(rp.address) == rp; runs != (i >= beyond) {
			t.Errorf("replica %d of %d runs: %v", i, len(all), runs)
		}
	}
	if r.restLater(restAfter) != 0 {
		t.Error("some replicas run")
	}
	within(t, "no goroutine is left", func() bool { return goroutinesOf("replicate.(*replica)") == 0 })
}

func TestStatusSurvivesARest(t *testing.T) {
	r := newRig(t)
	address := r.create("gigs").Address()
	rp := r.started(address)
	at := time.Now()
	hash := block.Hash([]byte("refused"))
	rp.refusals.add([]peer.ID{"other"}, hash, entry.ErrInvalid)
	rp.peers.remember("other")
	rp.peers.exchanged("other", nil, agreement{ByState, true}, true, true)
	rp.setFull(fullness{orbit.ErrQuotaFull, r.cfg.Orbit.Freed()})
	r.restLater(restAfter)
	same := func(when string, s Status) {
		t.Helper()
		if len(s.Refused) != 1 || s.Refused[0].Hash != hash || len(s.Peers) != 1 || s.Peers[0].InSync.Before(at) || !errors.Is(s.Full, orbit.ErrQuotaFull) {
			t.Errorf("%s: %+v", when, s)
		}
	}
	same("at rest", r.StateOf(t.Context(), address))
	n := 0
	for _, s := range r.Remarkable(t.Context()) {
		same("in the list", s)
		n++
	}
	s, err := r.Status(t.Context(), address)
	check(t, err)
	same("running again", s)
	if n != 1 || r.rested.Len() != 0 {
		t.Errorf("%d statuses are listed, %d remembered of what runs", n, r.rested.Len())
	}
}

// What excludes entries of peers is not remembered longer than it does.
func TestDatabaseIsNotFullForEver(t *testing.T) {
	disk := spacetest.New()
	r := newRig(t, func(_ *orbit.Config, c *Config) { c.Disk = disk.Disk })
	address := r.create("gigs").Address()
	rp := r.started(address)
	freed := make(chan struct{})
	rp.setFull(fullness{orbit.ErrQuotaFull, freed})
	disk.Set(0)
	r.restLater(restAfter)
	disk.Set(2 * spacetest.Floor)
	if s := r.StateOf(t.Context(), address); !errors.Is(s.Full, orbit.ErrQuotaFull) {
		t.Errorf("when the disk has space: %v", s.Full)
	}
	close(freed)
	if s := r.StateOf(t.Context(), address); s.Full != nil {
		t.Errorf("when space was freed: %v", s.Full)
	}
	if again := r.started(address); again == rp || again.isFull() != nil {
		t.Error("the replica is full when it runs again")
	}
}

// A status that needs the log is told before the database is open.
func TestStatusIsToldBeforeTheDatabaseIsOpen(t *testing.T) {
	r := newRig(t)
	rp := newReplica(r.Replicator, r.create("gigs").Address())
	rp.restore(resting{last: Status{Refused: []Refusal{{Hash: "a", Err: entry.ErrEncrypted}}}})
	if s, _ := rp.fullStatus(t.Context()); s.Encrypted || len(s.Refused) != 1 {
		t.Errorf("%+v", s)
	}
}

// A replica that is started while the one before it ends waits for its end.
func TestReplicasOfADatabaseRunOneAfterTheOther(t *testing.T) {
	r := newRig(t)
	address := r.create("gigs").Address()
	block := make(chan struct{})
	before := r.started(address)
	before.tasks.Go(func() { <-block })
	var last *replica
	for range 3 {
		r.mu.Lock()
		r.stop(r.replicas[address])
		r.mu.Unlock()
		rp, release := r.acquire(address)
		release()
		last = rp
	}
	select {
	case <-last.tried:
		t.Error("two replicas of a database run at once")
	default:
	}
	close(block)
	<-last.tried
	if last.database() == nil {
		t.Error("the database is not open")
	}
}

// However databases are opened, closed, used and let go at once, a closed one
// is not replicated afterwards, and an open one is.
func TestStormOfOpeningAndClosing(t *testing.T) {
	r := newRig(t)
	d := newDaemon(t, r)
	within(t, "there is a link", func() bool { return r.link(d.host.ID()) != nil })
	const n = 10
	var all []string
	for i := range n {
		all = append(all, r.create(named(i)).Address())
	}
	var group sync.WaitGroup
	for i, address := range all {
		group.Go(func() {
			for range 10 {
				check(t, r.Open(t.Context(), address, orbit.OpenOptions{}))
				check(t, r.CloseDatabase(t.Context(), address))
			}
			if i%2 == 0 {
				check(t, r.Open(t.Context(), address, orbit.OpenOptions{}))
			}
		})
		group.Go(func() {
			for range 50 {
				db, err := r.orbit.Find(t.Context(), address)
				check(t, err)
				r.opened(db)
				r.changed(db, 0)
				if rp, release := r.acquire(address); rp != nil {
					release()
				}
			}
		})
	}
	storm := make(chan struct{})
	var resting sync.WaitGroup
	resting.Go(func() {
		for {
			select {
			case <-storm:
				return
			default:
				r.restLater(time.Hour)
			}
		}
	})
	group.Wait()
	close(storm)
	resting.Wait()
	for i, address := range all {
		k, _ := keyOf(address)
		s := r.StateOf(t.Context(), address)
		if open := i%2 == 0; r.index.has(k) != open || (s.State == Open) != open {
			t.Errorf("database %d: replicated %v, %s", i, r.index.has(k), s.State)
		}
	}
	if r.index.Len() != n/2 {
		t.Errorf("%d databases are replicated", r.index.Len())
	}
}

// Calls that begin before the index is complete wait for it.
func TestCallsWaitForTheIndex(t *testing.T) {
	r := newRig(t)
	address := r.create("gigs").Address()
	k, _ := keyOf(address)
	r.index.remove(k)
	r.loaded = make(chan struct{})
	closed := make(chan error, 1)
	go func() { closed <- r.CloseDatabase(t.Context(), address) }()
	r.load()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
