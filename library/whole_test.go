package library_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ptest "github.com/libp2p/go-libp2p/core/test"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// staged is a replicator that says of each database what a test says. The databases
// are made by the test, which puts into them what "comes".
type staged struct {
	mu       sync.Mutex
	statuses map[string]replicate.Status // by address
	version  map[string]int              // of a status
	taken    map[string]int              // version of the status that a follower took and goes on
	fetched  []string                    // addresses of databases that were to be fetched
	missing  []replicate.Missing         // of databases that a test says something of
	changed  chan struct{}
	held     chan struct{} // while it is open, no store is brought; nil for not held
}

func newStaged() *staged {
	return &staged{statuses: make(map[string]replicate.Status), version: make(map[string]int), taken: make(map[string]int), changed: make(chan struct{})}
}

func (s *staged) Open(_ context.Context, address string, _ orbit.OpenOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched = append(s.fetched, address)
	return nil
}

func (s *staged) Pending() []string {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	return nil
}

func (s *staged) Ask(string) {}

func (s *staged) Status(_ context.Context, address string) (replicate.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses[address], nil
}

func (s *staged) Drop(context.Context, string, func(context.Context, []block.Block) error) error {
	return nil
}

func (s *staged) Follow(ctx context.Context, address string) iter.Seq2[replicate.Status, error] {
	return func(yield func(replicate.Status, error) bool) {
		for {
			s.mu.Lock()
			status, version, changed := s.statuses[address], s.version[address], s.changed
			s.mu.Unlock()
			if !yield(status, nil) {
				return
			}
			s.mu.Lock()
			s.taken[address] = version
			s.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// say changes what is known of a database that is open.
func (s *staged) say(address string, peers ...replicate.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses[address] = replicate.Status{Address: address, State: replicate.Open, Peers: peers, Missing: s.missing}
	s.version[address]++
	close(s.changed)
	s.changed = make(chan struct{})
}

// sayMissing is sayInVain of a database of which a block is missing.
func (s *staged) sayMissing(t testing.TB, address string, peers ...replicate.Peer) {
	t.Helper()
	s.missing = []replicate.Missing{{Hash: "zdpu"}}
	s.sayInVain(t, address, peers...)
	s.missing = nil
}

// sayInVain is say, and waits until a follower took that and goes on waiting.
func (s *staged) sayInVain(t testing.TB, address string, peers ...replicate.Peer) {
	t.Helper()
	s.say(address, peers...)
	eventually(t, "that is not enough", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.taken[address] == s.version[address]
	})
}

// has reports whether a database was to be fetched.
func (s *staged) has(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.fetched, address)
}

// hold has no store brought until the function is called that it returns.
func (s *staged) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.held = held
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.held = nil
		s.mu.Unlock()
		close(held)
	})
}

// inStep is a peer that has a database open and is in step.
func inStep(id peer.ID) replicate.Peer {
	now := time.Now()
	return replicate.Peer{ID: id, Open: true, Exchanged: now, InStep: now, Heads: 1}
}

// stage is a home with a companion whose stores come as the test says.
type stage struct {
	*home
	*staged
	t            testing.TB
	them         peer.ID
	user, counts *orbit.KeyValue
	scores       *orbit.Documents

	userAt, scoresAt, countsAt string // addresses
}

// newStage returns a home with a companion that has nothing in its stores yet.
func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{home: newHome(t), staged: newStaged(), t: t, them: ptest.RandPeerIDFatal(t)}
	s.scores, s.scoresAt = s.documents(t, "theirs", "hash")
	for name, to := range map[string]struct {
		kv      **orbit.KeyValue
		address *string
	}{"them": {&s.user, &s.userAt}, "their counts": {&s.counts, &s.countsAt}} {
		db, err := s.orbit.Create(t.Context(), name, orbit.Options{Type: orbit.TypeKeyValue})
		must(t, err)
		*to.kv, err = db.KeyValue()
		must(t, err)
		*to.address = db.Address()
	}
	s.start()
	return s
}

// start starts the library anew.
func (s *stage) start() {
	s.t.Helper()
	s.with(s.t, func(c *library.Config) { c.Replicator = s.staged })
}

// follow makes the peer a companion.
func (s *stage) follow(name string) {
	s.t.Helper()
	must(s.t, s.Wait(testContext(s.t)))
	_, err := s.keyValue(s.t, library.CompanionsName).Put(s.t.Context(), s.userAt, map[string]any{"nodeId": s.them.String(), "username": name})
	must(s.t, err)
	eventually(s.t, "it is a companion", func() bool { _, err := s.Companion(s.t.Context(), s.them); return err == nil })
}

