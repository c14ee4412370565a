package replicate_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space/spacetest"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/test/loopback"
)

// finds waits until an examination has a finding like this.
func (n *node) finds(address string, want replicate.Finding) {
	n.t.Helper()
	var found []replicate.Finding
	defer func() {
		if n.t.Failed() {
			n.t.Logf("wanted %+v", want)
			for _, f := range found {
				n.t.Logf("found %+v", f)
			}
		}
	}()
	eventually(n.t, "a finding of "+want.Check, func() bool {
		examine := n.Examine
		if want.Check == replicate.CheckEntries {
			examine = n.ExamineDeep
		}
		var err error
		found, err = examine(n.t.Context(), address)
		must(n.t, err)
		for _, f := range found {
			if f.Check == want.Check && f.Level == want.Level && strings.Contains(f.Text, want.Text) && strings.Contains(f.Advice, want.Advice) && f.Peer == want.Peer {
				return true
			}
		}
		return false
	})
}

// findsNoProblem waits until an examination finds no problem.
func (n *node) findsNoProblem(address string) {
	n.t.Helper()
	n.finds(address, replicate.Finding{Check: replicate.CheckSummary, Level: replicate.OK})
	found, err := n.Examine(n.t.Context(), address)
	must(n.t, err)
	for _, f := range found {
		if f.Level == replicate.Problem || f.Level == replicate.OK && f.Advice != "" || f.Text == "" {
			n.t.Errorf("%+v", f)
		}
	}
}

func circuit(t testing.TB, relay libp2ppeer.ID) ma.Multiaddr {
	t.Helper()
	addr, err := ma.NewMultiaddr("/p2p/" + relay.String() + "/p2p-circuit")
	must(t, err)
	return addr
}

func TestDoctorFollowsADatabaseUntilItIsInSync(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "one")
	if _, err := b.Examine(t.Context(), address); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	b.open(address)
	b.finds(address, replicate.Finding{Check: replicate.CheckState, Level: replicate.Problem, Text: "its manifest is missing: " + strings.TrimPrefix(address, "/orbitdb/"), Advice: "connect to <peer>"})
	b.finds(address, replicate.Finding{Check: replicate.CheckPeers, Level: replicate.Problem, Text: "no peer is connected", Advice: "connect to <peer>"})
	must(t, a.CloseDatabase(t.Context(), address))
	b.connect(a)
	b.finds(address, replicate.Finding{Check: replicate.CheckPeers, Level: replicate.Problem, Text: "1 peer is connected directly, and none has it open", Advice: "open the database there"})
	a.finds(address, replicate.Finding{Check: replicate.CheckState, Level: replicate.Problem, Text: "it is closed", Advice: "open " + address})
	a.open(address)
	b.finds(address, replicate.Finding{Check: replicate.CheckHeads, Level: replicate.OK, Text: "in sync at", Peer: a.host.ID()})
	b.finds(address, replicate.Finding{Check: replicate.CheckWritable, Level: replicate.OK})
	b.findsNoProblem(address)
	b.disconnect(a)
	b.finds(address, replicate.Finding{Check: replicate.CheckHeads, Level: replicate.Note, Text: "it does not have it open any more", Peer: a.host.ID()})
}

func TestDoctorSaysThatPubsubIsOff(t *testing.T) {
	a := newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	own := store.New(a.disk, "/other")
	defer own.Close()
	r, err := replicate.New(t.Context(), replicate.Config{Orbit: a.Orbit, Store: own, Host: a.host, Phrase: func(o replicate.Operation, _ ...string) string {
		return "please " + string(o)
	}})
	must(t, err)
	defer r.Close()
	found, err := r.Examine(t.Context(), address)
	must(t, err)
	if f := found[0]; f.Check != replicate.CheckPubsub || f.Level != replicate.Note || f.Advice != "please turn on pubsub" {
		t.Errorf("%+v", found)
	}
}

func TestDoctorNamesPeersThatCannotReplicate(t *testing.T) {
	a := newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()

	// A peer that only subscribes.
	subscriber := loopback.Host(t)
	r, err := router.New(t.Context(), subscriber, router.Options{})
	must(t, err)
	sub, err := r.Subscribe(address, nil)
	must(t, err)
	defer sub.Cancel()

	// A peer that is connected over a relay only.
	relay := loopback.Host(t, libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic())
	far := loopback.Host(t)
	at := libp2ppeer.AddrInfo{ID: relay.ID(), Addrs: relay.Addrs()}
	must(t, far.Connect(testContext(t), at))
	_, err = client.Reserve(testContext(t), far, at)
	must(t, err)
	way := libp2ppeer.AddrInfo{ID: far.ID()}
	for _, addr := range relay.Addrs() {
		way.Addrs = append(way.Addrs, addr.Encapsulate(circuit(t, relay.ID())))
	}
	must(t, a.host.Connect(network.WithAllowLimitedConn(testContext(t), "test"), way))
	a.finds(address, replicate.Finding{Check: replicate.CheckRelay, Level: replicate.Problem, Text: "over a relay only", Advice: "connect directly", Peer: far.ID()})

	// A peer that did not identify itself.
	silent := loopback.Host(t)
	loopback.Connect(t, a.host, silent)
	eventually(t, "it is identified", func() bool {
		known, err := a.host.Peerstore().GetProtocols(silent.ID())
		must(t, err)
		return len(known) > 0
	})
	must(t, a.host.Peerstore().SetProtocols(silent.ID()))
	defer replicate.SetIdentifyAfter(0)()
	a.finds(address, replicate.Finding{Check: replicate.CheckIdentify, Level: replicate.Problem, Text: "did not identify itself", Advice: "100 databases", Peer: silent.ID()})

	loopback.Connect(t, a.host, subscriber)
	a.finds(address, replicate.Finding{Check: replicate.CheckHeads, Level: replicate.Problem, Text: "exchanges no heads", Advice: "open the database there", Peer: subscriber.ID()})
	a.finds(address, replicate.Finding{Check: replicate.CheckBitswap, Level: replicate.Problem, Text: "does not speak bitswap", Peer: subscriber.ID()})
	// If a peer has the database open, the others matter less.
	a.finds(address, replicate.Finding{Check: replicate.CheckRelay, Level: replicate.Note, Advice: "connect directly", Peer: far.ID()})
}

