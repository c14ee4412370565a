package interop

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/test/harness"
)

// The tests of this file cover package library with apps on @orbitdb/core: apps
// that share the library databases of a daemon, and apps that are its
// companions.

// Hashes of pieces whose file no peer has.
const (
	prelude = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"
	escape  = "QmXG8yk8UJjMT6qtE2zSxzz3U7z5jSYRgVWLCUFqAVnByM"
)

// pieceLine is a line of `npp pieces ls`, `search` and `show` with --enc=json.
type pieceLine struct {
	Hash, Instrument string
	PracticeAll      uint64
	Owners           []struct {
		Peer, Name string
		Self       bool
	}
	Fields value.Value
}

// companionLine is a line of `npp companions ls` with --enc=json.
type companionLine struct {
	Peer, Name, NameNow           string
	Companion, Follows, Connected bool
	User                          string
	Pieces                        *int
	Troubles                      []string
	Offer                         *offerLine
}

type offerLine struct {
	Address, Via, Error string
	Legacy              bool
}

// ownStore is one of a daemon's library databases, opened by an app.
type ownStore struct {
	name     string
	inDaemon daemonReplica
	inJS     jsReplica
}

// openStore makes the app, which is connected to a daemon, open a store of the
// daemon at the address that the daemon prints. It waits until the app has all
// entries.
func (js *node) openStore(t *testing.T, w writer, n *harness.Node, name string) ownStore {
	t.Helper()
	s := ownStore{name, daemonReplica{t, n, addressOf(t, n, name)}, jsReplica{js: js, as: w.name}}
	s.inJS.address = s.inDaemon.address
	opened := s.inJS.with(live{updates: true}.args())
	if name == "pieces" {
		opened["indexBy"] = "hash"
	}
	var got struct{ Type string }
	js.do(&got, "open", opened)
	s.inJS.kind = got.Type
	s.inJS.waitForEvent(eventJoin)
	s.converge()
	return s
}

// addressOf returns the address of one of a daemon's library databases.
func addressOf(t *testing.T, n *harness.Node, name string) string {
	t.Helper()
	id := decode[struct {
		Stores []struct{ Name, Address string }
	}](t, n.MustRun("npp", "id", "--enc=json"))
	for _, s := range id.Stores {
		if s.Name == name && s.Address != "" {
			return s.Address
		}
	}
	t.Fatalf("npp id shows no store %q: %+v", name, id)
	return ""
}

// converge waits until the app and the daemon have the same content.
func (s ownStore) converge() {
	s.inJS.js.t.Helper()
	eventually(s.inJS.js.t, "the app and the daemon agree on "+s.name, func() (any, bool) {
		inDaemon, inJS := s.inDaemon.state().heads, s.inJS.heads()
		return [][]string{inDaemon, inJS}, slices.Equal(inDaemon, inJS)
	})
	check(s.inJS.js.t, s.name+" in JavaScript", s.inJS.state(query{}), s.inDaemon.state())
}

// awaitWriter waits until the app knows whether an identity may write.
func (s ownStore) awaitWriter(identity string, may bool) {
	s.inJS.js.t.Helper()
	eventually(s.inJS.js.t, "the app knows the writers of "+s.name, func() (any, bool) {
		var capabilities map[string][]string
		s.inJS.js.do(&capabilities, "capabilities", s.inJS.with(nil))
		return capabilities, slices.Contains(capabilities["write"], identity) == may
	})
}

// grant authorizes an identity to write to the store, and waits until the app
// knows.
func (s ownStore) grant(identity string) {
	s.inJS.js.t.Helper()
	s.inDaemon.n.MustRun("npp", "db", "grant", s.name, identity)
	s.awaitWriter(identity, true)
}

// piece returns the operation that puts a piece in JavaScript.
func piece(hash string, more ...string) op {
	doc := map[string]any{"hash": hash}
	for i := 0; i < len(more); i += 2 {
		doc[more[i]] = more[i+1]
	}
	return op{kind: "put", value: valueOf(doc)}
}

// field returns the operation that puts a value at a key in JavaScript.
func field(key string, v any) op {
	return op{kind: "put", key: value.Text(key), value: valueOf(v)}
}

func valueOf(v any) value.Value {
	val, err := value.Of(v)
	if err != nil {
		panic(err)
	}
	return val
}

