package library_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	ptest "github.com/libp2p/go-libp2p/core/test"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/test/loopback"
)

// reopenWith closes the library and opens it with another Config.
func (h *testLibrary) reopenWith(t testing.TB, change func(*library.Config)) {
	t.Helper()
	must(t, h.Library.Close())
	c := library.Config{Orbit: h.orbit, Host: h.host, Files: h.files, Store: store.New(h.disk, "/npp/library"), Swarm: h.swarm}
	change(&c)
	var err error
	h.Library, err = library.New(t.Context(), c)
	must(t, err)
}

// records returns the documents of the companions database.
func (h *testLibrary) records(t testing.TB) (records []string) {
	t.Helper()
	for item, err := range h.keyValue(t, library.CompanionsName).Iterate(t.Context(), orbit.Page{}) {
		must(t, err)
		records = append(records, item.Value.String())
	}
	return records
}

// entries returns the number of entries of a library database.
func (h *testLibrary) entries(t testing.TB, name string) uint64 {
	t.Helper()
	stats, err := h.database(t, name).Stats(t.Context())
	must(t, err)
	return stats.Entries
}

func TestDocumentsOfACompanionHideNoOtherPieces(t *testing.T) {
	t.Parallel()
	reader, good, evil := newNode(t), newNode(t), newNode(t)
	if evil.host.ID() > good.host.ID() { // so that evil has the smaller peer ID
		good, evil = evil, good
	}
	good.putOwnPieces(t, "QmGood", "Prelude")
	ghosts, address := evil.documents(t, "ghosts", "_id")
	for i := range 60 {
		_, err := ghosts.Put(t.Context(), map[string]any{"_id": fmt.Sprint(i), "hash": fmt.Sprint("QmGhost", i), "title": "!! Prelude"})
		must(t, err)
	}
	for key, hash := range map[string]string{"same": "QmGood", "QmOther": "QmOther"} {
		_, err := ghosts.Put(t.Context(), map[string]any{"_id": key, "hash": hash, "title": "Fugue"})
		must(t, err)
	}
	evil.putOwnProfile(t, library.KeyPieces, address)
	reader.addAndAwait(good, 1)
	reader.addAndAwait(evil, 1)
	want := []string{"QmGood Prelude 0/0"}
	for _, by := range []piece.Sort{piece.Newest, piece.ByTitle, library.ByPractice} {
		q := library.Query{Query: piece.Query{Text: "prelude"}, All: true, Sort: by, Limit: 50}
		if got := reader.list(t, q); !slices.Equal(got, want) {
			t.Errorf("by %s: %q, want %q", by, got, want)
		}
	}
	got := reader.list(t, library.Query{All: true, Sort: piece.ByTitle})
	if want := []string{"QmOther Fugue 0/0", "QmGood Prelude 0/0"}; !slices.Equal(got, want) {
		t.Errorf("all: %q, want %q", got, want)
	}
	for range 20 {
		p, _, err := reader.Random(t.Context(), library.Query{Query: piece.Query{Text: "prelude"}, All: true})
		if p.Hash != "QmGood" || err != nil {
			t.Errorf("random: %q, %v", p.Hash, err)
		}
	}
	for _, given := range []string{"QmGood", "QmG"} {
		p, err := reader.Resolve(t.Context(), given, true)
		if p.Title != "Prelude" || len(p.Owners) != 1 || p.Owners[0].Peer != good.host.ID() || err != nil {
			t.Errorf("%s: %+v, %v", given, p, err)
		}
	}
}