func TestDoctorExplainsRefusals(t *testing.T) {
	a, evil := newNode(t), newNode(t)
	fixed, err := a.Create(t.Context(), "mine", orbit.Options{})
	must(t, err)
	managed := a.createManaged("band")
	evil.connect(a)
	for _, test := range []struct {
		db     *orbit.Database
		advice string
	}{{fixed, "its access list is fixed"}, {managed, "grant " + managed.Address() + " <identity>"}} {
		address := test.db.Address()
		for i := range 2 {
			evil.offered(a, address, written(t, evil.signer(), address, fmt.Sprint(i), nil).Block)
		}
		must(t, evil.PutBlocks(t.Context(), evil.signer().Block()))
		a.finds(address, replicate.Finding{Check: replicate.CheckRefused, Level: replicate.Problem, Text: "may not write", Advice: test.advice})
		other := strings.Replace(address, "zdpu", "zdpv", 1)
		evil.offered(a, address, written(t, evil.signer(), other, "other", nil).Block)
		a.finds(address, replicate.Finding{Check: replicate.CheckRefused, Level: replicate.Note, Text: "of another database"})
	}
	// Entries of a granted writer are accepted, and not listed as refused any
	// more.
	must(t, managed.Access().Grant(t.Context(), orbit.CapabilityWrite, evil.Identity().ID))
	evil.open(managed.Address())
	eventually(t, "the entries of the writer are accepted, and not listed as refused", func() bool {
		return len(a.hashes(managed.Address())) == 2 && len(a.refused(managed.Address())) == 1
	})
	evil.finds(managed.Address(), replicate.Finding{Check: replicate.CheckWritable, Level: replicate.OK})
	evil.open(fixed.Address())
	evil.finds(fixed.Address(), replicate.Finding{Check: replicate.CheckWritable, Level: replicate.Note, Text: "the access list is fixed"})
}

func TestDoctorNamesMissingBlocksAndAskedPeers(t *testing.T) {
	t.Parallel()
	a, b, address := newPair(t)
	lost := absent("lost")
	b.offered(a, address, written(t, b.signer(), address, "orphan", []entry.Position{lost}).Block)
	a.finds(address, replicate.Finding{Check: replicate.CheckMissing, Level: replicate.Note, Text: "1 entry is pending"})
	a.finds(address, replicate.Finding{Check: replicate.CheckMissing, Level: replicate.Problem, Text: lost.Hash + ", requested since ", Advice: "connect to the peer that wrote it"})
	a.finds(address, replicate.Finding{Check: replicate.CheckMissing, Level: replicate.Problem, Text: ", last from " + b.host.ID().String()})
}

func TestDoctorNotesAClockThatWasSet(t *testing.T) {
	a := newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	first := written(t, a.signer(), address, "first", nil)
	far := entry.Position{Rank: entry.Rank{Time: 1 << 52}, ID: first.Clock.ID, Hash: first.Hash()}
	_, err := a.database(address).Join(t.Context(), orbit.NewCandidates(first.Block, written(t, a.signer(), address, "far", []entry.Position{far}).Block), orbit.JoinOptions{})
	must(t, err)
	a.finds(address, replicate.Finding{Check: replicate.CheckClock, Level: replicate.Note, Text: "with 2 entries"})
}

// A deep examination names the entries that are authorized on one side only.
func TestDeepExaminationNamesEntriesThatDiffer(t *testing.T) {
	disk := spacetest.New()
	a, b := newNode(t), newNodeAs(t, func(n *node) { n.space = disk.Disk })
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "both")
	b.open(address)
	b.connect(a)
	wantSame(t, address, 1, a, b)
	compared := func(level replicate.Level, text string) {
		t.Helper()
		b.finds(address, replicate.Finding{Check: replicate.CheckEntries, Level: level, Text: text, Peer: a.host.ID()})
	}
	compared(replicate.OK, "the same entries are authorized there")
	disk.Set(spacetest.Floor - 1) // b accepts nothing any more
	a.add(address, "at a alone")
	compared(replicate.Note, "entry "+a.hashes(address)[0]+" is authorized there and not here: it is not here")
}