// tells puts fields into the user store, all at once.
func (s *stage) tells(fields ...string) {
	s.t.Helper()
	var pairs []orbit.Pair
	for i := 0; i < len(fields); i += 2 {
		pairs = append(pairs, orbit.Pair{Key: fields[i], Value: fields[i+1]})
	}
	_, err := s.user.PutMany(s.t.Context(), slices.Values(pairs))
	must(s.t, err)
}

// adds puts pieces into the store of pieces.
func (s *stage) adds(hashes ...string) {
	s.t.Helper()
	for _, hash := range hashes {
		_, err := s.scores.Put(s.t.Context(), map[string]any{"hash": hash, "title": "of " + hash})
		must(s.t, err)
	}
}

// incomplete returns the stores of which not all is here, with what is missing.
func (s *stage) incomplete() string {
	c, err := s.Companion(s.t.Context(), s.them)
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, i := range c.Incomplete {
		list = append(list, i.Store+": "+i.Err.Error())
	}
	return strings.Join(list, ", ")
}

// await waits until these stores are incomplete.
func (s *stage) await(want string) {
	s.t.Helper()
	eventually(s.t, "incomplete: "+want, func() bool { return s.incomplete() == want })
}

// becomesWhole says that a store is in step with the owner until these stores are
// incomplete: a time before the store began to be followed is no proof.
func (s *stage) becomesWhole(address, incomplete string) {
	s.t.Helper()
	eventually(s.t, "incomplete: "+incomplete, func() bool {
		s.say(address, inStep(s.them))
		return s.incomplete() == incomplete
	})
}

const partial = ": not complete yet: it was not in sync with any peer"

// wholeStage returns a stage on which all stores of the companion are whole.
func wholeStage(t testing.TB, pieces ...string) *stage {
	t.Helper()
	s := newStage(t)
	s.adds(pieces...)
	s.tells(library.KeyUsername, "alice", library.KeyNodeID, s.them.String(), library.KeyPieces, s.scoresAt, library.KeyPractice, s.countsAt)
	s.follow("alice")
	for _, address := range []string{s.userAt, s.scoresAt, s.countsAt} {
		s.say(address, inStep(s.them))
	}
	// A time before the store began to be followed is no proof.
	eventually(t, "all is here", func() bool {
		for _, address := range []string{s.userAt, s.scoresAt, s.countsAt} {
			s.say(address, inStep(s.them))
		}
		return s.incomplete() == ""
	})
	return s
}

// troubles returns what is wrong with the companion's stores.
func (s *stage) troubles() string {
	var list []string
	for _, t := range s.home.troubles(s.t, s.them) {
		list = append(list, t.Store+": "+t.Err.Error())
	}
	return strings.Join(list, ", ")
}

func TestUserStoreIsNotActedOnBeforeItIsWhole(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	other, scores := ptest.RandPeerIDFatal(t).String(), s.absent(t, "scores")
	s.tells(library.KeyUsername, "mallory", library.KeyPieces, scores)
	s.follow("")
	s.await("user" + partial)
	s.sayInVain(t, s.userAt)
	if c, err := s.Companion(t.Context(), s.them); c.Name != "" || c.NameNow != "" || c.PiecesAddr != "" || c.Ready || err != nil {
		t.Errorf("something is told of it: %+v, %v", c, err)
	}
	s.tells(library.KeyNodeID, other)
	s.say(s.userAt, inStep(s.them))
	eventually(t, "it is said whose store it is", func() bool { return strings.Contains(s.troubles(), other) })
	if s.has(scores) {
		t.Error("the pieces were fetched before all was here that the user store says")
	}
	s.tells(library.KeyNodeID, s.them.String())
	eventually(t, "the pieces are fetched once it says the truth", func() bool { return s.has(scores) && s.troubles() == "" })
}