// writeEach runs operations one after the other.
func (r jsReplica) writeEach(ops ...op) {
	r.js.t.Helper()
	for _, op := range ops {
		if _, err := r.write(op); err != nil {
			r.js.t.Fatalf("%v: %v", op, err)
		}
	}
}

// listedPieces returns the pieces that a command lists, each as "<hash>
// <instrument>".
func listedPieces(t *testing.T, n *harness.Node, command ...string) []string {
	t.Helper()
	list := []string{}
	for _, p := range lines[pieceLine](t, n, append([]string{"npp"}, command...)...) {
		list = append(list, p.Hash+" "+p.Instrument)
	}
	return list
}

// awaitPieces waits until a command lists the pieces, see listedPieces.
func awaitPieces(t *testing.T, n *harness.Node, want []string, command ...string) {
	t.Helper()
	eventually(t, strings.Join(command, " "), func() (any, bool) {
		got := listedPieces(t, n, command...)
		return got, slices.Equal(got, want)
	})
}

func TestLibraryOfDaemonIsLiveInJavaScript(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	js := startNode(t)
	js.newIdentity(writerA)
	js.connect(n)
	stores := make(map[string]ownStore)
	for _, name := range []string{"pieces", "user", "practice"} {
		stores[name] = js.openStore(t, writerA, n, name)
	}
	for _, change := range []struct {
		store   string
		command []string
	}{
		{"pieces", []string{"pieces", "add", prelude, "--title", "Präludium"}},
		{"pieces", []string{"pieces", "add", escape, "--instrument", "Organ"}},
		{"pieces", []string{"pieces", "update", prelude, "--instrument", "Harp"}},
		{"practice", []string{"practice", prelude}},
		{"practice", []string{"practice", prelude}},
		{"user", []string{"profile", "set", "username", "clara"}},
		{"user", []string{"profile", "set", "city", "Leipzig"}},
		{"user", []string{"profile", "rm", "city"}},
		{"pieces", []string{"pieces", "rm", escape}},
	} {
		s, what := stores[change.store], strings.Join(change.command, " ")
		before := len(js.happened(eventUpdate, s.inJS.address))
		n.MustRun(append([]string{"npp"}, change.command...)...)
		want := s.inDaemon.state()
		changed := time.Now()
		eventually(t, what+" is an update", func() (any, bool) {
			news := js.happened(eventUpdate, s.inJS.address)[before:]
			return news, slices.ContainsFunc(news, func(e event) bool { return e.Hash == want.heads[0] })
		})
		if waited := time.Since(changed); waited > soon {
			t.Errorf("%s is an update only after %v", what, waited)
		}
		check(t, what, s.inJS.state(query{}), want)
	}
}

