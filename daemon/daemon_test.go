package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// patience bounds how long a test that fails waits for an event.
const patience = time.Minute

func start(t *testing.T, dir string) *node {
	t.Helper()
	n, err := startNode(t.Context(), dir)
	must(t, err)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func send(t *testing.T, from, to *node, text string) {
	t.Helper()
	outcome, err := from.Messages.Send(t.Context(), message.Outgoing{To: to.addrs, Data: []byte(text)})
	must(t, err)
	if outcome.Status != message.Delivered {
		t.Errorf("%s: %s", text, outcome.Status)
	}
}

// received returns the messages that are stored.
func received(t *testing.T, n *node) (texts []string) {
	t.Helper()
	for m, err := range n.Messages.List(t.Context(), message.Filter{Since: message.SinceAll}) {
		must(t, err)
		texts = append(texts, string(m.Data))
	}
	return texts
}

func orbitOf(t *testing.T, n *node) *orbit.Orbit {
	t.Helper()
	o, err := n.Orbit()
	must(t, err)
	return o
}

func replicatorOf(t *testing.T, n *node) *replicate.Replicator {
	t.Helper()
	r, err := n.Replicator()
	must(t, err)
	return r
}

func libraryOf(t *testing.T, n *node) *library.Library {
	t.Helper()
	l, err := n.Library()
	must(t, err)
	return l
}

func keyValue(t *testing.T, n *node, address string) *orbit.KeyValue {
	t.Helper()
	db, err := orbitOf(t, n).Open(t.Context(), address, orbit.OpenOptions{})
	must(t, err)
	kv, err := db.KeyValue()
	must(t, err)
	return kv
}

// awaitKey waits until a replicated database has a key.
func awaitKey(t *testing.T, n *node, address, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s, err := range replicatorOf(t, n).Follow(ctx, address) {
		must(t, err)
		if s.State != replicate.Open {
			continue
		}
		if _, err := keyValue(t, n, address).Get(ctx, key); err == nil {
			return
		}
	}
	t.Fatalf("there is no key %q", key)
}

// awaitPiece waits until a piece with a title is in the catalog.
func awaitPiece(t *testing.T, l *library.Library, title string) piece.Piece {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		pieces, _, err := l.Pieces(ctx, library.Query{All: true})
		must(t, err)
		for p, err := range pieces {
			must(t, err)
			if p.Title == title {
				return p.Piece
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("there is no piece %q", title)
		}
	}
}

func addPiece(t *testing.T, n *node, title string, file []byte) {
	t.Helper()
	_, _, err := libraryOf(t, n).AddFile(t.Context(), files.NewBytesFile(file), title+".txt", library.Details{Title: &title})
	must(t, err)
}

func fetch(t *testing.T, n *node, p piece.Piece) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := libraryOf(t, n).Fetch(ctx, p)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return b
}

func TestMessageIsDeliveredWithAReceipt(t *testing.T) {
	alice, bob := start(t, t.TempDir()), start(t, t.TempDir())
	send(t, alice, bob, `"hello"`)
	if got := received(t, bob); len(got) != 1 || got[0] != `"hello"` {
		t.Errorf("received %q", got)
	}
}

func TestDatabaseIsReplicated(t *testing.T) {
	alice, bob := start(t, t.TempDir()), start(t, t.TempDir())
	db, err := orbitOf(t, alice).Create(t.Context(), "gigs", orbit.Options{Type: orbit.TypeKeyValue})
	must(t, err)
	_, err = keyValue(t, alice, db.Address()).Put(t.Context(), "venue", "the cellar")
	must(t, err)
	_, err = bob.Swarm.Connect(t.Context(), alice.addrs)
	must(t, err)
	must(t, replicatorOf(t, bob).Open(t.Context(), db.Address(), orbit.OpenOptions{}))
	awaitKey(t, bob, db.Address(), "venue")
}

// discovers returns the peers that bitswap would ask for a piece, if routing
// knows one more.
func discovers(t *testing.T, n *node, p piece.Piece, more peer.ID) (found []peer.ID) {
	t.Helper()
	c, err := cid.Decode(p.Hash)
	must(t, err)
	for info := range n.npp.Discovery(oneProvider{more}).FindProvidersAsync(t.Context(), c, 0) {
		found = append(found, info.ID)
	}
	return found
}