func TestUserStoreIsWholeByItsOwnerOrWhoHasIt(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.tells(library.KeyUsername, "alice", library.KeyPieces, s.absent(t, "scores"))
	old := inStep(s.them)
	other := func(change func(p *replicate.Peer)) replicate.Peer {
		p := inStep(ptest.RandPeerIDFatal(t))
		change(&p)
		return p
	}
	s.follow("alice")
	s.await("user" + partial)
	for what, peers := range map[string][]replicate.Peer{
		"nobody":                          {},
		"the owner, before it was added":  {old},
		"a peer that is fetching it":      {other(func(p *replicate.Peer) { p.Heads = 0 })},
		"a peer that has more by now":     {other(func(p *replicate.Peer) { p.Exchanged = p.InStep.Add(1) })},
		"another, and not with the owner": {other(func(*replicate.Peer) {}), {ID: s.them, Open: true}},
	} {
		s.sayInVain(t, s.userAt, peers...)
		if got := s.incomplete(); got != "user"+partial {
			t.Errorf("in step with %s: incomplete are %q", what, got)
		}
	}
	s.say(s.userAt, other(func(*replicate.Peer) {}))
	s.await("pieces: not here yet")

	// A daemon of an earlier version is never called in step.
	older := newStage(t)
	older.tells(library.KeyPieces, older.absent(t, "scores"))
	older.follow("alice")
	older.await("user" + partial)
	peer := replicate.Peer{ID: older.them, Open: true, By: replicate.NotComparable, Exchanged: time.Now(), Heads: 1}
	older.sayMissing(t, older.userAt, peer)
	older.say(older.userAt, peer)
	older.await("pieces: not here yet")
}

func TestPieceIsNewsOnceItsStoreWasWhole(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.tells(library.KeyNodeID, s.them.String(), library.KeyPieces, s.scoresAt)
	news := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for e := range s.Watch(ctx, func() { close(ready) }) {
			if e.Kind == library.EventPiece {
				news <- e.Hash
			}
		}
	})
	defer watching.Wait()
	defer cancel()
	<-ready
	s.follow("alice")
	s.await("user" + partial)
	s.becomesWhole(s.userAt, "pieces"+partial)
	s.adds("QmOld", "QmAlsoOld")
	eventually(t, "they are here", func() bool { c, _ := s.Companion(t.Context(), s.them); return c.Pieces == 2 })
	s.becomesWhole(s.scoresAt, "")
	s.adds("QmNew")
	if got := <-news; got != "QmNew" {
		t.Errorf("%s is told as news", got)
	}
}

func TestPartOfACompanionsLibraryIsShownAsAPart(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.tells(library.KeyNodeID, s.them.String(), library.KeyPieces, s.scoresAt, library.KeyPractice, s.countsAt)
	s.adds("QmA")
	_, err := s.counts.Put(t.Context(), "QmA/them", 2)
	must(t, err)
	begin := time.Now()
	check := func(when, want string, more bool) {
		t.Helper()
		s.await(want)
		eventually(t, "what is here is read", func() bool {
			c, err := s.Companion(t.Context(), s.them)
			must(t, err)
			n, err := s.Practised(t.Context(), "QmA")
			must(t, err)
			return c.Ready && c.Pieces == 1 && n.All == 2
		})
		c, err := s.Companion(t.Context(), s.them)
		if must(t, err); c.Whole(begin) != !strings.Contains(want, "pieces") {
			t.Errorf("%s: %+v, whole: %v", when, c, c.Whole(begin))
		}
		pieces, troubles, err := s.Pieces(t.Context(), library.Query{All: true})
		must(t, err)
		for p, err := range pieces {
			if must(t, err); p.Hash != "QmA" || p.Practice.All != 2 {
				t.Errorf("%s: %+v", when, p)
			}
		}
		var marked []string
		for _, trouble := range troubles {
			wantErr(t, trouble.Err, library.ErrPartial)
			marked = append(marked, trouble.Store+partial)
		}
		slices.Sort(marked)
		if got := strings.Join(marked, ", "); got != want {
			t.Errorf("%s, %q is marked, want %q", when, got, want)
		}
		n, err := s.Practised(t.Context(), "QmA")
		if must(t, err); n.All != 2 || n.More != more {
			t.Errorf("%s, %+v", when, n)
		}
	}
	s.follow("alice")
	s.await("user" + partial)
	both := "pieces" + partial + ", practice" + partial
	s.becomesWhole(s.userAt, both)
	check("on its way", both, true)
	s.start()
	check("after a restart", both, true)
	s.becomesWhole(s.scoresAt, "practice"+partial)
	check("the pieces whole", "practice"+partial, true)
	s.becomesWhole(s.countsAt, "")
	check("all whole", "", false)
	begin = time.Time{}
	for _, address := range []string{s.userAt, s.scoresAt, s.countsAt} {
		s.say(address)
	}
	s.start()
	check("whole, and nobody is there", "", false)
}

