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
	"github.com/newpieceplease/npp/test/loopback"
)

// stagedReplicator is a Replicator whose statuses a test sets. It fetches
// nothing: the test creates the databases and their content.
type stagedReplicator struct {
	mu       sync.Mutex
	statuses map[string]replicate.Status // by address
	version  map[string]int              // increases with each status
	seen     map[string]int              // last version that Follow yielded without ending
	fetched  []string                    // addresses passed to Open
	missing  []replicate.Missing         // of the statuses that are set from now on
	changed  chan struct{}
	blocked  chan struct{} // while it is open, Fetching blocks; nil to not block
}

func newStagedReplicator() *stagedReplicator {
	return &stagedReplicator{statuses: make(map[string]replicate.Status), version: make(map[string]int), seen: make(map[string]int), changed: make(chan struct{})}
}

func (s *stagedReplicator) Open(_ context.Context, address string, _ orbit.OpenOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched = append(s.fetched, address)
	return nil
}

func (s *stagedReplicator) Fetching() []string {
	s.mu.Lock()
	held := s.blocked
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	return nil
}

func (s *stagedReplicator) CompareNow(string) {}

func (s *stagedReplicator) Status(_ context.Context, address string) (replicate.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses[address], nil
}

func (s *stagedReplicator) Drop(context.Context, string, func(context.Context, []block.Block) error) error {
	return nil
}

func (s *stagedReplicator) Follow(ctx context.Context, address string) iter.Seq2[replicate.Status, error] {
	return func(yield func(replicate.Status, error) bool) {
		for {
			s.mu.Lock()
			status, version, changed := s.statuses[address], s.version[address], s.changed
			s.mu.Unlock()
			if !yield(status, nil) {
				return
			}
			s.mu.Lock()
			s.seen[address] = version
			s.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// report sets the status of a database, which is open, with its peers.
func (s *stagedReplicator) report(address string, peers ...replicate.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses[address] = replicate.Status{Address: address, State: replicate.Open, Peers: peers, Missing: s.missing}
	s.version[address]++
	close(s.changed)
	s.changed = make(chan struct{})
}

// reportMissing is reportInsufficient with a block missing.
func (s *stagedReplicator) reportMissing(t testing.TB, address string, peers ...replicate.Peer) {
	t.Helper()
	s.missing = []replicate.Missing{{Hash: "zdpu"}}
	s.reportInsufficient(t, address, peers...)
	s.missing = nil
}

// reportInsufficient is report, and waits until Follow yielded the status and
// continues.
func (s *stagedReplicator) reportInsufficient(t testing.TB, address string, peers ...replicate.Peer) {
	t.Helper()
	s.report(address, peers...)
	eventually(t, "the status is insufficient", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.seen[address] == s.version[address]
	})
}

// wasFetched reports whether Open was called for a database.
func (s *stagedReplicator) wasFetched(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.fetched, address)
}

// block makes Fetching block until the returned function is called.
func (s *stagedReplicator) block() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.blocked = held
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.blocked = nil
		s.mu.Unlock()
		close(held)
	})
}

// inSync returns a peer that has a database open and is in sync.
func inSync(id peer.ID) replicate.Peer {
	now := time.Now()
	return replicate.Peer{ID: id, Open: true, Exchanged: now, InSync: now, Heads: 1}
}

// stagedCompanion is a library with a companion whose databases the test
// controls.
type stagedCompanion struct {
	*testLibrary
	*stagedReplicator
	t            testing.TB
	them         peer.ID
	user, counts *orbit.KeyValue
	scores       *orbit.Documents

	userAt, scoresAt, countsAt string // addresses
}