func TestLibraryOfDaemonIsWrittenByJavaScriptOnceGranted(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Hide().Start()
	n.MustRun("npp", "pieces", "add", prelude)
	js := startNodeWith(t, "--hide "+orbitdb4)
	identity := js.newIdentity(writerA)
	js.dial(n.ListenAddr())
	pieces := js.openStore(t, writerA, n, "pieces")

	refused := func(when string) {
		t.Helper()
		before := pieces.inDaemon.state()
		_, err := pieces.inJS.write(piece(escape, "instrument", "Organ"))
		if err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s, JavaScript's put: %v", when, err)
		}
		check(t, when, pieces.inDaemon.state(), before)
		check(t, when, pieces.inJS.state(query{}), before)
	}
	refused("before it was granted")

	pieces.grant(identity)
	ls := []string{"pieces", "ls"}
	pieces.inJS.writeEach(piece(escape, "instrument", "Organ", "title", "Toccata", "chords", "Dm A7"))
	awaitPieces(t, n, []string{escape + " Organ", prelude + " Piano"}, ls...)
	awaitPieces(t, n, []string{escape + " Organ"}, "pieces", "search", "toccata")
	if got := lines[pieceLine](t, n, "npp", "pieces", "show", escape)[0].Fields; !got.Field("chords").Equal(value.Text("Dm A7")) {
		t.Errorf("pieces show: %s", got)
	}

	pieces.inJS.writeEach(piece(escape, "instrument", "Harp", "title", "Fugue"))
	awaitPieces(t, n, []string{escape + " Harp", prelude + " Piano"}, ls...)
	awaitPieces(t, n, []string{escape + " Harp"}, "pieces", "search", "fugue")
	awaitPieces(t, n, []string{}, "pieces", "search", "toccata")

	// The same for a piece that the daemon added.
	pieces.inJS.writeEach(piece(prelude, "instrument", "Lute"))
	awaitPieces(t, n, []string{prelude + " Lute", escape + " Harp"}, ls...)
	pieces.inJS.writeEach(op{kind: "del", key: value.Text(escape)})
	awaitPieces(t, n, []string{prelude + " Lute"}, ls...)
	awaitPieces(t, n, []string{}, "pieces", "search", "fugue")
	pieces.converge()

	n.MustRun("npp", "db", "revoke", "pieces", identity)
	pieces.awaitWriter(identity, false)
	refused("after it was revoked")

	// Nor are the entries that it writes before it knows.
	pieces.grant(identity)
	js.disconnectAll()
	n.MustRun("npp", "db", "revoke", "pieces", identity)
	written, err := pieces.inJS.write(piece(escape))
	must(t, err)
	js.dial(n.ListenAddr())
	eventually(t, "the daemon refuses it", func() (any, bool) {
		info := lines[struct{ Refused []struct{ Hash string } }](t, n, "npp", "db", "info", "pieces")[0]
		return info, slices.ContainsFunc(info.Refused, func(e struct{ Hash string }) bool { return e.Hash == written.Hash })
	})
	if got := listedPieces(t, n, ls...); !slices.Equal(got, []string{prelude + " Lute"}) {
		t.Errorf("the daemon lists %q", got)
	}
}

// practised returns the total practice count of a piece in the store of an app.
func (s ownStore) practised(hash string) (sum uint64) {
	t := s.inJS.js.t
	t.Helper()
	want := canonical(t, hash)
	for _, i := range s.inJS.state(query{}).all {
		var key string
		must(t, json.Unmarshal([]byte(i.key), &key))
		if of, _, _ := strings.Cut(key, "/"); canonical(t, of) == want {
			var n uint64
			must(t, json.Unmarshal([]byte(i.value), &n))
			sum += n
		}
	}
	return sum
}

// canonical returns the CID of a hash in canonical form.
func canonical(t testing.TB, hash string) cid.Cid {
	t.Helper()
	c, err := cid.Decode(hash)
	must(t, err)
	return cid.NewCidV1(c.Type(), c.Hash())
}

// awaitPractised waits until the daemon and the app have these practice counts
// of a piece.
func (s ownStore) awaitPractised(hash string, inDaemon, inJS uint64) {
	t := s.inDaemon.t
	t.Helper()
	eventually(t, "both count", func() (any, bool) {
		listed := lines[pieceLine](t, s.inDaemon.n, "npp", "pieces", "show", hash)[0].PracticeAll
		counted := s.practised(hash)
		return []uint64{listed, counted}, listed == inDaemon && counted == inJS
	})
}

func TestLibraryAddsUpPracticeOfDaemonAndJavaScript(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Hide().Start()
	n.MustRun("npp", "pieces", "add", prelude)
	js := startNodeWith(t, "--hide "+orbitdb4)
	identity := js.newIdentity(writerA)
	js.dial(n.ListenAddr())
	practice := js.openStore(t, writerA, n, "practice")
	practice.grant(identity)
	inJS := practice.inJS

	// As in the documentation of package library.
	practise := func(hash string) {
		t.Helper()
		key := hash + "/" + identity
		var before struct{ Value uint64 }
		js.do(&before, "get", inJS.with(args{"key": key}))
		inJS.writeEach(field(key, before.Value+1))
	}

	var daemon sync.WaitGroup
	for range 3 {
		daemon.Go(func() {
			if r := n.Run("npp", "practice", prelude); r.Code != 0 {
				t.Errorf("practice: %v", r)
			}
		})
	}
	for range 5 {
		practise(prelude)
	}
	daemon.Wait()
	if t.Failed() {
		return
	}
	practice.awaitPractised(prelude, 8, 8)

	js.disconnectAll()
	n.MustRun("npp", "practice", prelude)
	practise(prelude)
	practise(prelude)
	practice.awaitPractised(prelude, 9, 10)
	js.dial(n.ListenAddr())
	practice.awaitPractised(prelude, 11, 11)

	other, err := canonical(t, prelude).StringOfBase(multibase.Base58BTC)
	must(t, err)
	practise(other)
	practice.awaitPractised(prelude, 12, 12)
	n.MustRun("npp", "practice", other)
	practice.awaitPractised(other, 13, 13)
	practice.converge()
}

