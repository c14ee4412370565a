package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/newpieceplease/npp/test/harness"
)

func init() {
	for command, args := range map[string][]string{
		"ls":    nil,
		"add":   {somePeer},
		"rm":    {somePeer},
		"watch": nil,
	} {
		calls["ipfs npp companions "+command] = append([]string{"npp", "companions", command}, args...)
	}
	calls["ipfs npp status"] = []string{"npp", "status"}
}

// nowhere is the address of a database that nobody has.
const nowhere = "/orbitdb/zdpuAwHevBbd7V9QXeP8zC1pdb3HmugJ7zgzKnyiWxJG3p2Y4"

// companionRow is a line of `npp companions ls`.
type companionRow struct {
	Peer, Name, NameNow, User, Address string
	Companion, Follows, Connected      bool
	Pieces                             *int
	InStep                             *time.Time
	Troubles                           []string
	Offer                              *offerRow
}

// offerRow is a user store that a message offers.
type offerRow struct {
	Address, Via, Error string
	Legacy              bool
	At                  *time.Time
}

// who says who follows whom.
func (r companionRow) who() string {
	switch {
	case r.Companion && r.Follows:
		return "both follow"
	case r.Companion:
		return "you follow"
	case r.Follows:
		return "follows you"
	}
	return "-"
}

// statusRow is the output of `npp status`.
type statusRow struct {
	Peer, Username, Version string
	Since                   time.Time
	Peers, NPP              int
	Pubsub                  bool
	Stores                  []struct {
		Name, Address, Error string
		Entries, Keys        uint64
		Open                 int
		InStep               *time.Time
	}
	Databases, Fetching int
	Companions          struct{ Followed, Online, Followers, Pieces int }
	Messages            struct{ DirectBytes, PubsubBytes, MaxBytes, Refused uint64 }
	Attention           []attentionRow
}

type attentionRow struct{ About, Name, Text, Advice string }

// about is what needs attention, of one kind.
func (s statusRow) about(what string) (found []attentionRow) {
	for _, a := range s.Attention {
		if a.About == what {
			found = append(found, a)
		}
	}
	return found
}

// ask calls a command below `npp` over the RPC, and returns what it prints.
func ask[T any](t *testing.T, n *harness.Node, command string, query url.Values) []T {
	t.Helper()
	return decodeLines[T](t, rpc(t, n, "npp/"+command, query))
}

func statusOf(t *testing.T, n *harness.Node) statusRow {
	t.Helper()
	return ask[statusRow](t, n, "status", nil)[0]
}

// companions is what `npp companions ls` lists, by peer ID.
func companions(t *testing.T, n *harness.Node) map[string]companionRow {
	t.Helper()
	listed := make(map[string]companionRow)
	for _, r := range ask[companionRow](t, n, "companions/ls", nil) {
		if _, twice := listed[r.Peer]; twice {
			t.Errorf("%s is listed twice", r.Peer)
		}
		listed[r.Peer] = r
	}
	return listed
}

// offers is what `npp companions ls --offers` lists, by peer ID.
func offers(t *testing.T, n *harness.Node) map[string]offerRow {
	t.Helper()
	listed := make(map[string]offerRow)
	for _, r := range ask[companionRow](t, n, "companions/ls", url.Values{"offers": {"true"}}) {
		listed[r.Peer] = *r.Offer
	}
	return listed
}

// nearby is the names of the peers with npp that are connected, by peer ID.
func nearby(t *testing.T, n *harness.Node) map[string]string {
	t.Helper()
	names := make(map[string]string)
	for _, r := range ask[companionRow](t, n, "companions/ls", url.Values{"nearby": {"true"}}) {
		names[r.Peer] = r.Name
	}
	return names
}

// musician starts a daemon whose owner has a name. It listens at the same port
// whenever it runs, and finds nobody by itself.
func musician(t *testing.T, name string) *harness.Node {
	t.Helper()
	n := quiet(t).Start()
	n.KeepPort()
	rename(t, n, name)
	return n
}

// rename changes how the owner is called.
func rename(t *testing.T, n *harness.Node, name string) {
	t.Helper()
	value, err := json.Marshal(name)
	if err != nil {
		t.Fatal(err)
	}
	put(t, n, "user", "username", string(value))
}

// put puts into a database over the RPC.
func put(t *testing.T, n *harness.Node, args ...string) {
	t.Helper()
	if _, err := ways["RPC"](t, n, call{"db/put", args, nil, nil}); err != "" {
		t.Fatalf("db put %q: %s", args, err)
	}
}

