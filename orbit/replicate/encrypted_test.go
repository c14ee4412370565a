package replicate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/orbit/value"
)

// encrypted returns a block like those in which JavaScript encrypts an entry as
// a whole (encryption.replication).
func encrypted(text string) block.Block {
	return block.New(dagcbor.AppendBytes(nil, []byte(text)))
}

// status returns the status of a database at the node.
func (n *node) status(address string) replicate.Status {
	n.t.Helper()
	s, err := n.Status(n.t.Context(), address)
	must(n.t, err)
	return s
}

func TestDatabaseThatIsEncryptedAsAWholeIsNotHealthy(t *testing.T) {
	begun := time.Now()
	a, b, address := newPair(t)
	app := newNode(t)
	app.connect(a)
	eventually(t, "two empty replicas are in sync", func() bool { return a.status(address).Settled(begun) })
	app.offered(a, address, encrypted("one"), encrypted("two"))
	eventually(t, "it is encrypted", func() bool { return a.status(address).Encrypted })
	if s := a.status(address); s.State != replicate.Open || s.Settled(begun) {
		t.Errorf("%+v", s)
	}
	for _, p := range a.status(address).Peers {
		if !p.InSync.IsZero() {
			t.Errorf("in sync with %s", p.ID)
		}
	}
	for s, err := range a.Follow(t.Context(), address) {
		must(t, err)
		if !s.Encrypted {
			t.Errorf("a follower sees %+v", s)
		}
		break
	}
	a.finds(address, replicate.Finding{Check: replicate.CheckState, Level: replicate.Problem, Text: "encrypted as a whole", Advice: "encryption.data"})
	a.finds(address, replicate.Finding{Check: replicate.CheckRefused, Level: replicate.Problem, Text: "2 entries, each was refused because it is encrypted", Advice: "the key"})
	a.finds(address, replicate.Finding{Check: replicate.CheckHeads, Level: replicate.Note, Text: "no entries that can be read, either", Peer: b.host.ID()})
	a.findsNot(address, replicate.CheckSummary, replicate.OK)
	a.findsNot(address, replicate.CheckHeads, replicate.OK)
	a.findsNot(address, replicate.CheckState, replicate.OK)

	// Anybody can send such blocks: readable entries arrive all the same.
	b.add(address, "plain")
	wantSame(t, address, 1, a, b)
	eventually(t, "it is open", func() bool { s := a.status(address); return !s.Encrypted && s.Settled(begun) })
	a.finds(address, replicate.Finding{Check: replicate.CheckState, Level: replicate.OK, Text: "1 entry"})
	a.finds(address, replicate.Finding{Check: replicate.CheckRefused, Level: replicate.Problem, Text: "encrypted as a whole", Advice: "the key"})
	a.findsNot(address, replicate.CheckSummary, replicate.OK)
}

// findsNot checks that an examination has no finding like this.
func (n *node) findsNot(address, check string, level replicate.Level) {
	n.t.Helper()
	found, err := n.Examine(n.t.Context(), address)
	must(n.t, err)
	for _, f := range found {
		if f.Check == check && f.Level == level {
			n.t.Errorf("it finds %+v", f)
		}
	}
}

func TestDoctorIsNotContentWithRefusals(t *testing.T) {
	a, b, address := newPair(t)
	b.findsNoProblem(address)
	other := strings.Replace(address, "zdpu", "zdpv", 1)
	a.offered(b, address, written(t, a.signer(), other, "other", nil).Block)
	b.finds(address, replicate.Finding{Check: replicate.CheckRefused, Level: replicate.Note, Text: "of another database"})
	b.finds(address, replicate.Finding{Check: replicate.CheckSummary, Level: replicate.Note, Text: "entries were refused"})
	b.findsNot(address, replicate.CheckSummary, replicate.OK)
}

func TestDoctorSaysThatAppsEncryptTheValues(t *testing.T) {
	a, b, address := newPair(t)
	sealed, err := value.Of([]byte("secret"))
	must(t, err)
	e, err := entry.New(a.signer(), address, sealed, nil, nil)
	must(t, err)
	a.offered(b, address, e.Block)
	wantSame(t, address, 1, b)
	b.finds(address, replicate.Finding{Check: replicate.CheckValues, Level: replicate.Note, Text: "encryption.data", Advice: string(replicate.WritePlain)})
	b.findsNoProblem(address)
}