type oneProvider struct{ peer.ID }

func (p oneProvider) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	found := make(chan peer.AddrInfo, 1)
	found <- peer.AddrInfo{ID: p.ID}
	close(found)
	return found
}

func TestBitswapAsksCompanionsBeforeRouting(t *testing.T) {
	dir := t.TempDir()
	alice, bob := start(t, t.TempDir()), start(t, dir)
	addPiece(t, alice, "Scale", []byte("do re mi"))
	_, err := libraryOf(t, bob).AddCompanion(t.Context(), alice.addrs)
	must(t, err)
	p := awaitPiece(t, libraryOf(t, bob), "Scale")
	if found := discovers(t, bob, p, "other"); !slices.Equal(found, []peer.ID{alice.ID(), "other"}) {
		t.Errorf("found %q", found)
	}
	must(t, bob.Close())
	if found := discovers(t, bob, p, "other"); !slices.Equal(found, []peer.ID{"other"}) {
		t.Errorf("found %q without a daemon", found)
	}
}

// The file has several blocks.
func TestCompanionFindsAndFetchesAPiece(t *testing.T) {
	alice, bob := start(t, t.TempDir()), start(t, t.TempDir())
	file := bytes.Repeat([]byte("do re mi fa "), 50_000)
	addPiece(t, alice, "Scale", file)
	_, err := libraryOf(t, bob).AddCompanion(t.Context(), alice.addrs)
	must(t, err)
	if got := fetch(t, bob, awaitPiece(t, libraryOf(t, bob), "Scale")); !bytes.Equal(got, file) {
		t.Errorf("fetched %d bytes, want %d", len(got), len(file))
	}
	status, err := bob.Status(t.Context())
	must(t, err)
	if status.Companions != 1 || status.Online != 1 || status.Pieces != 1 || !status.Pubsub || status.NPP != 1 || len(status.LibraryDatabases) != 4 {
		t.Errorf("status: %+v", status)
	}
}

func TestNodeContinuesAfterARestart(t *testing.T) {
	dir := t.TempDir()
	alice, bob := start(t, t.TempDir()), start(t, dir)
	send(t, alice, bob, `"before"`)
	db, err := orbitOf(t, alice).Create(t.Context(), "gigs", orbit.Options{Type: orbit.TypeKeyValue})
	must(t, err)
	put := func(key string) {
		t.Helper()
		_, err = keyValue(t, alice, db.Address()).Put(t.Context(), key, "the cellar")
		must(t, err)
	}
	put("before")
	must(t, replicatorOf(t, bob).Open(t.Context(), db.Address(), orbit.OpenOptions{}))
	awaitKey(t, bob, db.Address(), "before")
	addPiece(t, alice, "Before", []byte("do"))
	_, err = libraryOf(t, bob).AddCompanion(t.Context(), alice.addrs)
	must(t, err)
	fetch(t, bob, awaitPiece(t, libraryOf(t, bob), "Before"))
	identity := orbitOf(t, bob).Identity().ID

	must(t, bob.Close())
	put("meanwhile")
	again := start(t, dir)
	if again.ID() != bob.ID() || orbitOf(t, again).Identity().ID != identity {
		t.Error("the node has another identity")
	}
	if _, err := keyValue(t, again, db.Address()).Get(t.Context(), "before"); err != nil {
		t.Error(err)
	}
	awaitPiece(t, libraryOf(t, again), "Before")

	awaitKey(t, again, db.Address(), "meanwhile")
	put("after")
	awaitKey(t, again, db.Address(), "after")
	addPiece(t, alice, "After", []byte("re"))
	if got := fetch(t, again, awaitPiece(t, libraryOf(t, again), "After")); string(got) != "re" {
		t.Errorf("fetched %q", got)
	}
	send(t, alice, again, `"after"`)
	if got := received(t, again); len(got) != 2 || got[0] != `"before"` || got[1] != `"after"` {
		t.Errorf("received %q", got)
	}
}