// addPiece puts a piece whose file is nowhere.
func addPiece(t *testing.T, n *harness.Node, hash, title string) {
	t.Helper()
	put(t, n, "pieces", fmt.Sprintf(`{"hash":%q,"instrument":"Piano","title":%q}`, hash, title))
}

// meet waits until both daemons, which are connected, have shown each other how
// they are called.
func meet(t *testing.T, a, b *harness.Node) {
	t.Helper()
	for _, way := range [][]*harness.Node{{a, b}, {b, a}} {
		want := statusOf(t, way[1]).Username
		eventually(t, "the name of "+want, func() bool { return nearby(t, way[0])[way[1].PeerID()] == want })
	}
}

// follow makes one daemon follow others, which are connected, and waits for their
// libraries.
func follow(t *testing.T, n *harness.Node, others ...*harness.Node) {
	t.Helper()
	for _, other := range others {
		for _, l := range ask[struct{ Status string }](t, n, "companions/add", url.Values{"arg": {other.PeerID()}, "wait": {"1m"}}) {
			if !slices.Contains([]string{"added", "again", "fetching", "here"}, l.Status) {
				t.Fatalf("companions add: %+v", l)
			}
		}
	}
}

// see waits until a daemon says who of it and another follows whom: "" for nobody.
func see(t *testing.T, n, other *harness.Node, who string) {
	t.Helper()
	var last companionRow
	eventually(t, who, func() bool {
		var listed bool
		last, listed = companions(t, n)[other.PeerID()]
		return listed == (who != "") && (!listed || last.who() == who)
	})
}

// reconnected waits until a daemon is connected to others.
func reconnected(t *testing.T, n *harness.Node, others ...*harness.Node) {
	t.Helper()
	for _, other := range others {
		eventually(t, "connected again", func() bool { return companions(t, n)[other.PeerID()].Connected })
	}
}

// storesOf is the addresses of a daemon's own stores.
func storesOf(t *testing.T, n *harness.Node) map[string]string {
	t.Helper()
	stores := make(map[string]string)
	for _, s := range ask[idLine](t, n, "id", nil)[0].Stores {
		stores[s.Name] = s.Address
	}
	return stores
}

// databasesOf is what `npp db ls` lists, by address.
func databasesOf(t *testing.T, n *harness.Node) map[string]dbLine {
	t.Helper()
	listed := make(map[string]dbLine)
	for _, l := range ask[dbLine](t, n, "db/ls", nil) {
		listed[l.Address] = l
	}
	return listed
}

// foreign is how many databases are here that are neither a daemon's own nor their
// lists of writers.
func foreign(t *testing.T, n *harness.Node) int {
	t.Helper()
	return len(databasesOf(t, n)) - 2*len(ownStores)
}

// piecesOf is how many pieces of a companion are here, -1 for none yet.
func piecesOf(t *testing.T, n, other *harness.Node) int {
	t.Helper()
	if p := companions(t, n)[other.PeerID()].Pieces; p != nil {
		return *p
	}
	return -1
}

// keptOf is the peers whose connection a daemon keeps.
func keptOf(t *testing.T, n *harness.Node) (ids []string) {
	t.Helper()
	for _, r := range ask[peerRow](t, n, "peers", url.Values{"kept": {"true"}}) {
		ids = append(ids, r.Peer)
	}
	return ids
}

// count is how many messages a daemon has stored.
func count(t *testing.T, n *harness.Node) int {
	t.Helper()
	return len(ask[arrived](t, n, "messages/ls", nil))
}

// refused runs a command that has to fail with one line, which has the texts.
func refused(t *testing.T, n *harness.Node, args []string, want ...string) {
	t.Helper()
	r := n.Run(append([]string{"npp"}, args...)...)
	if r.Code != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.HasPrefix(r.Stderr, "Error: ") {
		t.Errorf("%.200q: %v", args, r)
	}
	for _, w := range want {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("%.200q: stderr does not have %q: %s", args, w, r.Stderr)
		}
	}
}