// newStagedCompanion returns a library with a companion whose databases are
// empty.
func newStagedCompanion(t testing.TB) *stagedCompanion {
	t.Helper()
	s := &stagedCompanion{testLibrary: newTestLibrary(t), stagedReplicator: newStagedReplicator(), t: t, them: ptest.RandPeerIDFatal(t)}
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

// start starts the library again.
func (s *stagedCompanion) start() {
	s.t.Helper()
	s.reopenWith(s.t, func(c *library.Config) { c.Replicator = s.stagedReplicator })
}

// addRecord adds the companion to the companions database.
func (s *stagedCompanion) addRecord(name string) {
	s.t.Helper()
	must(s.t, s.Wait(testContext(s.t)))
	_, err := s.keyValue(s.t, library.CompanionsName).Put(s.t.Context(), s.userAt, map[string]any{"nodeId": s.them.String(), "username": name})
	must(s.t, err)
	eventually(s.t, "it is a companion", func() bool { _, err := s.Companion(s.t.Context(), s.them); return err == nil })
}

// putProfile puts fields into the user database in one batch.
func (s *stagedCompanion) putProfile(fields ...string) {
	s.t.Helper()
	var pairs []orbit.Pair
	for i := 0; i < len(fields); i += 2 {
		pairs = append(pairs, orbit.Pair{Key: fields[i], Value: fields[i+1]})
	}
	_, err := s.user.PutMany(s.t.Context(), slices.Values(pairs))
	must(s.t, err)
}

// putPieces puts pieces into the pieces database.
func (s *stagedCompanion) putPieces(hashes ...string) {
	s.t.Helper()
	for _, hash := range hashes {
		_, err := s.scores.Put(s.t.Context(), map[string]any{"hash": hash, "title": "of " + hash})
		must(s.t, err)
	}
}

// incomplete returns the incomplete databases with their errors.
func (s *stagedCompanion) incomplete() string {
	c, err := s.Companion(s.t.Context(), s.them)
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, i := range c.Incomplete {
		list = append(list, i.Database+": "+i.Err.Error())
	}
	return strings.Join(list, ", ")
}

// awaitIncomplete waits until these databases are incomplete.
func (s *stagedCompanion) awaitIncomplete(want string) {
	s.t.Helper()
	eventually(s.t, "incomplete: "+want, func() bool { return s.incomplete() == want })
}

// complete reports a database as in sync with its owner until these databases
// are incomplete. It reports repeatedly, because only times after the start
// count.
func (s *stagedCompanion) complete(address, incomplete string) {
	s.t.Helper()
	eventually(s.t, "incomplete: "+incomplete, func() bool {
		s.report(address, inSync(s.them))
		return s.incomplete() == incomplete
	})
}

const partial = ": not complete yet: it was not in sync with any peer"

// newCompleteCompanion returns a library whose companion has complete
// databases.
func newCompleteCompanion(t testing.TB, pieces ...string) *stagedCompanion {
	t.Helper()
	s := newStagedCompanion(t)
	s.putPieces(pieces...)
	s.putProfile(library.KeyUsername, "alice", library.KeyNodeID, s.them.String(), library.KeyPieces, s.scoresAt, library.KeyPractice, s.countsAt)
	s.addRecord("alice")
	for _, address := range []string{s.userAt, s.scoresAt, s.countsAt} {
		s.report(address, inSync(s.them))
	}
	// Only times after the databases were followed count.
	eventually(t, "all databases are complete", func() bool {
		for _, address := range []string{s.userAt, s.scoresAt, s.countsAt} {
			s.report(address, inSync(s.them))
		}
		return s.incomplete() == ""
	})
	eventually(t, "the record names the databases", func() bool {
		kv, err := s.database(t, library.CompanionsName).KeyValue()
		must(t, err)
		item, err := kv.Get(t.Context(), s.userAt)
		must(t, err)
		record := item.Value.String()
		return strings.Contains(record, s.scoresAt) && strings.Contains(record, s.countsAt)
	})
	return s
}

// problems returns the problems of the companion's databases.
func (s *stagedCompanion) problems() string {
	var list []string
	for _, t := range s.testLibrary.problemsOf(s.t, s.them) {
		list = append(list, t.Database+": "+t.Err.Error())
	}
	return strings.Join(list, ", ")
}

func TestIncompleteUserDatabaseIsIgnored(t *testing.T) {
	t.Parallel()
	s := newStagedCompanion(t)
	other, scores := ptest.RandPeerIDFatal(t).String(), s.absentAddress(t, "scores")
	s.putProfile(library.KeyUsername, "mallory", library.KeyPieces, scores)
	s.addRecord("")
	s.awaitIncomplete("user" + partial)
	s.reportInsufficient(t, s.userAt)
	if c, err := s.Companion(t.Context(), s.them); c.Name != "" || c.CurrentName != "" || c.PiecesAddr != "" || c.Ready || err != nil {
		t.Errorf("an incomplete profile is in use: %+v, %v", c, err)
	}
	s.putProfile(library.KeyNodeID, other)
	s.report(s.userAt, inSync(s.them))
	eventually(t, "the owner of the user database is reported", func() bool { return strings.Contains(s.problems(), other) })
	if s.wasFetched(scores) {
		t.Error("the pieces were fetched before the user database was complete")
	}
	s.putProfile(library.KeyNodeID, s.them.String())
	eventually(t, "the pieces are fetched once the peer ID is right", func() bool { return s.wasFetched(scores) && s.problems() == "" })
}

func TestUserDatabaseIsCompletedByItsOwnerOrAPeerThatHasIt(t *testing.T) {
	t.Parallel()
	s := newStagedCompanion(t)
	s.putProfile(library.KeyUsername, "alice", library.KeyPieces, s.absentAddress(t, "scores"))
	old := inSync(s.them)
	other := func(change func(p *replicate.Peer)) replicate.Peer {
		p := inSync(ptest.RandPeerIDFatal(t))
		change(&p)
		return p
	}
	s.addRecord("alice")
	s.awaitIncomplete("user" + partial)
	for what, peers := range map[string][]replicate.Peer{
		"nobody":                          {},
		"the owner, before it was added":  {old},
		"a peer that is fetching it":      {other(func(p *replicate.Peer) { p.Heads = 0 })},
		"a peer that has more by now":     {other(func(p *replicate.Peer) { p.Exchanged = p.InSync.Add(1) })},
		"another, and not with the owner": {other(func(*replicate.Peer) {}), {ID: s.them, Open: true}},
	} {
		s.reportInsufficient(t, s.userAt, peers...)
		if got := s.incomplete(); got != "user"+partial {
			t.Errorf("in sync with %s: incomplete are %q", what, got)
		}
	}
	s.report(s.userAt, other(func(*replicate.Peer) {}))
	s.awaitIncomplete("pieces: not here yet")

	// Daemons of an earlier version are not comparable, so they are never in
	// sync.
	older := newStagedCompanion(t)
	older.putProfile(library.KeyPieces, older.absentAddress(t, "scores"))
	older.addRecord("alice")
	older.awaitIncomplete("user" + partial)
	peer := replicate.Peer{ID: older.them, Open: true, By: replicate.NotComparable, Exchanged: time.Now(), Heads: 1}
	older.reportMissing(t, older.userAt, peer)
	older.report(older.userAt, peer)
	older.awaitIncomplete("pieces: not here yet")
}

func TestPieceEventsBeginWhenTheDatabaseIsComplete(t *testing.T) {
	t.Parallel()
	s := newStagedCompanion(t)
	s.putProfile(library.KeyNodeID, s.them.String(), library.KeyPieces, s.scoresAt)
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
	s.addRecord("alice")
	s.awaitIncomplete("user" + partial)
	s.complete(s.userAt, "pieces"+partial)
	s.putPieces("QmOld", "QmAlsoOld")
	eventually(t, "the pieces are read", func() bool { c, _ := s.Companion(t.Context(), s.them); return c.Pieces == 2 })
	s.complete(s.scoresAt, "")
	s.putPieces("QmNew")
	if got := <-news; got != "QmNew" {
		t.Errorf("an event for %s", got)
	}
}

func TestIncompleteLibraryIsReportedAsIncomplete(t *testing.T) {
	t.Parallel()
	s := newStagedCompanion(t)
	s.putProfile(library.KeyNodeID, s.them.String(), library.KeyPieces, s.scoresAt, library.KeyPractice, s.countsAt)
	s.putPieces("QmA")
	_, err := s.counts.Put(t.Context(), "QmA/them", 2)
	must(t, err)
	begin := time.Now()
	check := func(when, want string, more bool) {
		t.Helper()
		s.awaitIncomplete(want)
		eventually(t, "the entries that are here are read", func() bool {
			c, err := s.Companion(t.Context(), s.them)
			must(t, err)
			n, err := s.Practised(t.Context(), "QmA")
			must(t, err)
			return c.Ready && c.Pieces == 1 && n.All == 2
		})
		c, err := s.Companion(t.Context(), s.them)
		if must(t, err); c.Complete(begin) != !strings.Contains(want, "pieces") {
			t.Errorf("%s: %+v, whole: %v", when, c, c.Complete(begin))
		}
		pieces, problems, err := s.Pieces(t.Context(), library.Query{All: true})
		must(t, err)
		for p, err := range pieces {
			if must(t, err); p.Hash != "QmA" || p.Practice.All != 2 {
				t.Errorf("%s: %+v", when, p)
			}
		}
		var marked []string
		for _, problem := range problems {
			wantErr(t, problem.Err, library.ErrIncomplete)
			marked = append(marked, problem.Database+partial)
		}
		slices.Sort(marked)
		if got := strings.Join(marked, ", "); got != want {
			t.Errorf("%s: the problems are %q, want %q", when, got, want)
		}
		n, err := s.Practised(t.Context(), "QmA")
		if must(t, err); n.All != 2 || n.Incomplete != more {
			t.Errorf("%s, %+v", when, n)
		}
	}
	s.addRecord("alice")
	s.awaitIncomplete("user" + partial)
	both := "pieces" + partial + ", practice" + partial
	s.complete(s.userAt, both)
	check("on its way", both, true)
	s.start()
	check("after a restart", both, true)
	s.complete(s.scoresAt, "practice"+partial)
	check("the pieces whole", "practice"+partial, true)
	s.complete(s.countsAt, "")
	check("all whole", "", false)
	begin = time.Time{}
	for _, address := range []string{s.userAt, s.scoresAt, s.countsAt} {
		s.report(address)
	}
	s.start()
	check("whole, and nobody is there", "", false)
}

func TestCompleteRequiresProofSinceATime(t *testing.T) {
	t.Parallel()
	s := newCompleteCompanion(t, "QmA")
	whole := func(since time.Time) bool {
		c, err := s.Companion(t.Context(), s.them)
		must(t, err)
		return c.Complete(since)
	}
	now := time.Now()
	if !whole(time.Time{}) || whole(now) {
		t.Errorf("complete at any time: %v, complete now: %v", whole(time.Time{}), whole(now))
	}
	s.report(s.scoresAt, inSync(s.them))
	if whole(now) {
		t.Error("complete without a proof for the user database")
	}
	s.report(s.userAt, inSync(s.them))
	if !whole(now) {
		t.Error("not complete")
	}
	s.putPieces("QmB")
	eventually(t, "the new piece is found", func() bool {
		c, err := s.Companion(t.Context(), s.them)
		must(t, err)
		if c.Complete(now) && c.Pieces != 2 {
			t.Fatalf("complete with %d of 2 pieces", c.Pieces)
		}
		return c.Pieces == 2 && c.Complete(now)
	})
	other := ptest.RandPeerIDFatal(t)
	s.report(s.scoresAt, inSync(other))
	if c, err := s.Companion(t.Context(), s.them); c.InSyncWith != other || err != nil {
		t.Errorf("in sync with %s, %v", c.InSyncWith, err)
	}
}

func TestQueriesWaitForDatabasesAfterAStart(t *testing.T) {
	t.Parallel()
	s := newCompleteCompanion(t, "QmAlice1", "QmAlice2")
	_, err := s.counts.Put(t.Context(), "QmAlice1/them", 5)
	must(t, err)
	s.putProfile(library.KeyUsername, "anna")
	eventually(t, "the new name is read", func() bool { c, _ := s.Companion(t.Context(), s.them); return c.CurrentName == "anna" })
	for what, look := range map[string]func() error{
		"the name that changed": func() error {
			if id, err := s.PeerNamed(t.Context(), "alice"); !errors.Is(err, library.ErrChangedName) {
				return fmt.Errorf("alice is %s, %v", id, err)
			}
			return nil
		},
		"the counts": func() error {
			if n, err := s.Practised(t.Context(), "QmAlice1"); n.All != 5 || n.Incomplete || err != nil {
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
		s.reopenWith(t, func(c *library.Config) { c.Replicator, release = s.stagedReplicator, s.block() })
		go release()
		if err := look(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestQueriesReportDatabasesThatTakeTooLong(t *testing.T) {
	t.Parallel()
	s := newCompleteCompanion(t, "QmAlice1")
	s.putOwnPieces(t, "QmAl", "mine", "QmAlice2", "mine")
	var release func()
	s.reopenWith(t, func(c *library.Config) {
		c.Replicator, c.ReadTimeout, release = s.stagedReplicator, time.Millisecond, s.block()
	})
	defer release()
	must(t, s.Wait(testContext(t)))
	s.awaitIncomplete("user: being read")
	_, problems, err := s.Pieces(t.Context(), library.Query{All: true})
	must(t, err)
	var named []string
	for _, problem := range problems {
		wantErr(t, problem.Err, library.ErrBeingRead)
		named = append(named, problem.Database)
	}
	if slices.Sort(named); !slices.Equal(named, []string{library.PiecesName, library.PracticeName}) {
		t.Errorf("the problems are %q", named)
	}
	if n, err := s.Practise(t.Context(), "QmAl", 1); !n.Incomplete || n.All != 1 || err != nil {
		t.Errorf("%+v, %v", n, err)
	}
	if p, err := s.Resolve(t.Context(), "QmAl", true); p.Hash != "QmAl" || err != nil {
		t.Errorf("%s, %v", p.Hash, err)
	}
	for _, given := range []string{"QmAlice", cidOf(prelude).String()} { // Alice may have such a piece, too.
		_, err := s.Resolve(t.Context(), given, true)
		wantErr(t, err, library.ErrBeingRead)
	}
	if p, err := s.Resolve(t.Context(), "QmAlice", false); p.Hash != "QmAlice2" || err != nil {
		t.Errorf("among the own pieces: %s, %v", p.Hash, err)
	}
}

// lateMessages are messages of which the last one arrives late.
type lateMessages struct {
	fixedMessages
	last chan *message.Message
}

func (b lateMessages) Listen(ctx context.Context, f message.Filter) iter.Seq2[*message.Message, error] {
	return func(yield func(*message.Message, error) bool) {
		for _, m := range b.fixedMessages {
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

func TestOffersAreCompleteOnceAllMessagesWereScanned(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	stranger := loopback.Host(t)
	offer := func(from peer.ID, address string) *message.Message {
		return &message.Message{From: from, Data: fmt.Appendf(nil, `{"userDb":%q}`, address), Received: time.Now()}
	}
	messages := lateMessages{fixedMessages{offer(ptest.RandPeerIDFatal(t), h.absentAddress(t, "first"))}, make(chan *message.Message, 1)}
	h.reopenWith(t, func(c *library.Config) { c.Messages = messages })
	brief, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.Offers(brief)
	wantErr(t, err, library.ErrBeingRead)
	_, err = h.AddCompanion(testContext(t), loopback.Info(newCardPeer(t, card.Card{User: h.absentAddress(t, "shown")}).host))
	must(t, err) // The card suffices, whatever messages offer.
	loopback.Connect(t, h.host, stranger)
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = h.AddCompanion(soon, loopback.Info(stranger))
	wantErr(t, err, library.ErrBeingRead)
	address := h.absentAddress(t, "last")
	messages.last <- offer(stranger.ID(), address)
	_, err = h.AddCompanion(testContext(t), loopback.Info(stranger))
	must(t, err)
	eventually(t, "the offer is accepted", func() bool { c, _ := h.Companion(t.Context(), stranger.ID()); return c.User == address })
	if offers, err := h.Offers(t.Context()); len(offers) != 1 || err != nil {
		t.Errorf("%+v, %v", offers, err)
	}
}

// recordingReplicator records the addresses that it opens.
type recordingReplicator struct {
	*replicate.Replicator
	mu      sync.Mutex
	fetched []string
}

func (n *recordingReplicator) Open(ctx context.Context, address string, opts orbit.OpenOptions) error {
	n.mu.Lock()
	n.fetched = append(n.fetched, address)
	n.mu.Unlock()
	return n.Replicator.Open(ctx, address, opts)
}

func TestDatabasesOfAForeignUserDatabaseAreNotFetched(t *testing.T) {
	t.Parallel()
	a, evil := newNode(t), newNode(t)
	other := ptest.RandPeerIDFatal(t).String()
	evil.putOwnProfile(t, library.KeyNodeID, other) // the last field in the database
	note := &recordingReplicator{Replicator: a.replicator}
	a.reopenWith(t, func(c *library.Config) { c.Replicator = note })
	a.addCompanion(evil)
	eventually(t, "the owner of the user database is reported", func() bool {
		problems := a.problemsOf(t, evil.host.ID())
		return len(problems) == 1 && strings.Contains(problems[0].Err.Error(), other)
	})
	note.mu.Lock()
	defer note.mu.Unlock()
	if want := []string{evil.database(t, library.UserName).Address()}; !slices.Equal(note.fetched, want) {
		t.Errorf("%q were fetched, want %q", note.fetched, want)
	}
}

func TestLaterUsernameDoesNotIdentifyACompanion(t *testing.T) {
	t.Parallel()
	s := newStagedCompanion(t)
	s.putProfile(library.KeyNodeID, s.them.String())
	s.addRecord("")
	s.awaitIncomplete("user" + partial)
	s.reportInsufficient(t, s.userAt) // now the database is being followed
	s.report(s.userAt, inSync(s.them))
	s.awaitIncomplete("pieces: its user database names none")
	s.putProfile(library.KeyUsername, "alice")
	for _, when := range []string{"now", "after a restart"} {
		eventually(t, "its name is shown", func() bool { return s.NameOf(s.them) == "alice" })
		if id, err := s.PeerNamed(t.Context(), "alice"); !errors.Is(err, library.ErrUnknownName) {
			t.Errorf("%s, alice is %s, %v", when, id, err)
		}
		s.start()
		must(t, s.Wait(testContext(t)))
	}
}