// tutorialApp is an app like that of the OrbitDB tutorial, with the current
// form of addresses.
type tutorialApp struct {
	*node
	user, pieces jsReplica
}

// startTutorialApp starts an app that announces a peer ID, its own if nodeID is
// "".
func startTutorialApp(t *testing.T, username any, nodeID string) tutorialApp {
	t.Helper()
	js := startNode(t)
	js.newIdentity(writerA)
	app := tutorialApp{
		js,
		js.createLive(writerA, "user", orbit.Options{Type: orbit.TypeKeyValue}, live{memory: true}),
		js.createLive(writerA, "pieces", orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"}, live{memory: true}),
	}
	app.user.writeEach(field("username", username), field("pieces", app.pieces.address), field("nodeId", cmp.Or(nodeID, js.peerID())))
	return app
}

// putFile puts a piece and its file.
func (app tutorialApp) putFile(data []byte, more ...string) (hash string) {
	app.t.Helper()
	app.do(&hash, "put-file", args{"data": data})
	app.pieces.writeEach(piece(hash, more...))
	return hash
}

// offer connects to a daemon and offers it the user database, as in the
// tutorial.
func (app tutorialApp) offer(n *harness.Node) {
	app.t.Helper()
	app.connect(n)
	app.waitForSubscriber(n.PeerID(), n.PeerID())
	app.publish(n.PeerID(), offerOf(app.user.address))
}

func offerOf(address string) []byte { return []byte(`{"userDb":"` + address + `"}`) }

// awaitOffer waits until a daemon has the offer of a peer. It returns the offer
// as printed by `npp listen` and by `npp companions ls --offers`.
func awaitOffer(t *testing.T, n *harness.Node, from, address string) (heard, kept offerLine) {
	t.Helper()
	listener := n.Spawn("npp", "listen", "--since", "all", "--from", from, "--enc=json")
	heard = *decode[struct{ Offer *offerLine }](t, listener.Expect(`"offer":{"address":"`+address+`"`)).Offer
	eventually(t, "the offer of "+from, func() (any, bool) {
		offers := lines[companionLine](t, n, "npp", "companions", "ls", "--offers")
		i := slices.IndexFunc(offers, func(c companionLine) bool { return c.Peer == from && c.Offer.Address == address })
		if i >= 0 {
			kept = *offers[i].Offer
		}
		return offers, i >= 0
	})
	return heard, kept
}

// companions returns the companions of a daemon.
func companions(t *testing.T, n *harness.Node) []companionLine {
	t.Helper()
	return lines[companionLine](t, n, "npp", "companions", "ls")
}

// awaitCompanion waits until a daemon has one companion that satisfies ok.
func awaitCompanion(t *testing.T, n *harness.Node, what string, ok func(companionLine) bool) {
	t.Helper()
	eventually(t, what, func() (any, bool) {
		list := companions(t, n)
		return fmt.Sprintf("%+v", list), len(list) == 1 && list[0].Companion && ok(list[0])
	})
}

// hasDatabase reports whether a daemon has a database.
func hasDatabase(t *testing.T, n *harness.Node, address string) bool {
	t.Helper()
	return strings.Contains(n.MustRun("npp", "db", "ls", "--enc=json"), address)
}

func TestLibraryOfTutorialAppIsFollowedOnceItsOfferIsTakenUp(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	app := startTutorialApp(t, 304532, "")
	file := bytes.Repeat([]byte("notes "), 20_000)
	counter := app.user.address + "/counter.20chars" // a form that an app of the tutorial may have stored
	first := app.putFile(file, "instrument", "Piano", "counter", counter)
	app.offer(n)

	heard, kept := awaitOffer(t, n, app.peerID(), app.user.address)
	if heard.Error != "" || heard.Legacy {
		t.Errorf("listen shows %+v", heard)
	}
	if kept.Via != "pubsub" || kept.Error != "" || kept.Legacy {
		t.Errorf("companions ls --offers shows %+v", kept)
	}

	// An app from before OrbitDB 1.0. Its message follows all effects of the
	// first one.
	old := startPeer(t, ascendingSeqno)
	old.connect(n)
	legacy := app.user.address + "/user"
	old.publish(n.PeerID(), offerOf(legacy))
	heard, kept = awaitOffer(t, n, old.ID, legacy)
	for _, o := range []offerLine{heard, kept} {
		if !o.Legacy || o.Error == "" {
			t.Errorf("the offer of the old app is shown as %+v", o)
		}
	}
	if r := n.Run("npp", "companions", "add", old.ID); r.Code != 1 || !strings.Contains(r.Stderr, "before OrbitDB 1.0") {
		t.Errorf("companions add of the old app: %v", r)
	}

	if list := companions(t, n); len(list) > 0 || hasDatabase(t, n, app.user.address) || hasDatabase(t, n, app.pieces.address) {
		t.Errorf("an offer has opened something: %+v", list)
	}
	for _, address := range []string{app.user.address, app.pieces.address} {
		if peers := app.subscribers(address); len(peers) > 0 {
			t.Errorf("%q subscribe to %s, which no peer should open", peers, address)
		}
	}

	n.MustRun("npp", "companions", "add", app.peerID())
	all := []string{"pieces", "ls", "--all"}
	awaitPieces(t, n, []string{first + " Piano"}, all...)
	awaitCompanion(t, n, "its name is that of its user store", func(c companionLine) bool {
		return c.Peer == app.peerID() && c.Name == "304532" && c.Connected && c.User == app.user.address &&
			c.Pieces != nil && *c.Pieces == 1 && len(c.Troubles) == 0
	})
	listed := lines[pieceLine](t, n, append([]string{"npp"}, all...)...)[0]
	if o := listed.Owners; len(o) != 1 || o[0].Peer != app.peerID() || o[0].Name != "304532" || o[0].Self {
		t.Errorf("the piece is shown as that of %+v", o)
	}
	if got := listed.Fields.Field("counter"); !got.Equal(value.Text(counter)) {
		t.Errorf("its piece is shown as %s", listed.Fields)
	}
	checkOffers := func(when string) {
		t.Helper()
		if offers := lines[companionLine](t, n, "npp", "companions", "ls", "--offers"); len(offers) != 1 || offers[0].Peer != old.ID {
			t.Errorf("%s, the offers are %+v", when, offers)
		}
	}
	checkOffers("once one is taken up")

	// Its later puts are seen live.
	app.pieces.writeEach(piece(escape, "instrument", "Organ"))
	awaitPieces(t, n, []string{escape + " Organ", first + " Piano"}, all...)
	app.pieces.writeEach(op{kind: "del", key: value.Text(escape)}, piece(first, "instrument", "Harp"))
	awaitPieces(t, n, []string{first + " Harp"}, all...)

	if r := n.Run("block", "stat", "--offline", first); r.Code == 0 {
		t.Errorf("the file was fetched with the piece: %v", r)
	}
	saved := filepath.Join(t.TempDir(), "piece")
	n.MustRun("npp", "pieces", "get", first, "-o", saved)
	got, err := os.ReadFile(saved)
	must(t, err)
	if !bytes.Equal(got, file) {
		t.Errorf("pieces get saved %d bytes, which are not the file", len(got))
	}

	// The app changes its username once the first is known. As in the tutorial,
	// it offers its store on every connection.
	app.user.writeEach(field("username", 4711))
	awaitCompanion(t, n, "it calls itself otherwise", func(c companionLine) bool { return c.NameNow == "4711" && c.Name == "304532" })
	app.publish(n.PeerID(), offerOf(app.user.address))
	eventually(t, "it offers its store again", func() (any, bool) {
		messages := n.MustRun("npp", "messages", "ls", "--from", app.peerID())
		return messages, strings.Count(messages, app.user.address) == 2
	})
	old.publish(n.PeerID(), offerOf(legacy+"2"))
	awaitOffer(t, n, old.ID, legacy+"2")
	checkOffers("once it is made again")
	n.MustRun("npp", "companions", "add", app.peerID())
	awaitCompanion(t, n, "its new name is taken", func(c companionLine) bool { return c.NameNow == "" && c.Name == "4711" })

	n.MustRun("npp", "companions", "rm", "4711")
	awaitPieces(t, n, []string{}, all...)
	if list := companions(t, n); len(list) > 0 || hasDatabase(t, n, app.user.address) || hasDatabase(t, n, app.pieces.address) {
		t.Errorf("databases of a former companion are left: %+v", list)
	}
}

func TestLibraryThatIsSaidToBeOfAnotherPeerIsNotFollowed(t *testing.T) {
	t.Parallel()
	n, other := harness.New(t).Start(), harness.New(t)
	app := startTutorialApp(t, "mallory", other.PeerID())
	app.pieces.writeEach(piece(prelude, "instrument", "Piano"))
	app.offer(n)
	awaitOffer(t, n, app.peerID(), app.user.address)

	text := n.MustRun("npp", "companions", "add", app.peerID(), "--wait", harness.Patience.String())
	if !strings.Contains(text, other.PeerID()) {
		t.Errorf("companions add does not state the reason: %s", text)
	}
	awaitCompanion(t, n, "the reason for not following is listed", func(c companionLine) bool {
		return c.Peer == app.peerID() && len(c.Troubles) == 1 && strings.Contains(c.Troubles[0], other.PeerID())
	})
	eventually(t, "its pieces are not followed", func() (any, bool) {
		return app.pieces.address, !hasDatabase(t, n, app.pieces.address)
	})
	if got := listedPieces(t, n, "pieces", "ls", "--all"); slices.Contains(got, prelude+" Piano") {
		t.Errorf("its pieces are listed: %q", got)
	}

	// Once it announces its own peer ID, its pieces are followed.
	app.user.writeEach(field("nodeId", app.peerID()))
	awaitPieces(t, n, []string{prelude + " Piano"}, "pieces", "ls", "--all")
	awaitCompanion(t, n, "no trouble any more", func(c companionLine) bool { return len(c.Troubles) == 0 && c.Name == "mallory" })
}

// shownCard is a card that JavaScript received.
type shownCard struct {
	Peer string
	Card struct {
		Username, User string
		Follows        bool
	}
}

// awaitCard waits until the last card that a daemon sent satisfies ok.
func (js *node) awaitCard(n *harness.Node, what string, ok func(shownCard) bool) {
	js.t.Helper()
	eventually(js.t, what, func() (any, bool) {
		var cards []shownCard
		js.do(&cards, "cards", nil)
		return cards, len(cards) > 0 && cards[len(cards)-1].Peer == n.PeerID() && ok(cards[len(cards)-1])
	})
}

func TestLibraryOfJavaScriptThatShowsACardIsFollowedWithoutAnOffer(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	n.MustRun("npp", "profile", "set", "username", "clara")
	app := startTutorialApp(t, "robert", "")
	app.pieces.writeEach(piece(prelude, "instrument", "Piano"))
	app.do(nil, "card", args{"card": map[string]any{"username": "robert", "user": app.user.address, "follows": true}})
	app.connect(n)
	user := addressOf(t, n, "user")
	app.awaitCard(n, "a card", func(c shownCard) bool {
		return c.Card.Username == "clara" && c.Card.User == user && !c.Card.Follows
	})
	eventually(t, "it is nearby", func() (any, bool) {
		list := lines[companionLine](t, n, "npp", "companions", "ls", "--nearby")
		return list, len(list) == 1 && list[0].Peer == app.peerID() && list[0].Name == "robert" &&
			list[0].User == app.user.address && list[0].Follows && !list[0].Companion
	})

	n.MustRun("npp", "companions", "add", "--yes", "robert")
	awaitPieces(t, n, []string{prelude + " Piano"}, "pieces", "ls", "--all")
	awaitCompanion(t, n, "both follow", func(c companionLine) bool {
		return c.Name == "robert" && c.Follows && c.Pieces != nil && *c.Pieces == 1 && len(c.Troubles) == 0
	})
	app.awaitCard(n, "a card that says that it is followed", func(c shownCard) bool { return c.Card.Follows })
	n.MustRun("npp", "profile", "set", "username", "clara s.")
	app.awaitCard(n, "a card with another name", func(c shownCard) bool { return c.Card.Username == "clara s." })
	n.MustRun("npp", "companions", "rm", "robert")
	app.awaitCard(n, "a card that says that it is followed no more", func(c shownCard) bool { return !c.Card.Follows })
}