// newDaemon starts a daemon without a router, an exchange or companions.
func newDaemon(t *testing.T, ds datastore.Batching, edit func(*daemon.Config)) (*daemon.Daemon, error) {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs)
	must(t, err)
	t.Cleanup(func() { h.Close() })
	c := daemon.Config{Host: h, Datastore: ds, Keystore: keystore.NewMemKeystore(), Blocks: daemon.NewBlocks(ds)}
	edit(&c)
	return daemon.New(t.Context(), c)
}

func memory() datastore.Batching { return dssync.MutexWrap(datastore.NewMapDatastore()) }

func TestNodeServesTheBlocksOfDatabases(t *testing.T) {
	ds := memory()
	var served blockstore.Blockstore
	d, err := newDaemon(t, ds, func(c *daemon.Config) { served = c.Blocks.Overlay(blockstore.NewBlockstore(ds)) })
	must(t, err)
	defer d.Close()
	o, err := d.Orbit()
	must(t, err)
	db, err := o.Create(t.Context(), "gigs", orbit.Options{})
	must(t, err)
	manifest, err := cid.Decode(strings.TrimPrefix(db.Address(), "/orbitdb/"))
	must(t, err)
	if has, err := served.Has(t.Context(), manifest); !has || err != nil {
		t.Errorf("%v, %v", has, err)
	}
}

// A command that uses a part ends with an error of that part, not with that of
// its context.
func TestContextEndsAfterAllParts(t *testing.T) {
	d, err := newDaemon(t, memory(), func(*daemon.Config) {})
	must(t, err)
	o, err := d.Orbit()
	must(t, err)
	ctx := d.UntilClosed(t.Context())
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		_, err := o.Create(context.Background(), "gigs", orbit.Options{})
		ended <- err
	})
	if ctx.Err() != nil {
		t.Error("the context ended before the daemon")
	}
	must(t, d.Close())
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, daemon.ErrStopping) {
		t.Errorf("cause: %v", err)
	}
	if err := <-ended; !errors.Is(err, orbit.ErrClosed) {
		t.Errorf("databases at the end of the context: %v", err)
	}
	<-d.UntilClosed(t.Context()).Done()
}

// brokenKeys have no keys and take none.
type brokenKeys struct{ *keystore.MemKeystore }

var errBroken = errors.New("broken keystore")

func (brokenKeys) Has(string) (bool, error) { return false, errBroken }

func TestDaemonRunsWithoutDatabasesThatFail(t *testing.T) {
	d, err := newDaemon(t, memory(), func(c *daemon.Config) { c.Keystore = brokenKeys{keystore.NewMemKeystore()} })
	must(t, err)
	defer d.Close()
	_, err = d.Orbit()
	_, replicatorErr := d.Replicator()
	_, libraryErr := d.Library()
	for _, err := range []error{err, replicatorErr, libraryErr} {
		if !errors.Is(err, errBroken) {
			t.Errorf("got %v, want %v", err, errBroken)
		}
	}
	status, err := d.Status(t.Context())
	must(t, err)
	found := false
	for _, a := range status.Attention {
		found = found || a.About == "databases" && errors.Is(a.Err, errBroken) && a.Advice != ""
	}
	if !found {
		t.Errorf("attention: %+v", status.Attention)
	}
	must(t, d.Messages.Close())
}

func TestStatusHasTheAdviceOnTheConfiguration(t *testing.T) {
	d, err := newDaemon(t, memory(), func(c *daemon.Config) {
		c.Advice = func() ([]string, error) { return []string{"Bootstrap is empty"}, nil }
	})
	must(t, err)
	defer d.Close()
	status, err := d.Status(t.Context())
	must(t, err)
	var texts []string
	for _, a := range status.Attention {
		if a.About == "config" {
			texts = append(texts, a.Err.Error())
		}
	}
	if len(texts) != 2 || texts[0] != "Bootstrap is empty" || status.Pubsub {
		t.Errorf("attention: %q", texts)
	}
}

// The daemon closes what it opened, and nothing that it was given.
func TestDatastoreIsTheCallers(t *testing.T) {
	dir := t.TempDir()
	ds, keys := memory(), keystore.NewMemKeystore()
	for range 2 {
		d, err := newDaemon(t, ds, func(c *daemon.Config) { c.Directory, c.Keystore = dir, keys })
		must(t, err)
		must(t, d.Close())
		must(t, ds.Put(t.Context(), datastore.NewKey("/other"), nil))
	}
}