func TestDoctorSaysThatEventsAreOfAnotherType(t *testing.T) {
	a := newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "an event")
	a.findsNot(address, replicate.CheckType, replicate.Note)
	for payload, advice := range map[string]string{
		`{"op":"PUT","key":"a","value":{"_id":"a"}}`: "documents keyvalue",
		`{"op":"PUT","key":"a","value":1}`:           "keyvalue",
		`{"op":"DEL","key":"a","value":null}`:        "keyvalue",
	} {
		v, err := value.FromJSON([]byte(payload))
		must(t, err)
		_, err = oplog.Of(a.database(address)).Append(t.Context(), a.signer(), v)
		must(t, err)
		a.finds(address, replicate.Finding{Check: replicate.CheckType, Level: replicate.Note, Text: "events by its manifest", Advice: "open as " + address + " " + advice})
	}
	must(t, a.Replicator.Open(t.Context(), address, orbit.OpenOptions{Type: orbit.TypeKeyValue}))
	a.findsNot(address, replicate.CheckType, replicate.Note)
}

func TestDoctorNamesAnUnknownTypeOfAccessController(t *testing.T) {
	a, b := newNode(t), newNode(t)
	b.connect(a)
	m, err := manifest.Manifest{Name: "band", Type: orbit.TypeEvents, AccessController: "/custom/" + a.Identity().Hash()}.Block()
	must(t, err)
	must(t, a.PutBlocks(t.Context(), m))
	address := manifest.Address(m.Hash)
	b.open(address)
	b.finds(address, replicate.Finding{Check: replicate.CheckState, Level: replicate.Problem, Text: `it cannot be opened: its access controller is of type "custom", which npp does not know`, Advice: "close /orbitdb/"})
	var unknown *orbit.AccessTypeError
	if s := b.status(address); s.State != replicate.Failed || !errors.As(s.Err, &unknown) {
		t.Errorf("%+v", s)
	}
}

func TestTypeIsRememberedUntilTheDatabaseArrives(t *testing.T) {
	a, b := newNode(t), newNode(t)
	db := a.create("pieces", orbit.TypeEvents)
	signer, err := identity.Load(a.keys, "orbitdb-root", "orbitdb-signing")
	must(t, err)
	doc, err := value.FromJSON([]byte(`{"hash":"Qm1"}`))
	must(t, err)
	_, err = oplog.Of(db).Append(t.Context(), signer, keyed.Put(value.Text("Qm1"), doc))
	must(t, err)
	address := db.Address()
	must(t, b.Replicator.Open(t.Context(), address, orbit.OpenOptions{Type: orbit.TypeDocuments}))
	must(t, b.Replicator.Open(t.Context(), address, orbit.OpenOptions{IndexBy: "hash"}))
	b.open(address)
	b.restart()
	b.connect(a)
	wantSame(t, address, 1, a, b)
	got := b.database(address)
	if got.Type() != orbit.TypeDocuments || got.IndexBy() != "hash" {
		t.Errorf("%s by %q", got.Type(), got.IndexBy())
	}
	docs, err := got.Documents()
	must(t, err)
	if _, err := docs.Get(t.Context(), "Qm1"); err != nil {
		t.Error(err)
	}
	// The type of an open database changes, and its replication goes on.
	must(t, b.Replicator.Open(t.Context(), address, orbit.OpenOptions{Type: orbit.TypeEvents}))
	a.add(address, "more")
	wantSame(t, address, 2, a, b)

	// A database whose manifest names another type is not opened with this
	// type.
	fixed := a.create("kv", orbit.TypeKeyValue).Address()
	must(t, b.Replicator.Open(t.Context(), fixed, orbit.OpenOptions{Type: orbit.TypeDocuments}))
	b.finds(fixed, replicate.Finding{Check: replicate.CheckState, Level: replicate.Problem, Text: "its manifest says keyvalue", Advice: "open as " + fixed})
}