// Each side sees who follows whom. What came for a companion goes with it; what was
// asked for apart stays.
func TestCompanionsComeAndGo(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "Alice"), musician(t, "bob")
	addPiece(t, alice, "QmA", "Prelude")
	a, b := alice.PeerID(), bob.PeerID()
	stores := storesOf(t, alice)

	bob.Connect(alice)
	meet(t, alice, bob)
	if out, want := bob.MustRun("npp", "companions", "ls", "--nearby"), fmt.Sprintf("%-20s  %-52s  %-11s\n", "Alice", a, "-"); out != want {
		t.Errorf("nearby: %q, want %q", out, want)
	}
	if out := bob.MustRun("npp", "companions", "ls") + bob.MustRun("npp", "companions", "ls", "--offers"); out != "" {
		t.Errorf("nobody is followed: %s", out)
	}

	// By name, in whatever case.
	bob.MustRun("npp", "db", "open", stores["pieces"], "--wait")
	if out, want := bob.MustRun("npp", "companions", "add", "alice"), "added Alice "+a+"\nhere: 1 piece\n"; out != want {
		t.Errorf("add: %q, want %q", out, want)
	}
	see(t, bob, alice, "you follow")
	see(t, alice, bob, "follows you")
	r := companions(t, bob)[a]
	if r.Name != "Alice" || r.NameNow != "" || r.User != stores["user"] || r.Address != stores["pieces"] || !r.Connected || r.Pieces == nil || *r.Pieces != 1 ||
		r.InStep == nil || time.Since(*r.InStep) > time.Minute || r.Troubles != nil || r.Offer != nil {
		t.Errorf("companion: %+v", r)
	}
	out := bob.MustRun("npp", "companions", "ls")
	if !strings.HasPrefix(out, fmt.Sprintf("%-20s  %-52s  you follow   online   1 piece  in step ", "Alice", a)) || strings.Count(out, "\n") != 1 {
		t.Errorf("ls: %s", out)
	}
	if out, want := alice.MustRun("npp", "companions", "ls"), fmt.Sprintf("%-20s  %-52s  follows you  online \n", "bob", b); out != want {
		t.Errorf("ls: %q, want %q", out, want)
	}
	if r := companions(t, alice)[b]; r.Name != "bob" || r.Companion || r.Pieces != nil || r.User != "" {
		t.Errorf("follower: %+v", r)
	}
	if kept := keptOf(t, bob); !slices.Equal(kept, []string{a}) {
		t.Errorf("kept: %v", kept)
	}
	for name, address := range stores {
		if _, here := databasesOf(t, bob)[address]; here != (name != "companions") {
			t.Errorf("%s of alice is here: %v", name, here)
		}
	}

	// The other way round, by peer ID.
	if out, want := alice.MustRun("npp", "companions", "add", b), "added bob "+b+"\nhere: 0 pieces\n"; out != want {
		t.Errorf("add: %q, want %q", out, want)
	}
	see(t, alice, bob, "both follow")
	see(t, bob, alice, "both follow")
	if out, want := alice.MustRun("npp", "companions", "add", "BOB"), "bob "+b+" is a companion already, and goes by its present name\nhere: 0 pieces\n"; out != want {
		t.Errorf("add again: %q, want %q", out, want)
	}
	if out := alice.MustRun("npp", "companions", "ls", "--nearby"); !strings.HasSuffix(out, "  both follow\n") {
		t.Errorf("nearby: %s", out)
	}

	if out, want := bob.MustRun("npp", "companions", "rm", "Alice"), "removed Alice "+a+"\n"; out != want {
		t.Errorf("rm: %q, want %q", out, want)
	}
	if kept := keptOf(t, bob); kept != nil {
		t.Errorf("kept: %v", kept)
	}
	here := databasesOf(t, bob)
	if l, ok := here[stores["pieces"]]; !ok || l.Error != "" || foreign(t, bob) != 2 {
		t.Errorf("after rm: want the pieces that were opened before: %+v", here)
	}
	see(t, bob, alice, "follows you")
	see(t, alice, bob, "you follow")
	refused(t, bob, []string{"companions", "rm", "Alice"}, "no companion", "; hint: ")
	addPiece(t, alice, "QmB", "Fugue")
	eventually(t, "what was opened apart goes on", func() bool { return databasesOf(t, bob)[stores["pieces"]].Entries == 2 })

	// Who is away when it happens learns it later, by the connection that it keeps.
	follow(t, bob, alice)
	see(t, alice, bob, "both follow")
	bob.Stop()
	alice.MustRun("npp", "companions", "rm", "bob")
	if n := foreign(t, alice); n != 0 || keptOf(t, alice) != nil {
		t.Errorf("after rm: %d databases of bob, kept %v", n, keptOf(t, alice))
	}
	see(t, alice, bob, "follows you")
	bob.Start()
	see(t, bob, alice, "you follow")
	if r := companions(t, bob)[a]; !r.Connected {
		t.Errorf("it is not known from alice herself: %+v", r)
	}
}