func TestWholeIsProvenSinceATime(t *testing.T) {
	t.Parallel()
	s := wholeStage(t, "QmA")
	whole := func(since time.Time) bool {
		c, err := s.Companion(t.Context(), s.them)
		must(t, err)
		return c.Whole(since)
	}
	now := time.Now()
	if !whole(time.Time{}) || whole(now) {
		t.Errorf("whole at some time: %v; whole now: %v", whole(time.Time{}), whole(now))
	}
	s.say(s.scoresAt, inStep(s.them))
	if whole(now) {
		t.Error("whole, and the user store may say otherwise now")
	}
	s.say(s.userAt, inStep(s.them))
	if !whole(now) {
		t.Error("not whole")
	}
	s.adds("QmB")
	eventually(t, "what came is found", func() bool {
		c, err := s.Companion(t.Context(), s.them)
		must(t, err)
		if c.Whole(now) && c.Pieces != 2 {
			t.Fatalf("whole, with %d pieces of 2", c.Pieces)
		}
		return c.Pieces == 2 && c.Whole(now)
	})
	other := ptest.RandPeerIDFatal(t)
	s.say(s.scoresAt, inStep(other))
	if c, err := s.Companion(t.Context(), s.them); c.InStepWith != other || err != nil {
		t.Errorf("in step with %s, %v", c.InStepWith, err)
	}
}