func TestChangingAddressesDoNotFillTheCompanionsDatabase(t *testing.T) {
	t.Parallel()
	a, evil := newNode(t), newNode(t)
	user := evil.database(t, library.UserName).Address()
	_, err := a.keyValue(t, library.CompanionsName).Put(t.Context(), user, map[string]any{
		"nodeId": evil.host.ID().String(), "instruments": []any{"Oboe"},
	})
	must(t, err)
	evil.putOwnProfile(t, library.KeyPieces, "")
	evil.putOwnProfile(t, library.KeyPractice, strings.Repeat("junk", 900))
	a.addCompanion(evil)
	eventually(t, "the addresses are problems", func() bool { return len(a.problemsOf(t, evil.host.ID())) > 0 })
	before := a.entries(t, library.CompanionsName)
	for i, key := range []string{library.KeyPractice, library.KeyPieces, library.KeyPractice, library.KeyPieces} {
		db, err := evil.orbit.Create(t.Context(), fmt.Sprint("db", i), orbit.Options{Type: orbit.TypeKeyValue})
		if key == library.KeyPieces {
			db, err = evil.orbit.Create(t.Context(), fmt.Sprint("db", i), orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"})
		}
		must(t, err)
		evil.putOwnProfile(t, key, db.Address())
		eventually(t, "the new address is followed", func() bool { return a.isHere(t, db.Address()) })
	}
	if n := a.entries(t, library.CompanionsName); n > before+2 {
		t.Errorf("%d entries, then %d", before, n)
	}
	records := a.records(t)
	if len(records) != 1 || strings.Contains(records[0], "junk") || !strings.Contains(records[0], `"instruments":["Oboe"]`) {
		t.Errorf("%.200q", records)
	}
}

func TestDatabaseWithOwnEntriesIsNeverDropped(t *testing.T) {
	t.Parallel()
	a, evil := newNode(t), newNode(t)
	_, band := evil.documents(t, "band", "hash", "*")
	evil.putOwnProfile(t, library.KeyPieces, band)
	a.addAndAwait(evil, 0)
	db, err := a.orbit.Open(t.Context(), band, orbit.OpenOptions{})
	must(t, err)
	mine, err := db.Documents()
	must(t, err)
	_, err = mine.Put(t.Context(), map[string]any{"hash": "QmMine"})
	must(t, err)
	_, other := evil.documents(t, "other", "hash")
	evil.putOwnProfile(t, library.KeyPieces, other)
	eventually(t, "the other database is here", func() bool { return a.isHere(t, other) })
	if _, err := mine.Get(t.Context(), "QmMine"); err != nil || !a.isHere(t, band) {
		t.Errorf("the own entry is gone: %v", err)
	}
	must(t, a.RemoveCompanion(testContext(t), evil.host.ID()))
	if !a.isHere(t, band) || a.isHere(t, other) {
		t.Error("the database with an own entry was dropped, or the other was not")
	}
}

func TestManualDatabaseIsLeftUnchanged(t *testing.T) {
	t.Parallel()
	a, evil := newNode(t), newNode(t)
	mine, address := a.documents(t, "rehearsals", "_id")
	_, err := mine.Put(t.Context(), map[string]any{"_id": "monday", "hash": "QmX"})
	must(t, err)
	must(t, a.replicator.CloseDatabase(t.Context(), address))
	check := func(when string) {
		t.Helper()
		db, err := a.orbit.Open(t.Context(), address, orbit.OpenOptions{})
		must(t, err)
		status, err := a.replicator.Status(t.Context(), address)
		must(t, err)
		if db.IndexBy() != "_id" || status.State != replicate.Closed {
			t.Errorf("%s, the key is %q, and it is %s", when, db.IndexBy(), status.State)
		}
		if _, err := mine.Get(t.Context(), "monday"); err != nil {
			t.Errorf("%s, %v", when, err)
		}
	}
	evil.putOwnProfile(t, library.KeyPieces, address)
	a.addCompanion(evil)
	eventually(t, "the companion's pieces are read or have a problem", func() bool {
		c, err := a.Companion(t.Context(), evil.host.ID())
		return err == nil && (c.Ready || len(c.Problems) > 0)
	})
	check("named by a companion")
	must(t, a.RemoveCompanion(testContext(t), evil.host.ID()))
	check("the companion gone")
}

func TestImpostorDoesNotBlockTheOwner(t *testing.T) {
	t.Parallel()
	a, alice := newNode(t), newNode(t)
	user := alice.database(t, library.UserName).Address()
	impostor := newCardPeer(t, card.Card{Username: "alice", User: user})
	_, err := a.AddCompanion(testContext(t), loopback.Info(impostor.host))
	must(t, err)
	loopback.Connect(t, a.host, alice.host)
	eventually(t, "the owner of the user database is known", func() bool {
		return a.isHere(t, user) && len(a.problemsOf(t, impostor.host.ID())) > 0
	})
	a.addAndAwait(alice, 0)
	if got := a.Companions(t.Context()); len(got) != 1 || got[0].Peer != alice.host.ID() {
		t.Errorf("companions: %+v", got)
	}
	// The impostor cannot take over the companion, either.
	_, err = a.AddCompanion(testContext(t), loopback.Info(impostor.host))
	wantErr(t, err, library.ErrInvalid)
	if _, err := a.Companion(t.Context(), alice.host.ID()); err != nil {
		t.Error(err)
	}
}

func TestCompanionSurvivesADiskFailureDuringAnUpdate(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	m := newCardPeer(t, card.Card{User: h.absentAddress(t, "user")})
	_, err := h.AddCompanion(testContext(t), loopback.Info(m.host))
	must(t, err)
	for n, failed := 1, true; failed; n++ {
		m.card.Store(&card.Card{User: h.absentAddress(t, fmt.Sprint("user", n))})
		h.disk.FailAfter(n, storetest.Lasting)
		_, err := h.AddCompanion(testContext(t), loopback.Info(m.host))
		failed = err != nil
		h.disk.FailAfter(0, storetest.Lasting)
		h.restart(t)
		if got := h.records(t); len(got) == 0 || !failed && len(got) != 1 {
			t.Fatalf("the disk fails at operation %d (%v): %q", n, err, got)
		}
		must(t, h.Wait(testContext(t)))
		if _, err := h.Companion(t.Context(), m.host.ID()); err != nil {
			t.Errorf("the disk failed at operation %d: %v", n, err)
		}
	}
}

func TestProfileIsCorrectedAtStart(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	for _, key := range []string{library.KeyNodeID, library.KeyPieces, library.KeyPractice} {
		h.putOwnProfile(t, key, "elsewhere")
	}
	h.putOwnProfile(t, library.KeyUsername, "Clara")
	h.putOwnProfile(t, "town", "Leipzig")
	must(t, h.host.Close())
	var err error
	h.host, err = libp2p.New(libp2p.NoListenAddrs) // a host with another key
	must(t, err)
	t.Cleanup(func() { h.host.Close() })
	h.restart(t)
	want := []string{
		`"nodeId"="` + h.host.ID().String() + `"`, `"pieces"="` + h.database(t, library.PiecesName).Address() + `"`,
		`"practice"="` + h.database(t, library.PracticeName).Address() + `"`, `"town"="Leipzig"`, `"username"="Clara"`,
	}
	if got := h.profile(t); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNamesThatLookAlikeAreEqual(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	andre := newCardPeer(t, card.Card{Username: "Andre\u0301", User: h.absentAddress(t, "a")}) // decomposed, as macOS types it
	stranger := newCardPeer(t, card.Card{Username: "Andr\u00e9", User: h.absentAddress(t, "b")})
	_, err := h.AddCompanion(testContext(t), loopback.Info(andre.host))
	must(t, err)
	eventually(t, "it is a companion", func() bool { return len(h.Companions(t.Context())) == 1 })
	h.exchangeCards(t, stranger)
	for _, name := range []string{"Andr\u00e9", "Andre\u0301", "andre", "ANDR\u00c9"} {
		if id, err := h.PeerNamed(t.Context(), name); id != andre.host.ID() || err != nil {
			t.Errorf("%+q is %s, %v; the stranger is %s", name, id, err, stranger.host.ID())
		}
	}
	_, err = h.AddCompanion(testContext(t), loopback.Info(stranger.host))
	must(t, err)
	eventually(t, "the other one is a companion, too", func() bool { return len(h.Companions(t.Context())) == 2 })
	_, err = h.PeerNamed(t.Context(), "Andr\u00e9")
	wantErr(t, err, library.ErrAmbiguousName)
	for _, name := range []string{"\u3164", "alice\ufe0f", "alice\u034f", "\u115f", "al\u200bice", "al\u2060ice", "alice\u00ad"} {
		wantErr(t, h.SetProfileField(t.Context(), library.KeyUsername, value.Text(name)), library.ErrInvalid)
	}
}

func TestNameOfAnotherPeerDoesNotIdentifyIt(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	var ids []peer.ID
	for i := range 3 {
		m := newCardPeer(t, card.Card{Username: "Alice", User: h.absentAddress(t, fmt.Sprint("user", i))})
		h.exchangeCards(t, m)
		ids = append(ids, m.host.ID())
		slices.Sort(ids)
		id, err := h.PeerNamed(t.Context(), "alice")
		wantErr(t, err, library.ErrStranger)
		if named, ok := errors.AsType[*library.NameError](err); id != "" || !ok || named.Name != "alice" || !slices.Equal(named.Peers, ids) {
			t.Errorf("alice is %s, %+v", id, err)
		}
		if name := h.NameOf(m.host.ID()); name != "Alice" {
			t.Errorf("its name is %q", name)
		}
	}
}

func TestNameIsNeverAPeerID(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	alice := ptest.RandPeerIDFatal(t).String()
	m := newCardPeer(t, card.Card{Username: alice, User: h.absentAddress(t, "user")})
	h.exchangeCards(t, m)
	check := func() {
		t.Helper()
		if name := h.NameOf(m.host.ID()); name != "" {
			t.Errorf("the name is %q", name)
		}
		_, err := h.PeerNamed(t.Context(), alice)
		wantErr(t, err, library.ErrUnknownName)
	}
	check()
	_, err := h.AddCompanion(testContext(t), loopback.Info(m.host))
	must(t, err)
	eventually(t, "it is a companion", func() bool { return len(h.Companions(t.Context())) == 1 })
	check()
	// Another device may have written it.
	_, err = h.keyValue(t, library.CompanionsName).Put(t.Context(), h.absentAddress(t, "user"), map[string]any{"nodeId": m.host.ID().String(), "username": alice})
	must(t, err)
	h.restart(t)
	must(t, h.Wait(testContext(t)))
	check()
}

func TestShortHashOfACompanionIsAmbiguous(t *testing.T) {
	t.Parallel()
	a, evil := newNode(t), newNode(t)
	whole := cidOf(prelude).String()
	a.putOwnPieces(t, whole, "Prelude", "QmShort", "Air")
	evil.putOwnPieces(t, whole[:6], "Trap", "QmShort1", "Trap", "QmSho", "Trap")
	a.addAndAwait(evil, 3)
	for given, want := range map[string]string{whole: "Prelude", whole[:10]: "Prelude", "QmShort": "Air", whole[:6]: "", "QmSho": ""} {
		p, err := a.Resolve(t.Context(), given, true)
		_, ambiguous := errors.AsType[*library.AmbiguousError](err)
		if p.Title != want || ambiguous != (want == "") {
			t.Errorf("%s: %q, %v", given, p.Title, err)
		}
	}
	if p, err := a.Resolve(t.Context(), whole[:6], false); p.Title != "Prelude" || err != nil {
		t.Errorf("%q, %v", p.Title, err)
	}
}

// slowReplicator is a Replicator that never finishes fetching a database, and
// is slow to stop.
type slowReplicator struct {
	address      string
	begun, ended atomic.Bool
}

func (s *slowReplicator) Fetching() []string                                             { return []string{s.address} }
func (s *slowReplicator) CompareNow(string)                                              {}
func (s *slowReplicator) Open(context.Context, string, orbit.OpenOptions) error          { return nil }
func (s *slowReplicator) Status(context.Context, string) (_ replicate.Status, err error) { return }

func (s *slowReplicator) Drop(context.Context, string, func(context.Context, []block.Block) error) error {
	return nil
}

func (s *slowReplicator) Follow(ctx context.Context, _ string) iter.Seq2[replicate.Status, error] {
	return func(func(replicate.Status, error) bool) {
		s.begun.Store(true)
		<-ctx.Done()
		<-time.After(20 * time.Millisecond)
		s.ended.Store(true)
	}
}

// newSlowLibrary returns a library with a companion whose pieces are here, and
// whose user database never arrives.
func newSlowLibrary(t testing.TB) (h *testLibrary, s *slowReplicator, companion peer.ID) {
	t.Helper()
	h = newTestLibrary(t)
	_, pieces := h.documents(t, "theirs", "hash")
	user, err := h.orbit.Create(t.Context(), "them", orbit.Options{Type: orbit.TypeKeyValue})
	must(t, err)
	companion = ptest.RandPeerIDFatal(t)
	_, err = h.keyValue(t, library.CompanionsName).Put(t.Context(), user.Address(), map[string]any{
		"nodeId": companion.String(), "pieces": pieces,
	})
	must(t, err)
	s = &slowReplicator{address: user.Address()}
	h.reopenWith(t, func(c *library.Config) { c.Replicator = s })
	eventually(t, "it is a companion", s.begun.Load)
	return h, s, companion
}

func TestOwnPiecesDoNotWaitForCompanions(t *testing.T) {
	t.Parallel()
	h, _, companion := newSlowLibrary(t)
	whole := cidOf(prelude).String()
	h.putOwnPieces(t, "QmOwn", "Prelude", whole, "Fugue")
	if c, err := h.Companion(t.Context(), companion); err != nil || c.Ready || len(c.Problems) > 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, given := range []string{"QmOwn", whole, piece.Canonical(whole), "/ipfs/" + whole} {
		if _, err := h.Resolve(ctx, given, true); err != nil {
			t.Errorf("%s: %v", given, err)
		}
	}
}

func TestCloseWaitsForGoroutines(t *testing.T) {
	t.Parallel()
	h, s, _ := newSlowLibrary(t)
	if must(t, h.Library.Close()); !s.ended.Load() {
		t.Error("a goroutine is still running")
	}
}

func TestAnyEncodingOfAPeerIDIsAccepted(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	user := h.absentAddress(t, "user")
	m := newCardPeer(t, card.Card{Username: "mask", User: user})
	id := m.host.ID()
	companions := h.keyValue(t, library.CompanionsName)
	put := func(address string) {
		t.Helper()
		_, err := companions.Put(t.Context(), address, map[string]any{"nodeId": peer.ToCid(id).String()})
		must(t, err)
		eventually(t, "it is a companion", func() bool { _, err := h.Companion(t.Context(), id); return err == nil })
	}
	put(user)
	must(t, h.RemoveCompanion(testContext(t), id))
	if got := h.records(t); len(got) != 0 || len(h.Companions(t.Context())) != 0 {
		t.Errorf("it is still there: %q", got)
	}
	for _, address := range []string{user, h.absentAddress(t, "former")} {
		put(address)
		again, err := h.AddCompanion(testContext(t), loopback.Info(m.host))
		if got := h.records(t); !again || err != nil || len(got) != 1 || !strings.Contains(got[0], `"username":"mask"`) {
			t.Errorf("again: %v, %v, %q", again, err, got)
		}
	}
}

func TestUnusualHashesAreFoundExactly(t *testing.T) {
	t.Parallel()
	a, b := newNode(t), newNode(t)
	hashes := []string{"/ipfs/" + cidOf(prelude).String(), " QmSpace ", "Qm two words", "/x"}
	for _, hash := range hashes {
		a.putOwnPieces(t, hash, "of "+hash)
	}
	b.addAndAwait(a, len(hashes))
	for _, hash := range hashes {
		for who, library := range map[string]*library.Library{"the owner": a.Library, "a follower": b.Library} {
			if p, err := library.Resolve(t.Context(), hash, true); p.Hash != hash || err != nil {
				t.Errorf("%q by %s: %q, %v", hash, who, p.Hash, err)
			}
		}
	}
	a.putOwnPieces(t, "QmSpace", "another")
	if p, err := a.Resolve(t.Context(), " QmSpace ", true); p.Hash != " QmSpace " || err != nil {
		t.Errorf("%q, %v", p.Hash, err)
	}
}

// fixedMessages are stored messages.
type fixedMessages []*message.Message

func (in fixedMessages) Listen(ctx context.Context, f message.Filter) iter.Seq2[*message.Message, error] {
	return func(yield func(*message.Message, error) bool) {
		for _, m := range in {
			if !yield(m, nil) {
				return
			}
		}
		f.Ready()
		<-ctx.Done()
	}
}

func TestOffersAreBoundedWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	offer, err := json.Marshal(map[string]string{"userDb": h.absentAddress(t, "user")})
	must(t, err)
	const late = 20
	var in fixedMessages
	now := time.Now()
	for i := range library.MaxOffers + late {
		at := now
		if i >= library.MaxOffers {
			at = now.Add(-time.Hour)
		}
		in = append(in, &message.Message{From: ptest.RandPeerIDFatal(t), Data: offer, Received: at})
	}
	last := in[len(in)-1].From
	h.reopenWith(t, func(c *library.Config) { c.Messages = in })
	all := func() []library.Offer {
		offers, err := h.Offers(t.Context())
		must(t, err)
		return offers
	}
	find := func() bool {
		return slices.ContainsFunc(all(), func(o library.Offer) bool { return o.Peer == last })
	}
	eventually(t, "the last offer is there", find)
	if n := len(all()); n > library.MaxOffers {
		t.Errorf("%d offers in memory", n)
	}
	h.restart(t)
	if n := len(all()); n > library.MaxOffers || !find() {
		t.Errorf("%d offers on disk, the last one: %v", n, find())
	}
}

func TestFullListReplacesADisconnectedFollower(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	h.close(t)
	s := store.New(h.disk, "/npp/library")
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		for range library.MaxFollowers {
			text, err := json.Marshal(library.Follower{Name: "gone", Since: time.Now()})
			if err == nil {
				err = tx.Put("follower/"+ptest.RandPeerIDFatal(t).String(), text)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	h.openOrbit(t)
	h.open(t)
	m := newCardPeer(t, card.Card{Username: "real", Follows: true})
	h.exchangeCards(t, m)
	for _, when := range []string{"now", "after a restart"} {
		list := h.Companions(t.Context())
		if len(list) != library.MaxFollowers || !slices.ContainsFunc(list, func(c library.Companion) bool { return c.Peer == m.host.ID() && c.Follows }) {
			t.Errorf("%s, %d followers, without the real one or too many", when, len(list))
		}
		h.restart(t)
	}
}

func TestDatabaseOfTheWrongTypeIsDropped(t *testing.T) {
	t.Parallel()
	a, evil := newNode(t), newNode(t)
	db, err := evil.orbit.Create(t.Context(), "log", orbit.Options{Type: orbit.TypeEvents})
	must(t, err)
	evil.putOwnProfile(t, library.KeyPieces, db.Address())
	a.addCompanion(evil)
	eventually(t, "it is a problem and is dropped", func() bool {
		return len(a.problemsOf(t, evil.host.ID())) > 0 && !a.isHere(t, db.Address()) && !slices.Contains(a.replicator.Fetching(), db.Address())
	})
	if got := a.problemsOf(t, evil.host.ID()); got[0].Database != library.PiecesName || !strings.Contains(got[0].Err.Error(), orbit.TypeEvents) {
		t.Errorf("%+v", got)
	}
}