// A connection that was kept before is kept after the companion is gone.
func TestConnectionKeptByHandStays(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "alice"), musician(t, "bob")
	id := alice.PeerID()
	bob.MustRun("npp", "connect", "--keep", alice.ListenAddr())
	follow(t, bob, alice)
	bob.Kill()
	bob.Start()
	reconnected(t, bob, alice)
	bob.MustRun("npp", "companions", "rm", id)
	if kept := keptOf(t, bob); !slices.Equal(kept, []string{id}) || foreign(t, bob) != 0 {
		t.Errorf("kept %v, want %s; %d databases", kept, id, foreign(t, bob))
	}

	// Whoever was removed can come back.
	follow(t, bob, alice)
	see(t, alice, bob, "follows you")
}

// All that is known of companions outlives the daemon, however it ends.
func TestCompanionsOutliveTheDaemon(t *testing.T) {
	t.Parallel()
	alice, bob, carol := musician(t, "alice"), musician(t, "bob"), musician(t, "carol")
	addPiece(t, alice, "QmA", "Prelude")
	bob.Connect(alice)
	carol.Connect(bob)
	meet(t, bob, carol)
	follow(t, alice, bob)
	follow(t, bob, alice)
	follow(t, carol, bob)
	see(t, bob, carol, "follows you")
	carol.MustRun("npp", "send", "bob", `{"userDb":"`+nowhere+`"}`)
	eventually(t, "the offer", func() bool { return len(offers(t, bob)) == 1 })
	carol.Stop()

	// same is what has to be as it was, of who is not away.
	same := func() string {
		var b strings.Builder
		for id, r := range companions(t, bob) {
			if id != carol.PeerID() || r.Connected {
				fmt.Fprintf(&b, "%s %s %q %v\n", id, r.who(), r.Name, r.Connected)
			}
		}
		fmt.Fprintln(&b, offers(t, bob)[carol.PeerID()].Address, companions(t, bob)[carol.PeerID()].Name, len(companions(t, bob)))
		return b.String()
	}
	before := same()
	foreignBefore := foreign(t, bob)
	for _, end := range []func(){func() { bob.Kill() }, func() { bob.Stop() }, func() { alice.Kill(); bob.Kill(); alice.Start() }} {
		end()
		bob.Start()
		reconnected(t, bob, alice)
		reconnected(t, alice, bob)
		if after := same(); after != before {
			t.Errorf("before:\n%safter:\n%s", before, after)
		}
		if n := foreign(t, bob); n != foreignBefore {
			t.Errorf("%d databases of others, before %d", n, foreignBefore)
		}
		eventually(t, "the piece of alice", func() bool { return piecesOf(t, bob, alice) == 1 })
		bob.MustRun("npp", "send", "alice", "are you there?")
	}
	if n := count(t, alice); n != 3 {
		t.Errorf("alice has %d messages, want 3", n)
	}
	carol.Start()
	reconnected(t, bob, carol)
	addPiece(t, alice, "QmB", "Fugue")
	eventually(t, "the new piece", func() bool { return piecesOf(t, bob, alice) == 2 })
}

// A companion that was removed while the daemon was killed leaves nothing behind.
func TestRemovalThatWasCutShortIsFinished(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "alice"), musician(t, "bob")
	bob.Connect(alice)
	follow(t, bob, alice)
	user := storesOf(t, alice)["user"]
	bob.Kill()
	s := open(t, bob)
	found, err := s.Find(t.Context(), "companions")
	if err != nil {
		t.Fatal(err)
	}
	kv, err := found.KeyValue()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Delete(t.Context(), user); err != nil {
		t.Fatal(err)
	}
	s.close(t)
	bob.Start()
	eventually(t, "nothing of alice is here", func() bool { return foreign(t, bob) == 0 })
	eventually(t, "the connection is not kept", func() bool { return keptOf(t, bob) == nil })
}

var _ = bytes.NewReader
var _ = binary.PutUvarint
var _ = io.EOF
var _ sync.Mutex
var _ = syscall.SIGINT
var _ = libp2p.New
var _ network.Stream