func TestStoresThatAreReadAfterAStartAreWaitedFor(t *testing.T) {
	t.Parallel()
	s := wholeStage(t, "QmAlice1", "QmAlice2")
	_, err := s.counts.Put(t.Context(), "QmAlice1/them", 5)
	must(t, err)
	s.tells(library.KeyUsername, "anna")
	eventually(t, "the new name is here", func() bool { c, _ := s.Companion(t.Context(), s.them); return c.NameNow == "anna" })
	for what, look := range map[string]func() error{
		"the name that changed": func() error {
			if id, err := s.PeerNamed(t.Context(), "alice"); !errors.Is(err, library.ErrChangedName) {
				return fmt.Errorf("alice is %s, %v", id, err)
			}
			return nil
		},
		"the counts": func() error {
			if n, err := s.Practised(t.Context(), "QmAlice1"); n.All != 5 || n.More || err != nil {
				return fmt.Errorf("%+v, %v", n, err)
			}
			return nil
		},
		"the pieces": func() error {
			if got := s.list(t, library.Query{All: true}); len(got) != 2 {
				return fmt.Errorf("%q", got)
			}
			return nil
		},
		"the only piece": func() error {
			_, err := s.Resolve(t.Context(), "QmAlice", true)
			if _, ambiguous := errors.AsType[*library.AmbiguousError](err); !ambiguous {
				return err
			}
			return nil
		},
	} {
		var release func()
		s.with(t, func(c *library.Config) { c.Replicator, release = s.staged, s.hold() })
		go release()
		if err := look(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestStoresThatAreReadForTooLongAreNamed(t *testing.T) {
	t.Parallel()
	s := wholeStage(t, "QmAlice1")
	s.shelve(t, "QmAl", "mine", "QmAlice2", "mine")
	var release func()
	s.with(t, func(c *library.Config) { c.Replicator, c.Patience, release = s.staged, time.Millisecond, s.hold() })
	defer release()
	must(t, s.Wait(testContext(t)))
	s.await("user: being read")
	_, troubles, err := s.Pieces(t.Context(), library.Query{All: true})
	must(t, err)
	var named []string
	for _, trouble := range troubles {
		wantErr(t, trouble.Err, library.ErrBeingRead)
		named = append(named, trouble.Store)
	}
	if slices.Sort(named); !slices.Equal(named, []string{library.PiecesName, library.PracticeName}) {
		t.Errorf("%q are named", named)
	}
	if n, err := s.Practise(t.Context(), "QmAl", 1); !n.More || n.All != 1 || err != nil {
		t.Errorf("%+v, %v", n, err)
	}
	if p, err := s.Resolve(t.Context(), "QmAl", true); p.Hash != "QmAl" || err != nil {
		t.Errorf("%s, %v", p.Hash, err)
	}
	for _, given := range []string{"QmAlice", cidOf(prelude).String()} { // alice may have it, too, or alone
		_, err := s.Resolve(t.Context(), given, true)
		wantErr(t, err, library.ErrBeingRead)
	}
	if p, err := s.Resolve(t.Context(), "QmAlice", false); p.Hash != "QmAlice2" || err != nil {
		t.Errorf("among one's own: %s, %v", p.Hash, err)
	}
}

// backlog is messages of which the last one comes late.
type backlog struct {
	inbox
	last chan *message.Message
}

func (b backlog) Listen(ctx context.Context, f message.Filter) iter.Seq2[*message.Message, error] {
	return func(yield func(*message.Message, error) bool) {
		for _, m := range b.inbox {
			if !yield(m, nil) {
				return
			}
		}
		select {
		case m := <-b.last:
			if !yield(m, nil) {
				return
			}
		case <-ctx.Done():
			return
		}
		f.Ready()
		<-ctx.Done()
	}
}

func TestOffersAreToldOnceAllMessagesWereLookedAt(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	stranger := newHost(t)
	offer := func(from peer.ID, address string) *message.Message {
		return &message.Message{From: from, Data: fmt.Appendf(nil, `{"userDb":%q}`, address), Received: time.Now()}
	}
	messages := backlog{inbox{offer(ptest.RandPeerIDFatal(t), h.absent(t, "first"))}, make(chan *message.Message, 1)}
	h.with(t, func(c *library.Config) { c.Messages = messages })
	brief, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.Offers(brief)
	wantErr(t, err, library.ErrBeingRead)
	_, err = h.AddCompanion(testContext(t), infoOf(newMask(t, card.Card{User: h.absent(t, "shown")}).host))
	must(t, err) // a card says it, whatever is offered
	must(t, h.host.Connect(testContext(t), infoOf(stranger)))
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = h.AddCompanion(soon, infoOf(stranger))
	wantErr(t, err, library.ErrBeingRead)
	address := h.absent(t, "last")
	messages.last <- offer(stranger.ID(), address)
	_, err = h.AddCompanion(testContext(t), infoOf(stranger))
	must(t, err)
	eventually(t, "its offer is taken up", func() bool { c, _ := h.Companion(t.Context(), stranger.ID()); return c.User == address })
	if offers, err := h.Offers(t.Context()); len(offers) != 1 || err != nil {
		t.Errorf("%+v, %v", offers, err)
	}
}

// noting is a replicator that notes what it is to fetch.
type noting struct {
	*replicate.Replicator
	mu      sync.Mutex
	fetched []string
}

func (n *noting) Open(ctx context.Context, address string, opts orbit.OpenOptions) error {
	n.mu.Lock()
	n.fetched = append(n.fetched, address)
	n.mu.Unlock()
	return n.Replicator.Open(ctx, address, opts)
}

func TestLibraryOfAnotherPeerIsNotEvenFetched(t *testing.T) {
	t.Parallel()
	a, evil := newNode(t), newNode(t)
	other := ptest.RandPeerIDFatal(t).String()
	evil.says(t, library.KeyNodeID, other) // behind all else that its store says
	note := &noting{Replicator: a.replicator}
	a.with(t, func(c *library.Config) { c.Replicator = note })
	a.add(evil)
	eventually(t, "it is said whose store it is", func() bool {
		troubles := a.troubles(t, evil.host.ID())
		return len(troubles) == 1 && strings.Contains(troubles[0].Err.Error(), other)
	})
	note.mu.Lock()
	defer note.mu.Unlock()
	if want := []string{evil.own(t, library.UserName).Address()}; !slices.Equal(note.fetched, want) {
		t.Errorf("%q were fetched, want %q", note.fetched, want)
	}
}

func TestNameThatIsTakenLaterIsNotThatOfACompanion(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.tells(library.KeyNodeID, s.them.String())
	s.follow("")
	s.await("user" + partial)
	s.sayInVain(t, s.userAt) // it is followed from now on
	s.say(s.userAt, inStep(s.them))
	s.await("pieces: its user database names none")
	s.tells(library.KeyUsername, "alice")
	for _, when := range []string{"now", "after a restart"} {
		eventually(t, "its name is shown", func() bool { return s.NameOf(s.them) == "alice" })
		if id, err := s.PeerNamed(t.Context(), "alice"); !errors.Is(err, library.ErrUnknownName) {
			t.Errorf("%s, alice is %s, %v", when, id, err)
		}
		s.start()
		must(t, s.Wait(testContext(t)))
	}
}
