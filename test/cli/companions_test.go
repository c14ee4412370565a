package cli

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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

// nowhere is the address of a database that no peer has.
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

// offerRow is a user database that a message offers.
type offerRow struct {
	Address, Via, Error string
	Legacy              bool
	At                  *time.Time
}

// relation returns which of the two peers follows the other.
func (r companionRow) relation() string {
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

// about returns the entries of one kind that need attention.
func (s statusRow) about(what string) (found []attentionRow) {
	for _, a := range s.Attention {
		if a.About == what {
			found = append(found, a)
		}
	}
	return found
}

// ask calls a command below `npp` over the RPC and returns its output.
func ask[T any](t *testing.T, n *harness.Node, command string, query url.Values) []T {
	t.Helper()
	return decodeLines[T](t, rpc(t, n, "npp/"+command, query))
}

func statusOf(t *testing.T, n *harness.Node) statusRow {
	t.Helper()
	return ask[statusRow](t, n, "status", nil)[0]
}

// companions returns the output of `npp companions ls` by peer ID.
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

// offers returns the output of `npp companions ls --offers` by peer ID.
func offers(t *testing.T, n *harness.Node) map[string]offerRow {
	t.Helper()
	listed := make(map[string]offerRow)
	for _, r := range ask[companionRow](t, n, "companions/ls", url.Values{"offers": {"true"}}) {
		listed[r.Peer] = *r.Offer
	}
	return listed
}

// nearby returns the usernames of the connected peers with npp, by peer ID.
func nearby(t *testing.T, n *harness.Node) map[string]string {
	t.Helper()
	names := make(map[string]string)
	for _, r := range ask[companionRow](t, n, "companions/ls", url.Values{"nearby": {"true"}}) {
		names[r.Peer] = r.Name
	}
	return names
}

// musician starts a daemon whose owner has a username. It listens on the same
// port whenever it runs, and discovers no peers by itself.
func musician(t *testing.T, name string) *harness.Node {
	t.Helper()
	n := fixedPort(t).Start()
	rename(t, n, name)
	return n
}

// rename changes the owner's username.
func rename(t *testing.T, n *harness.Node, name string) {
	t.Helper()
	value, err := json.Marshal(name)
	if err != nil {
		t.Fatal(err)
	}
	put(t, n, "user", "username", string(value))
}

// put puts a value into a database over the RPC.
func put(t *testing.T, n *harness.Node, args ...string) {
	t.Helper()
	if _, err := ways["RPC"](t, n, call{"db/put", args, nil, nil}); err != "" {
		t.Fatalf("db put %q: %s", args, err)
	}
}

// addPiece puts a piece whose file no peer has.
func addPiece(t *testing.T, n *harness.Node, hash, title string) {
	t.Helper()
	doc, err := json.Marshal(map[string]string{"hash": hash, "instrument": "Piano", "title": title})
	if err != nil {
		t.Fatal(err)
	}
	put(t, n, "pieces", string(doc))
}

// meet waits until both daemons, which are connected, know each other's
// username.
func meet(t *testing.T, a, b *harness.Node) {
	t.Helper()
	for _, way := range [][]*harness.Node{{a, b}, {b, a}} {
		want := statusOf(t, way[1]).Username
		eventually(t, "the name of "+want, func() bool { return nearby(t, way[0])[way[1].PeerID()] == want })
	}
}

// follow makes one daemon follow others, which are connected, and waits for
// their libraries.
func follow(t *testing.T, n *harness.Node, others ...*harness.Node) {
	t.Helper()
	for _, other := range others {
		for _, l := range ask[struct{ Status string }](t, n, "companions/add", url.Values{"arg": {other.PeerID()}, "wait": {"1m"}}) {
			if !slices.Contains([]string{"added", "again", "fetching", "here"}, l.Status) {
				t.Fatalf("companions add: %+v", l)
			}
		}
	}
	eventually(t, "nothing is fetched any more", func() bool { return statusOf(t, n).Fetching == 0 })
}

// addOf returns the output of `npp companions add` without its lines on
// progress.
func addOf(n *harness.Node, args ...string) string {
	out := n.MustRun(append([]string{"npp", "companions", "add", "--wait=1m"}, args...)...)
	return strings.Replace(out, "fetching its library\n", "", 1)
}

// see waits until a daemon reports which of it and another follows the other:
// "" for neither.
func see(t *testing.T, n, other *harness.Node, who string) {
	t.Helper()
	var last companionRow
	eventually(t, who, func() bool {
		var listed bool
		last, listed = companions(t, n)[other.PeerID()]
		return listed == (who != "") && (!listed || last.relation() == who)
	})
}

// reconnected waits until a daemon is connected to others.
func reconnected(t *testing.T, n *harness.Node, others ...*harness.Node) {
	t.Helper()
	for _, other := range others {
		eventually(t, "connected again", func() bool { return companions(t, n)[other.PeerID()].Connected })
	}
}

// storesOf returns the addresses of a daemon's library databases.
func storesOf(t *testing.T, n *harness.Node) map[string]string {
	t.Helper()
	stores := make(map[string]string)
	for _, s := range ask[idLine](t, n, "id", nil)[0].Stores {
		stores[s.Name] = s.Address
	}
	return stores
}

// databasesOf returns the output of `npp db ls` by address.
func databasesOf(t *testing.T, n *harness.Node) map[string]dbLine {
	t.Helper()
	listed := make(map[string]dbLine)
	for _, l := range ask[dbLine](t, n, "db/ls", nil) {
		listed[l.Address] = l
	}
	return listed
}

// foreign returns the number of databases that are neither a daemon's own nor
// the access lists of those.
func foreign(t *testing.T, n *harness.Node) int {
	t.Helper()
	return len(databasesOf(t, n)) - 2*len(ownStores)
}

// piecesOf returns the number of replicated pieces of a companion, -1 before
// the first.
func piecesOf(t *testing.T, n, other *harness.Node) int {
	t.Helper()
	if p := companions(t, n)[other.PeerID()].Pieces; p != nil {
		return *p
	}
	return -1
}

// keptOf returns the peers to which a daemon keeps a connection.
func keptOf(t *testing.T, n *harness.Node) (ids []string) {
	t.Helper()
	for _, r := range ask[peerRow](t, n, "peers", url.Values{"kept": {"true"}}) {
		ids = append(ids, r.Peer)
	}
	return ids
}

// count returns the number of messages that a daemon has stored.
func count(t *testing.T, n *harness.Node) int {
	t.Helper()
	return len(ask[arrived](t, n, "messages/ls", nil))
}

// refused runs a command that must fail with one line that has the texts.
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

// Each side sees which of the two follows the other. Databases that were opened
// for a companion are dropped with it; those that the user opened stay.
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
		t.Errorf("no peer is followed: %s", out)
	}

	// The name matches in any case. A database that was opened before gets the
	// key that it needs.
	bob.MustRun("npp", "db", "open", stores["pieces"], "--wait")
	if out, want := addOf(bob, "--yes", "alice"), "added Alice "+a+"\nhere: 1 piece\n"; out != want {
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
	if !strings.HasPrefix(out, fmt.Sprintf("%-20s  %-52s  you follow   online   1 piece  in sync ", "Alice", a)) || strings.Count(out, "\n") != 1 {
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

	// The other direction, by peer ID.
	if out, want := addOf(alice, b), "added bob "+b+"\nhere: 0 pieces\n"; out != want {
		t.Errorf("add: %q, want %q", out, want)
	}
	see(t, alice, bob, "both follow")
	see(t, bob, alice, "both follow")
	if out, want := addOf(alice, "BOB"), "bob "+b+" is a companion already; its present name is accepted\nhere: 0 pieces\n"; out != want {
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
	refused(t, bob, []string{"companions", "rm", "Alice"}, "no companion has this name", "; hint: ")
	refused(t, bob, []string{"companions", "rm", a}, "the peer is not a companion", "; hint: ")
	addPiece(t, alice, "QmB", "Fugue")
	eventually(t, "the database opened by the user still replicates", func() bool { return databasesOf(t, bob)[stores["pieces"]].Entries == 2 })

	// A daemon that is offline at the time learns of the change later, over the
	// connection that it keeps.
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
		t.Errorf("the name is not from alice herself: %+v", r)
	}
}

// Databases that the user opened, before or after, stay when the companion is
// removed.
func TestWhatWasAskedForByHandStays(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "alice"), musician(t, "bob")
	id, pieces := alice.PeerID(), storesOf(t, alice)["pieces"]
	bob.MustRun("npp", "connect", "--keep", alice.ListenAddr())
	follow(t, bob, alice)
	bob.Kill()
	bob.Start()
	reconnected(t, bob, alice)
	bob.MustRun("npp", "companions", "rm", id)
	if kept := keptOf(t, bob); !slices.Equal(kept, []string{id}) || foreign(t, bob) != 0 {
		t.Errorf("kept before: kept %v, want %s; %d databases", kept, id, foreign(t, bob))
	}
	bob.MustRun("npp", "connect", "--forget", id)

	// A removed companion can be added and removed again. The command returns
	// when all is done.
	for range 5 {
		follow(t, bob, alice)
		rpc(t, bob, "npp/companions/rm", url.Values{"arg": {"alice"}})
		if kept := keptOf(t, bob); kept != nil || foreign(t, bob) != 0 || len(companions(t, bob)) != 0 {
			t.Errorf("kept %v, %d databases, companions %+v", kept, foreign(t, bob), companions(t, bob))
		}
	}

	follow(t, bob, alice)
	bob.MustRun("npp", "db", "open", pieces, "--wait")
	bob.MustRun("npp", "connect", "--keep", "alice")
	bob.MustRun("npp", "companions", "rm", "alice")
	if _, here := databasesOf(t, bob)[pieces]; !here || foreign(t, bob) != 2 || !slices.Equal(keptOf(t, bob), []string{id}) {
		t.Errorf("opened afterwards: kept %v, %+v", keptOf(t, bob), databasesOf(t, bob))
	}
	bob.MustRun("npp", "connect", "--forget", id)
	bob.MustRun("npp", "db", "drop", "--force", pieces)

	// A database that the user has written to stays when the companion is
	// removed.
	follow(t, bob, alice)
	alice.MustRun("npp", "db", "grant", "pieces", identityOf(t, bob))
	eventually(t, "bob may write", func() bool {
		_, err := ways["RPC"](t, bob, call{"db/put", []string{pieces, `{"hash":"QmB"}`}, nil, nil})
		return err == ""
	})
	bob.MustRun("npp", "companions", "rm", "alice")
	if l, here := databasesOf(t, bob)[pieces]; !here || l.Entries != 1 || foreign(t, bob) != 2 || keptOf(t, bob) != nil {
		t.Errorf("written by bob: kept %v, %+v", keptOf(t, bob), databasesOf(t, bob))
	}
	bob.MustRun("npp", "db", "drop", "--force", pieces)

	// The connection comes back, whichever side opened it.
	bob.Stop()
	bob.Start()
	alice.Connect(bob)
	follow(t, bob, alice)
	bob.Kill()
	bob.Start()
	reconnected(t, bob, alice)
	see(t, alice, bob, "follows you")
}

// All state of companions survives the daemon, however it ends.
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

	// same returns the state that must not change, except for companions that
	// are offline.
	same := func() string {
		var b strings.Builder
		for id, r := range companions(t, bob) {
			if id != carol.PeerID() || r.Connected {
				fmt.Fprintf(&b, "%s %s %q %v\n", id, r.relation(), r.Name, r.Connected)
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

// If the daemon is killed while companions are added and removed, either all of
// a companion is left or nothing.
func TestRemovalThatWasCutShortIsFinished(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "alice"), musician(t, "bob")
	bob.Connect(alice)
	follow(t, bob, alice)
	id := alice.PeerID()
	stores := storesOf(t, alice)
	delete(stores, "companions")
	whole := func(when string, want bool) {
		t.Helper()
		kept := []string(nil)
		if want {
			kept = []string{id}
		}
		defer func() {
			if t.Failed() {
				t.Logf("%s: kept %v, %+v\n%s", when, keptOf(t, bob), companions(t, bob), bob.MustRun("npp", "db", "ls"))
			}
		}()
		eventually(t, fmt.Sprintf("%s: a companion: %v", when, want), func() bool {
			listed := databasesOf(t, bob)
			for _, address := range stores {
				if _, here := listed[address]; here != want {
					return false
				}
			}
			return statusOf(t, bob).Fetching == 0 && slices.Equal(keptOf(t, bob), kept) && companions(t, bob)[id].Companion == want
		})
	}
	whole("added", true)

	// The kill falls between the removal and its consequences.
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
	if _, err := kv.Delete(t.Context(), stores["user"]); err != nil {
		t.Fatal(err)
	}
	s.close(t)
	bob.Start()
	whole("removed while the daemon was away", false)

	for kill := range 3 {
		bob.Connect(alice)
		done := make(chan struct{}, 100)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for i := 0; ; i++ {
				url := bob.APIURL() + "npp/companions/" + []string{"add", "rm"}[i%2] + "?wait=1ms&arg=" + id
				resp, err := http.Post(url, "", nil)
				if err != nil {
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				done <- struct{}{}
			}
		}()
		for range 2 + rand.IntN(5) {
			<-done
		}
		bob.Kill()
		<-ended
		bob.Start()
		followed := len(db(t, bob, "all", "companions")) == 1
		whole(fmt.Sprintf("kill %d", kill), followed)
	}
}

// peerCommands are the commands that take a peer; "%" stands for it.
var peerCommands = [][]string{
	{"send", "%", "a secret"},
	{"send", "--private", "--json", "%", "1"},
	{"connect", "%"},
	{"connect", "--keep", "%"},
	{"connect", "--forget", "%"},
	{"companions", "add", "%"},
	{"companions", "rm", "%"},
	{"listen", "--from=%"},
	{"messages", "ls", "--from=%"},
	{"messages", "rm", "--all", "--from=%"},
}

// refusedBy checks that commands refuse a name of a peer.
func refusedBy(t *testing.T, n *harness.Node, commands [][]string, name string, want ...string) {
	t.Helper()
	for _, command := range commands {
		args := slices.Clone(command)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "%", name)
		}
		refused(t, n, args, want...)
	}
}

// A name identifies one peer or none: a command for a companion affects no
// other peer.
func TestNamesStandForPeers(t *testing.T) {
	t.Parallel()
	bob, alice, other := musician(t, "bob"), musician(t, "Alice"), musician(t, "alice")
	a, o := alice.PeerID(), other.PeerID()
	for _, n := range []*harness.Node{alice, other} {
		bob.Connect(n)
		meet(t, bob, n)
	}
	got := func(when string, byAlice, byOther int) {
		t.Helper()
		if a, o := count(t, alice), count(t, other); a != byAlice || o != byOther {
			t.Errorf("%s: alice has %d messages and the other %d, want %d and %d", when, a, o, byAlice, byOther)
		}
	}

	// A stranger's name is shown, and identifies no peer.
	refusedBy(t, bob, peerCommands, "aLICE", `no companion has this name: "aLICE", and 2 peers use it: `, a, o, "; hint: if one of them is the peer you mean: ipfs npp ", "<peer ID>\n")
	refusedBy(t, bob, peerCommands, "nobody", `"nobody"`, "no companion has that name", "; hint: ipfs npp companions ls shows the names")
	rename(t, other, "otto")
	meet(t, bob, other)
	refusedBy(t, bob, peerCommands, "OTTO", `no companion has this name: "OTTO", and the peer `+o+", which uses it, may be anyone", "; hint: if that is the peer you mean: ipfs npp ")
	refusedBy(t, bob, peerCommands[1:2], "otto", "ipfs npp send --json --private "+o+"\n")
	refusedBy(t, bob, peerCommands[3:4], "otto", "ipfs npp connect --keep "+o+"\n")
	refusedBy(t, bob, peerCommands[len(peerCommands)-1:], "otto", "ipfs npp messages rm --all --from="+o+"\n")
	rename(t, other, "alice")
	meet(t, bob, other)
	got("nobody is followed", 0, 0)
	if kept := keptOf(t, bob); kept != nil {
		t.Errorf("kept: %v", kept)
	}

	// A companion takes precedence over other peers, even while it is offline.
	follow(t, bob, alice)
	if out := bob.MustRun("npp", "send", "alice", "1"); !strings.Contains(out, " to "+a+" in ") {
		t.Errorf("send: %s", out)
	}
	if out := bob.MustRun("npp", "connect", "alice"); !strings.HasPrefix(out, "connected "+a+" by open connection") {
		t.Errorf("connect: %s", out)
	}
	for _, n := range []*harness.Node{other, alice} {
		n.MustRun("npp", "send", bob.PeerID(), n.PeerID())
	}
	bob.Spawn("npp", "listen", "--since=all", "--from=ALICE").Expect(a)
	if out := bob.MustRun("npp", "messages", "ls", "--from=alice"); strings.Count(out, "\n") != 1 || !strings.Contains(out, a) {
		t.Errorf("messages ls --from: %s", out)
	}
	if out := bob.MustRun("npp", "messages", "rm", "--all", "--from=alice"); out != "removed 1\n" || count(t, bob) != 1 {
		t.Errorf("messages rm --from: %s", out)
	}
	alice.Stop()
	eventually(t, "alice is away", func() bool { return !companions(t, bob)[a].Connected })
	if r := bob.Run("npp", "send", "--deadline=1s", "alice", "2"); r.Code != 1 {
		t.Errorf("send to an offline peer: %v", r)
	}
	got2 := count(t, other)
	alice.Start()
	reconnected(t, bob, alice)
	if got2 != 0 {
		t.Errorf("the other has %d messages", got2)
	}
	got("alice was away", 1, 0)

	// Two companions have the same name, and one changes it.
	follow(t, bob, other)
	refusedBy(t, bob, peerCommands, "alice", `several companions have this name: "alice": `, a, o, "; hint: use a peer ID: ipfs npp ")
	rename(t, other, "Carol ♪")
	eventually(t, "the new name", func() bool { return companions(t, bob)[o].NameNow == "Carol ♪" })
	if out := bob.MustRun("npp", "companions", "ls"); !strings.Contains(out, "\n  its name is Carol ♪ now; to accept that name: ipfs npp companions add "+o+"\n") {
		t.Errorf("ls: %s", out)
	}
	if found := statusOf(t, bob).about("companion"); len(found) != 1 || found[0].Name != o || !strings.Contains(found[0].Text, `"alice" is called "Carol ♪" now`) || found[0].Advice == "" {
		t.Errorf("status: %+v", found)
	}
	refusedBy(t, bob, peerCommands, "carol ♪", "has another one now", o, `was "alice" when it was added`, "; hint: ipfs npp ", "ipfs npp companions add "+o+" to accept the new name")
	refusedBy(t, bob, peerCommands[:1], "alice", "several companions have this name", a, o)
	got("the name changed", 1, 0)
	if out, want := addOf(bob, o), "Carol ♪ "+o+" is a companion already; its present name is accepted\nhere: 0 pieces\n"; out != want {
		t.Errorf("add again: %q, want %q", out, want)
	}
	bob.MustRun("npp", "send", "CAROL ♪", "3")
	bob.MustRun("npp", "send", "alice", "4")
	got("the new name was taken", 2, 1)

	// A peer takes the former name of a companion.
	bob.MustRun("npp", "companions", "rm", "Carol ♪")
	rename(t, alice, "anna")
	rename(t, other, "alice")
	eventually(t, "the new names", func() bool { return companions(t, bob)[a].NameNow == "anna" && nearby(t, bob)[o] == "alice" })
	refusedBy(t, bob, peerCommands[:1], "alice", "has another one now", a, `is called "anna" now`)
	refusedBy(t, bob, peerCommands[:1], "anna", "has another one now", a, `was "Alice" when it was added`)
	got("a stranger has the name", 2, 1)
	bob.MustRun("npp", "companions", "add", a)
	bob.MustRun("npp", "send", "anna", "5")
	refusedBy(t, bob, peerCommands, "alice", "no companion has this name", o) // even though no other peer has it now
	got("both have their names", 3, 1)

	// Invalid names.
	for _, name := range []string{"a\x1b[31m\nb", strings.Repeat("x", 2000), "\xff", "-", "/"} {
		refusedBy(t, bob, peerCommands[:2], name)
	}
}

// `companions add` with the name of a nearby peer shows the peer ID and asks
// for confirmation, unless the user has confirmed beforehand.
func TestStrangerIsAddedByNameOnlyWithAYes(t *testing.T) {
	t.Parallel()
	bob, alice, other := musician(t, "bob"), musician(t, "Alice"), musician(t, "carol")
	for _, n := range []*harness.Node{alice, other} {
		bob.Connect(n)
		meet(t, bob, n)
	}
	a, o := alice.PeerID(), other.PeerID()
	ask := func(answer string, args ...string) string {
		t.Helper()
		terminal, user := openTerminal(t)
		cmd := bob.Command(append([]string{"npp", "companions", "add", "--wait=1m"}, args...)...)
		var output bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &output, &output
		if _, err := io.WriteString(user, answer); err != nil {
			t.Fatal(err)
		}
		err := cmd.Run()
		if failed := strings.Contains(output.String(), "Error: "); failed != (err != nil) {
			t.Errorf("%q: %v: %s", args, err, output.String())
		}
		return strings.Replace(output.String(), "fetching its library\n", "", 1)
	}
	followed := func(want ...string) {
		t.Helper()
		var ids []string
		for id, r := range companions(t, bob) {
			if r.Companion {
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Errorf("companions are %v, want %v", ids, want)
		}
	}
	question := a + " calls itself Alice. Is that who you mean? [y/N] "
	for _, no := range []string{"\n", "n\n", "no\n", "yess\n", "\x04"} {
		if out := ask(no, "alice"); out != question+"Error: no companion was added\n" {
			t.Errorf("%q: %s", no, out)
		}
	}
	if out := ask("y\n", "nobody"); !strings.HasPrefix(out, `Error: peer "nobody": `) || strings.Contains(out, "[y/N]") {
		t.Errorf("no peer: %s", out)
	}
	if out := bob.MustRun("npp", "companions", "add", "--preview", "alice"); out != a+" calls itself Alice\n" {
		t.Errorf("--preview: %s", out)
	}
	for name, way := range ways {
		if out, err := way(t, bob, call{"companions/add", []string{"alice"}, nil, nil}); out != "" || !strings.Contains(err, "the peer "+a+", which uses it, may be anyone; hint: if that is the peer you mean: ipfs npp companions add "+a) {
			t.Errorf("%s: %s: %s", name, out, err)
		}
	}
	followed()

	if out := ask("y\n", "ALICE"); out != question+"added Alice "+a+"\nhere: 0 pieces\n" {
		t.Errorf("yes: %s", out)
	}
	followed(a)
	if out := ask("", "alice"); out != "Alice "+a+" is a companion already; its present name is accepted\nhere: 0 pieces\n" {
		t.Errorf("a companion: %s", out)
	}
	if out := bob.MustRun("npp", "companions", "add", "--preview", "alice"); out != a+" is meant\n" {
		t.Errorf("--preview: %s", out)
	}
	if out := ask("", o); out != "added carol "+o+"\nhere: 0 pieces\n" {
		t.Errorf("by peer ID: %s", out)
	}
	bob.MustRun("npp", "companions", "rm", "alice")
	bob.MustRun("npp", "companions", "rm", "carol")
	for name, way := range ways {
		out, err := way(t, bob, call{"companions/add", []string{"alice"}, url.Values{"yes": {"true"}}, nil})
		if err != "" || !strings.Contains(out, a) {
			t.Errorf("%s: --yes: %s%s", name, out, err)
		}
		followed(a)
		bob.MustRun("npp", "companions", "rm", a)
	}

	// Confirmation does not resolve an ambiguous name.
	rename(t, other, "alic\u00e9")
	meet(t, bob, other)
	for _, args := range [][]string{{"alice"}, {"--yes", "alice"}, {"-y", "ALIC\u00c9"}, {"--preview", "alice"}} {
		if out := ask("y\n", args...); !strings.HasPrefix(out, "Error: no companion has this name: ") || !strings.Contains(out, "2 peers use it") || !strings.Contains(out, a) || !strings.Contains(out, o) || strings.Contains(out, "[y/N]") {
			t.Errorf("%q: %s", args, out)
		}
	}
	followed()
	bob.Stop()
	if out := ask("y\n", "alice"); !strings.Contains(out, "no daemon is running") {
		t.Errorf("without a daemon: %s", out)
	}
}

// A message may offer a library. An offer opens nothing, and the peer info of a
// peer takes precedence.
func TestOffersAreRemembered(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "alice"), musician(t, "bob")
	bob.Connect(alice)
	meet(t, alice, bob)
	id := alice.PeerID()
	before := bob.MustRun("npp", "db", "ls", "--enc=json")

	// Messages that are not offers.
	listener := bob.Spawn("npp", "listen", "--since=all", "--enc=json")
	m := newMailer(t, alice)
	odd := []string{
		`{"userDb":5}`, `{"userDb":null}`, `{"userDb":["` + nowhere + `"]}`, `{"userDb":{"userDb":"` + nowhere + `"}}`, `{"userDb":""}`, `{"userDb":true}`,
		`[{"userDb":"` + nowhere + `"}]`, `["userDb","` + nowhere + `"]`, `"` + nowhere + `"`, `"{\"userDb\":\"` + nowhere + `\"}"`, `{"userDb":"/ipfs/zdpu"}`, `{"userDb":"zdpu"}`,
		`{"a":{"userDb":"` + nowhere + `"}}`, `null`, `0`, `""`, `{}`, `[]`,
		`{"userDb":"/orbitdb/` + strings.Repeat("z", 600) + `"}`, `{"userDb":"` + nowhere + `","more":"` + strings.Repeat("x", 5000) + `"}`,
		`{"userDb":"` + strings.Repeat("/orbitdb/", 1<<16) + `"}`, strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	}
	for _, text := range odd {
		if s, err := m.send(url.Values{"arg": {bob.PeerID()}}, []byte(text)); err != nil || s.Status != "delivered" {
			t.Errorf("%.80s: %+v, %v", text, s, err)
		}
	}
	alice.MustRun("npp", "send", bob.PeerID(), `"that was all"`)
	for range odd {
		if line := listener.Expect(`"id"`); strings.Contains(line, `"offer"`) {
			t.Errorf("listen: %.200s", line)
		}
	}
	listener.Expect("that was all")

	// Messages that are offers. The last one of a peer counts.
	text := bob.Spawn("npp", "listen", "--since=all")
	text.Expect("that was all")
	watch := watchCompanions(t, bob)
	alice.MustRun("npp", "send", bob.PeerID(), `{"userDb":"`+nowhere+`/user"}`)
	if e := watch.expect("offer"); e.Peer != id || e.Address != nowhere+"/user" {
		t.Errorf("watch: %+v", e)
	}
	text.Expect(`{"userDb":"` + nowhere + `/user"}`)
	if line := text.Expect("offers its library"); !strings.Contains(line, "format before OrbitDB 1.0") || !strings.Contains(line, "; hint: ") {
		t.Errorf("listen: %s", line)
	}
	line := decodeLines[struct{ Offer offerRow }](t, listener.Expect(`"offer"`))[0].Offer
	if line.Address != nowhere+"/user" || !line.Legacy || !strings.Contains(line.Error, "; hint: ") {
		t.Errorf("listen: %+v", line)
	}
	if o := offers(t, bob)[id]; o.Address != nowhere+"/user" || !o.Legacy || o.Via != "direct" || o.At == nil || time.Since(*o.At) > time.Minute || !strings.Contains(o.Error, "before OrbitDB 1.0") {
		t.Errorf("offers: %+v", o)
	}
	if out := bob.MustRun("npp", "companions", "ls", "--offers"); !strings.HasPrefix(out, fmt.Sprintf("%-20s  %-52s  ", "alice", id)) || !strings.Contains(out, "  "+nowhere+"/user\n  ") || !strings.Contains(out, "before OrbitDB 1.0") {
		t.Errorf("offers: %s", out)
	}
	alice.MustRun("npp", "send", bob.PeerID(), `{"userDb":"/orbitdb/\u001b[31m"}`)
	if e := watch.expect("offer"); e.Address != "/orbitdb/\x1b[31m" {
		t.Errorf("watch: %+v", e)
	}
	if o := offers(t, bob)[id]; o.Address != "/orbitdb/\x1b[31m" || o.Legacy || o.Error == "" {
		t.Errorf("offers: %+v", o)
	}
	if out := bob.MustRun("npp", "companions", "ls", "--offers"); strings.Contains(out, "\x1b") {
		t.Errorf("offers: %q", out)
	}
	alice.MustRun("npp", "send", bob.PeerID(), `{"more":[1,{}],"userDb":"`+nowhere+`"}`)
	watch.expect("offer")
	text.Expect(`"userDb":"` + nowhere + `"}`)
	if line := text.Expect("offers its library"); line != "  offers its library: ipfs npp companions add "+id {
		t.Errorf("listen: %s", line)
	}
	if o := offers(t, bob); len(o) != 1 || o[id].Address != nowhere || o[id].Legacy || o[id].Error != "" {
		t.Errorf("offers: %+v", o)
	}
	if found := statusOf(t, bob).about("offer"); len(found) != 1 || found[0].Advice != "ipfs npp companions ls --offers" {
		t.Errorf("status: %+v", found)
	}
	if after := bob.MustRun("npp", "db", "ls", "--enc=json"); after != before || len(companions(t, bob)) != 0 {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}

	// `companions rm` rejects an offer.
	refused(t, bob, []string{"companions", "rm", "alice"}, "no companion has this name", "; hint: if that is the peer you mean: ipfs npp companions rm "+id)
	if out := bob.MustRun("npp", "companions", "rm", id); out != "removed alice "+id+"\n" || len(offers(t, bob)) != 0 {
		t.Errorf("rm: %s; offers: %+v", out, offers(t, bob))
	}
	refused(t, bob, []string{"companions", "rm", id}, "not a companion", "; hint: ")
	alice.MustRun("npp", "send", bob.PeerID(), `{"userDb":"`+nowhere+`"}`)
	watch.expect("offer")

	// The peer info names the library.
	follow(t, bob, alice)
	if r := companions(t, bob)[id]; r.User != storesOf(t, alice)["user"] || r.Troubles != nil {
		t.Errorf("companion: %+v", r)
	}
	if out := bob.MustRun("npp", "companions", "ls", "--offers"); out != "" || statusOf(t, bob).about("offer") != nil {
		t.Errorf("offers after it was added: %s", out)
	}
	bob.Stop()
	bob.Start()
	if out := bob.MustRun("npp", "companions", "ls", "--offers"); out != "" {
		t.Errorf("offers after a restart: %s", out)
	}
}

// A peer without npp is followed by its offer, whichever peer has the database.
func TestOfferOfAPeerWithoutNPPIsTaken(t *testing.T) {
	t.Parallel()
	alice, bob, stock := musician(t, "alice"), musician(t, "bob"), harness.NewStock(t).Set("Pubsub.Enabled", true).Start()
	id := stock.PeerID()
	bob.Connect(alice)
	bob.Connect(stock)
	refused(t, bob, []string{"companions", "add", id}, "announces no user database and offered none", `; hint: the peer has to send {"userDb":`)
	pieces := db(t, alice, "create", "scores", "--type=documents", "--index-by=hash")[0].Address
	put(t, alice, "scores", `{"hash":"QmT","instrument":"Piano"}`)
	user := db(t, alice, "create", "user", "--type=keyvalue", "--write=*")[0].Address
	for key, value := range map[string]string{"username": "304532", "pieces": fmt.Sprintf("%q", pieces), "nodeId": fmt.Sprintf("%q", id)} {
		put(t, alice, user, key, value)
	}
	publish := func(address string) {
		t.Helper()
		eventually(t, "the offer", func() bool {
			r := stock.RunStdin(`{"userDb":"`+address+`"}`, "pubsub", "pub", bob.PeerID())
			return r.Code == 0 && offers(t, bob)[id].Address == address
		})
	}
	publish(nowhere + "/old")
	refused(t, bob, []string{"companions", "add", id}, "before OrbitDB 1.0", "; hint: npp cannot open such a library")
	publish(user)
	if o := offers(t, bob)[id]; o.Via != "pubsub" {
		t.Errorf("offer: %+v", o)
	}
	if out, want := addOf(bob, id), "added "+id+"\nhere: 1 piece, as the peer "+alice.PeerID()+" has them; the companion itself does not have them open\n"; out != want {
		t.Errorf("add: %q, want %q", out, want)
	}
	r := companions(t, bob)[id]
	if r.User != user || r.Address != pieces || r.Troubles != nil || !r.Connected {
		t.Errorf("companion: %+v", r)
	}
	eventually(t, "its name", func() bool { return companions(t, bob)[id].Name == "304532" })
	bob.MustRun("npp", "companions", "rm", "304532")
	if n := foreign(t, bob); n != 0 {
		t.Errorf("%d databases stay", n)
	}
}

// showCard starts a peer that sends its peer info to every peer, and does
// nothing else.
func showCard(t *testing.T, card string) (id, addr string) {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.SetStreamHandler("/npp/card/1.0.0", func(s network.Stream) {
		defer s.Close()
		in := bufio.NewReader(s)
		n, err := binary.ReadUvarint(in)
		if err == nil {
			_, err = io.CopyN(io.Discard, in, int64(n))
		}
		if err == nil {
			s.Write(append(binary.AppendUvarint(nil, uint64(len(card))), card...))
		}
	})
	return h.ID().String(), h.Addrs()[0].String() + "/p2p/" + h.ID().String()
}

// A peer that announces the library of another peer is not followed, and does
// not affect the owner of the library.
func TestLibraryOfAnotherPeerIsNotFollowed(t *testing.T) {
	t.Parallel()
	alice, bob, carol := musician(t, "alice"), musician(t, "bob"), musician(t, "carol")
	addPiece(t, alice, "QmA", "Prelude")
	addPiece(t, carol, "QmC", "Fugue")
	for _, n := range []*harness.Node{alice, carol} {
		bob.Connect(n)
	}
	user := storesOf(t, alice)["user"]
	troubles := func(id string) string { return strings.Join(companions(t, bob)[id].Troubles, "\n") }

	// A peer announces the user database of a peer that is not a companion.
	liar, addr := showCard(t, `{"username":"liar","user":"`+user+`"}`)
	if out := bob.MustRun("npp", "companions", "add", "--wait=1m", addr); !strings.Contains(out, "note: user: its user database belongs to peer") || !strings.Contains(out, alice.PeerID()) {
		t.Errorf("add: %s", out)
	}
	if r := companions(t, bob)[liar]; !r.Companion || r.Pieces != nil || r.Address == "" {
		t.Errorf("the liar: %+v", r)
	}
	bob.MustRun("npp", "companions", "rm", liar)
	if n := foreign(t, bob); n != 0 {
		t.Errorf("%d databases stay", n)
	}

	// A peer announces the user database of a companion.
	follow(t, bob, alice)
	if r := bob.Run("npp", "companions", "add", addr); r.Code != 1 {
		t.Errorf("add: %v", r)
	}
	if r := companions(t, bob)[alice.PeerID()]; !r.Companion || r.Pieces == nil || *r.Pieces != 1 || r.Troubles != nil {
		t.Errorf("alice: %+v", r)
	}

	// A peer announces Bob's own user database, or invalid ones.
	for card, want := range map[string]string{
		`{"user":"` + storesOf(t, bob)["user"] + `"}`: "one of this daemon's own databases",
		`{"user":"/orbitdb/nothing"}`:                 "invalid OrbitDB address",
		`{"user":"` + nowhere + `/old"}`:              "before OrbitDB 1.0",
		`{"username":"x"}`:                            "announces no user database",
		`{"user":5}`:                                  "card",
		`no card`:                                     "card",
	} {
		id, addr := showCard(t, card)
		r := bob.Run("npp", "companions", "add", addr)
		if _, listed := companions(t, bob)[id]; r.Code != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, want) || listed {
			t.Errorf("%s: listed %v: %v", card, listed, r)
		}
	}

	// A companion announces the store of another peer, and then his own again.
	follow(t, bob, carol)
	put(t, carol, "user", "nodeId", `"`+alice.PeerID()+`"`)
	eventually(t, "the store that is announced as alice's", func() bool { return strings.Contains(troubles(carol.PeerID()), alice.PeerID()) })
	eventually(t, "carol's pieces are gone", func() bool { return piecesOf(t, bob, carol) == -1 })
	if out := bob.MustRun("npp", "companions", "ls"); !strings.Contains(out, "\n  user: its user database belongs to peer") {
		t.Errorf("ls: %s", out)
	}
	if found := statusOf(t, bob).about("companion"); len(found) != 1 || found[0].Name != carol.PeerID() || found[0].Advice == "" {
		t.Errorf("status: %+v", found)
	}
	put(t, carol, "user", "nodeId", `"`+carol.PeerID()+`"`)
	eventually(t, "carol's pieces are back", func() bool { return piecesOf(t, bob, carol) == 1 && troubles(carol.PeerID()) == "" })
	if p := piecesOf(t, bob, alice); p != 1 {
		t.Errorf("alice has %d pieces", p)
	}

	// A companion announces the pieces of Bob, or of another companion, as his
	// own.
	put(t, carol, "user", "pieces", `"`+storesOf(t, bob)["pieces"]+`"`)
	eventually(t, "the store that is bob's", func() bool { return strings.Contains(troubles(carol.PeerID()), "one of this daemon's own databases") })
	shared := storesOf(t, alice)["pieces"]
	put(t, carol, "user", "pieces", `"`+shared+`"`)
	eventually(t, "the store that is alice's, too", func() bool {
		r := companions(t, bob)[carol.PeerID()]
		return r.Address == shared && r.Pieces != nil && *r.Pieces == 1 && r.Troubles == nil
	})
	rpc(t, bob, "npp/companions/rm", url.Values{"arg": {"carol"}})
	if pieces, _ := catalog(t, bob); len(pieces) != 1 || len(pieces["Prelude"].Owners) != 1 || pieces["Prelude"].Owners[0].Name != "alice" {
		t.Errorf("alice's pieces: %+v", pieces)
	}
	rpc(t, bob, "npp/companions/rm", url.Values{"arg": {"alice"}})
	if n := foreign(t, bob); n != 0 {
		t.Errorf("%d databases stay", n)
	}
}

// companionEvent is a line of `npp companions watch`.
type companionEvent struct {
	Event, Peer, Name, Hash, Title, Address string
	At                                      time.Time
}

// companionWatch is a watcher of companions over the RPC.
type companionWatch struct {
	t      *testing.T
	events chan companionEvent
	seen   []companionEvent
}

// watchCompanions starts a watcher: it misses no event from now on.
func watchCompanions(t *testing.T, n *harness.Node) *companionWatch {
	t.Helper()
	resp, err := http.Post(n.APIURL()+"npp/companions/watch", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &companionWatch{t: t, events: make(chan companionEvent, 1000)}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(w.events)
		for in := json.NewDecoder(resp.Body); ; {
			var e companionEvent
			if in.Decode(&e) != nil {
				return
			}
			w.events <- e
		}
	})
	t.Cleanup(func() {
		resp.Body.Close()
		reading.Wait()
	})
	return w
}

// expect waits for the next event of a kind and skips the events before it.
func (w *companionWatch) expect(kind string) companionEvent {
	w.t.Helper()
	timeout := time.After(harness.Patience)
	for {
		select {
		case e, ok := <-w.events:
			w.seen = append(w.seen, e)
			switch {
			case !ok:
				w.t.Fatalf("the watch ended before %q: %+v", kind, w.seen)
			case e.Event == kind:
				if time.Since(e.At).Abs() > time.Minute {
					w.t.Errorf("at %v: %+v", time.Now(), e)
				}
				return e
			}
		case <-timeout:
			w.t.Fatalf("no event %q: %+v", kind, w.seen)
		}
	}
}

func TestCompanionsAreWatched(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "alice"), musician(t, "bob")
	addPiece(t, alice, "QmA", "not new")
	id := alice.PeerID()
	w := watchCompanions(t, bob)
	text := bob.Spawn("npp", "companions", "watch")
	watching := func() bool {
		return strings.Count(rpc(t, bob, "diag/cmds", nil), `"Active":true,"Command":"npp/companions/watch"`) == 2
	}
	eventually(t, "both watch", watching)
	of := func(kind string, want companionEvent) {
		t.Helper()
		got := w.expect(kind)
		want.Event, want.At, want.Peer = kind, got.At, id
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if line := text.Expect("  " + kind + " "); !strings.Contains(line, id) || !strings.Contains(line, want.Name) || !strings.Contains(line, want.Hash) {
			t.Errorf("%s: %s", kind, line)
		}
	}
	bob.Connect(alice)
	of("nearby", companionEvent{Name: "alice"})
	follow(t, alice, bob)
	of("follows", companionEvent{Name: "alice"})
	follow(t, bob, alice)
	of("added", companionEvent{Name: "alice"})
	addPiece(t, alice, "QmB", "F\x1bugue")
	of("piece", companionEvent{Name: "alice", Hash: "QmB", Title: "F\x1bugue"})
	rename(t, alice, "anna")
	of("name", companionEvent{Name: "anna"})
	for _, end := range []func(){func() { alice.Stop() }, alice.Kill, alice.Kill} {
		end()
		of("offline", companionEvent{Name: "alice"}) // the state when it was added
		alice.Start()
		of("online", companionEvent{Name: "alice"})
		of("nearby", companionEvent{Name: "anna"})
	}
	addPiece(t, alice, "QmC", "again")
	of("piece", companionEvent{Name: "alice", Hash: "QmC", Title: "again"})
	alice.MustRun("npp", "send", bob.PeerID(), `{"userDb":"`+nowhere+`"}`)
	of("offer", companionEvent{Address: nowhere})
	alice.MustRun("npp", "companions", "rm", bob.PeerID())
	of("unfollows", companionEvent{Name: "anna"})
	bob.MustRun("npp", "companions", "rm", id)
	of("removed", companionEvent{Name: "alice"})

	text.Signal(syscall.SIGINT)
	if r := text.Wait(); r.Code != 0 || r.Stderr != "" || strings.Contains(r.Stdout, "not new") || strings.Contains(r.Stdout, "\x1b") {
		t.Errorf("interrupted: %v", r)
	}
	kinds := map[string]int{}
	for _, e := range w.seen {
		kinds[e.Event]++
	}
	for kind, want := range map[string]int{"added": 1, "removed": 1, "follows": 1, "unfollows": 1, "piece": 2, "name": 1, "offer": 1, "offline": 3, "online": 3} {
		if kinds[kind] != want {
			t.Errorf("%d events %q, want %d: %+v", kinds[kind], kind, want, w.seen)
		}
	}

	text = bob.Spawn("npp", "companions", "watch")
	eventually(t, "both watch", watching)
	stopWatched(t, bob, text)
}

// pieceRow is a line of `npp pieces ls`.
type pieceRow struct {
	Hash, Title, Composer, Instrument, Type, Name, Warning string
	Size, Practice, PracticeAll                            uint64
	Owners                                                 []struct {
		Peer, Name string
		Self       bool
	}
	Fields map[string]any
}

// catalog returns the pieces of all companions, and the notes, by title.
func catalog(t *testing.T, n *harness.Node) (pieces map[string]pieceRow, notes []string) {
	t.Helper()
	pieces = make(map[string]pieceRow)
	for _, p := range ask[pieceRow](t, n, "pieces/ls", url.Values{"all": {"true"}}) {
		if p.Warning != "" {
			notes = append(notes, p.Warning)
			continue
		}
		pieces[p.Title] = p
	}
	return pieces, notes
}

// titles returns the sorted titles of all pieces.
func titles(t *testing.T, n *harness.Node) string {
	t.Helper()
	pieces, _ := catalog(t, n)
	return strings.Join(slices.Sorted(maps.Keys(pieces)), " ")
}

// damage corrupts the log of a database in the repo of a stopped node.
func damage(t *testing.T, n *harness.Node, address string) {
	t.Helper()
	edit(t, n, "log/"+strconv.FormatUint(numberOf(t, n, address), 36)+"/summary", func([]byte) []byte { return []byte("garbage") })
}

// A damaged database of one companion, or of the user, is reported and does not
// affect the others.
func TestBrokenCompanionDoesNotAffectOthers(t *testing.T) {
	t.Parallel()
	alice, bob, carol := musician(t, "alice"), musician(t, "bob"), musician(t, "carol")
	addPiece(t, bob, "QmB", "own")
	addPiece(t, alice, "QmA", "Prelude")
	addPiece(t, carol, "QmC", "Fugue")
	for _, n := range []*harness.Node{alice, carol} {
		bob.Connect(n)
		follow(t, bob, n)
	}
	// Peers that any writer adds to the companions database are followed.
	put(t, bob, "companions", nowhere, `{"nodeId":"`+somePeer+`","username":"ghost"}`)
	eventually(t, "the ghost", func() bool { return companions(t, bob)[somePeer].Companion })
	if r := companions(t, bob)[somePeer]; r.Name != "ghost" || r.Pieces != nil || r.Connected {
		t.Errorf("the ghost: %+v", r)
	}
	if out := bob.MustRun("npp", "companions", "ls"); !strings.Contains(out, "you follow   offline  pieces not here yet\n") {
		t.Errorf("ls: %s", out)
	}
	check := func(when, want string, notes ...string) {
		t.Helper()
		eventually(t, when+": "+want, func() bool { return titles(t, bob) == want })
		_, got := catalog(t, bob)
		text := bob.MustRun("npp", "pieces", "ls", "--all")
		if len(got) != len(notes) {
			t.Errorf("%s: notes %q, want %q", when, got, notes)
		}
		for _, note := range notes {
			if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, note) }) || !strings.Contains(text, note) {
				t.Errorf("%s: no note %q: %q: %s", when, note, got, text)
			}
		}
		if out := bob.MustRun("npp", "pieces", "search", "prelude"); !strings.Contains(out, "QmA") || strings.Contains(out, "QmB") {
			t.Errorf("%s: search: %s", when, out)
		}
	}
	const ghost = "the pieces of ghost are not listed: not here yet"
	check("one never came", "Fugue Prelude own", ghost)

	pieces := storesOf(t, carol)["pieces"]
	own := storesOf(t, bob)["pieces"]
	bob.Stop()
	carol.Stop()
	damage(t, bob, pieces)
	bob.Start()
	check("one is damaged", "Prelude own", ghost, "the pieces of carol are not listed: ")
	if _, notes := catalog(t, bob); !strings.Contains(strings.Join(notes, "\n"), "damaged log of "+pieces+": summary: wrong checksum; hint: ipfs npp db rebuild "+pieces) {
		t.Errorf("notes: %q", notes)
	}
	s := statusOf(t, bob)
	if found := s.about(pieces); len(found) != 1 || !strings.Contains(found[0].Text, "damaged log of "+pieces) || found[0].Advice != "ipfs npp db rebuild "+pieces {
		t.Errorf("status: %+v", s.Attention)
	}
	if found := s.about("companion"); len(found) != 1 || found[0].Name != carol.PeerID() || !strings.Contains(found[0].Text, "damaged log of "+pieces) {
		t.Errorf("status: %+v", s.Attention)
	}
	if r := companions(t, bob)[carol.PeerID()]; len(r.Troubles) != 1 || !strings.Contains(r.Troubles[0], "ipfs npp db rebuild "+pieces) {
		t.Errorf("carol: %+v", r)
	}
	bob.MustRun("npp", "db", "rebuild", pieces)
	check("it is mended", "Fugue Prelude own", ghost)
	if r := companions(t, bob)[carol.PeerID()]; r.Troubles != nil || r.Pieces == nil || *r.Pieces != 1 {
		t.Errorf("carol: %+v", r)
	}

	bob.Stop()
	damage(t, bob, own)
	bob.Start()
	check("one's own are damaged", "Fugue Prelude", ghost, "your own pieces are not listed: ")
	refused(t, bob, []string{"pieces", "ls"}, "damaged log of "+own, "; hint: ipfs npp db rebuild pieces")
	bob.MustRun("npp", "db", "rebuild", "pieces")
	check("one's own are mended", "Fugue Prelude own", ghost)

	// An entry that cannot be followed is reported with a remedy.
	put(t, bob, "companions", "nonsense", `{"nodeId":5}`)
	var found []attentionRow
	eventually(t, "the nonsense", func() bool { found = statusOf(t, bob).about("companions"); return len(found) > 0 })
	if len(found) != 1 || !strings.Contains(found[0].Text, "nonsense is not the record of a companion") {
		t.Errorf("status: %+v", found)
	}
	bob.MustRun(strings.Fields(strings.ReplaceAll(strings.TrimPrefix(found[0].Advice, "ipfs "), `"`, ""))...)
	eventually(t, "the nonsense is gone", func() bool { return statusOf(t, bob).about("companions") == nil })
	bob.MustRun("npp", "companions", "rm", "ghost")
	check("the ghost is gone", "Fugue Prelude own")
	if s := statusOf(t, bob); s.Fetching != 0 || len(s.Attention) != 1 || s.Attention[0].About != "config" {
		t.Errorf("status: %+v", s)
	}

	// A dropped database of a companion is fetched again on request, and
	// removed with the companion.
	bob.MustRun("npp", "db", "drop", "--force", storesOf(t, alice)["pieces"])
	eventually(t, "the trouble", func() bool {
		troubles := companions(t, bob)[alice.PeerID()].Troubles
		return len(troubles) == 1 && strings.Contains(troubles[0], "pieces: it was dropped here") && strings.Contains(troubles[0], "ipfs npp companions add")
	})
	if titles(t, bob) != "Fugue own" || len(statusOf(t, bob).about("companion")) != 1 {
		t.Errorf("titles %s, status %+v", titles(t, bob), statusOf(t, bob))
	}
	if out, want := addOf(bob, "alice"), "alice "+alice.PeerID()+" is a companion already; its present name is accepted\nhere: 1 piece\n"; out != want {
		t.Errorf("add again: %q, want %q", out, want)
	}
	check("what was dropped is back", "Fugue Prelude own")
	for _, name := range []string{"alice", "carol"} {
		bob.MustRun("npp", "companions", "rm", name)
	}
	if n := foreign(t, bob); n != 0 || titles(t, bob) != "own" {
		t.Errorf("%d databases stay; titles %s", n, titles(t, bob))
	}
}

// Invalid input is refused with one line and changes nothing.
func TestCompanionCommandsRefuseBadInput(t *testing.T) {
	t.Parallel()
	n, stock := musician(t, "anna"), harness.NewStock(t).Start()
	n.Connect(stock)
	self := n.PeerID()
	timeout := func(name, d string) url.Values { return url.Values{name: {d}} }
	var tests []struct {
		call
		want []string
	}
	add := func(command string, args []string, options url.Values, want ...string) {
		tests = append(tests, struct {
			call
			want []string
		}{call{"companions/" + command, args, options, nil}, want})
	}
	add("ls", nil, url.Values{"nearby": {"true"}, "offers": {"true"}}, "--nearby and --offers cannot be combined")
	add("add", []string{self}, nil, "self")
	add("rm", []string{self}, nil, "not a companion", "; hint: ipfs npp companions ls")
	add("rm", []string{somePeer}, nil, "not a companion", "; hint: ipfs npp companions ls")
	add("rm", []string{"/ip4/127.0.0.1/tcp/1/p2p/" + somePeer}, nil, "not a companion", "; hint: ")
	add("add", []string{somePeer}, timeout("dial-timeout", "5s"), "no way to "+somePeer, "; hint: ipfs npp connect "+somePeer)
	add("add", []string{"/ip4/127.0.0.1/tcp/1/p2p/" + somePeer}, timeout("dial-timeout", "5s"), "no way to "+somePeer, "; hint: ")
	add("add", []string{stock.PeerID()}, nil, "announces no user database and offered none", "; hint: ")
	for _, bad := range []string{"", "0s", "-1s", "soon", "5"} {
		add("add", []string{somePeer}, timeout("dial-timeout", bad), "--dial-timeout is ", "must be a duration")
		add("add", []string{somePeer}, timeout("wait", bad), "--wait is ", "must be a duration")
	}
	for _, command := range []string{"add", "rm"} {
		add(command, []string{"nobody"}, nil, `"nobody"`, "no companion has that name; hint: ipfs npp companions ls")
		add(command, []string{"anna"}, nil, "no companion has that name")
		add(command, []string{" "}, nil, "no peer named")
		add(command, []string{""}, nil, "")
		add(command, []string{"/ip4/127.0.0.1/tcp/1"}, nil, "names no peer")
		add(command, []string{nowhere}, nil, nowhere)
		add(command, []string{somePeer[:20]}, nil, somePeer[:20])
		add(command, []string{"a\x1b[31m\nb"}, nil, `a\x1b[31m\nb`)
		add(command, []string{strings.Repeat("ä", 3000)}, nil, "at most 1024 bytes")
		add(command, []string{"\xff\xfe"}, nil, "")
	}
	before := n.MustRun("npp", "db", "all", "companions") + n.MustRun("npp", "db", "ls", "--enc=json")
	for _, test := range tests {
		for name, way := range ways {
			out, err := way(t, n, test.call)
			if out != "" {
				t.Errorf("%s: %s %q: %s", name, test.command, test.args, out)
			}
			for _, want := range test.want {
				if err == "" || !strings.Contains(err, want) || strings.ContainsAny(err, "\n\x1b") || len(err) > 1000 {
					t.Errorf("%s: %s %.100q %v: error is %q, want %q", name, test.command, test.args, test.options, err, want)
				}
			}
		}
	}
	for _, args := range [][]string{{"companions", "add"}, {"companions", "rm"}, {"companions", "ls", "x"}, {"companions", "watch", "x"}, {"companions", "add", "a", "b"}, {"status", "x"}, {"companions", "ls", "--all"}} {
		if r := n.Run(append([]string{"npp"}, args...)...); r.Code != 1 || r.Stdout != "" || !strings.HasPrefix(r.Stderr, "Error: ") {
			t.Errorf("%q: %v", args, r)
		}
	}
	if after := n.MustRun("npp", "db", "all", "companions") + n.MustRun("npp", "db", "ls", "--enc=json"); after != before || keptOf(t, n) != nil {
		t.Errorf("before:\n%safter:\n%skept %v", before, after, keptOf(t, n))
	}
}

func TestStatusSaysHowTheDaemonIs(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "alice"), fixedPort(t).Set("Bootstrap", []string{"/ip4/127.0.0.1/tcp/1/p2p/" + somePeer}).Start()
	rename(t, bob, "bob\u202e") // a name that cannot be displayed does not count
	if s := statusOf(t, bob); s.Username != "" {
		t.Errorf("status: %+v", s)
	}
	rename(t, bob, "böb")
	s := statusOf(t, bob)
	if s.Peer != bob.PeerID() || s.Username != "böb" || s.Version == "" || time.Since(s.Since) > time.Minute || s.Peers != 0 || !s.Pubsub || s.Databases != 4 || s.Fetching != 0 || s.Messages.MaxBytes == 0 {
		t.Errorf("status: %+v", s)
	}
	stores := storesOf(t, bob)
	for i, st := range s.Stores {
		if st.Name != ownStores[i] || st.Address != stores[st.Name] || st.Error != "" || st.Open != 0 || st.InStep != nil || (st.Keys == 4) != (st.Name == "user") {
			t.Errorf("store %d: %+v", i, st)
		}
	}
	if out := bob.MustRun("npp", "status"); len(s.Stores) != 4 || s.Attention == nil || len(s.Attention) != 0 || !strings.HasSuffix(out, "\nattention   nothing\n") {
		t.Errorf("status: %+v: %s", s, out)
	}

	addPiece(t, alice, "QmA", "Prelude")
	alice.Connect(bob)
	follow(t, alice, bob)
	follow(t, bob, alice)
	see(t, bob, alice, "both follow")
	eventually(t, "alice has bob's stores", func() bool {
		s = statusOf(t, bob)
		return s.Stores[0].Open == 1 && s.Stores[0].InStep != nil
	})
	if s.Peers != 1 || s.NPP != 1 || s.Companions != (struct{ Followed, Online, Followers, Pieces int }{1, 1, 1, 1}) || s.Databases != 7 || len(s.Attention) != 0 {
		t.Errorf("status: %+v", s)
	}
	see(t, alice, bob, "both follow")
	if s := statusOf(t, alice); s.Companions.Followed != 1 || s.Companions.Followers != 1 || s.Companions.Pieces != 0 {
		t.Errorf("status of alice: %+v", s)
	}
	alice.MustRun("npp", "send", bob.PeerID(), `{"userDb":"`+nowhere+`"}`)
	put(t, bob, "practice", "QmA/me", "1")
	bob.Stop()
	damage(t, bob, stores["practice"])
	alice.Stop()
	bob.Set("Pubsub.Enabled", false).Start()
	if r := bob.Run("npp", "connect", "--keep", "/ip4/127.0.0.1/tcp/1/p2p/"+somePeer); r.Code != 1 {
		t.Errorf("connect: %v", r)
	}
	eventually(t, "the offer", func() bool { s = statusOf(t, bob); return len(s.about("offer")) == 1 })
	want := map[string]string{
		"config":   "pubsub is off",
		"offer":    "1 peer",
		"peer":     "its connection is kept, and it is not connected",
		"practice": "damaged log of " + stores["practice"],
	}
	for about, text := range want {
		found := s.about(about)
		if len(found) != 1 || !strings.Contains(found[0].Text, text) || found[0].Advice == "" || (found[0].Name == somePeer) != (about == "peer") {
			t.Errorf("%s: %+v", about, s.Attention)
		}
	}
	if len(s.Stores) != 4 || s.Stores[3].Error == "" || s.Stores[0].Error != "" || s.Messages.DirectBytes == 0 || s.Pubsub || s.Companions.Online != 0 || s.Companions.Followed != 1 {
		t.Errorf("status: %+v", s)
	}
	out := bob.MustRun("npp", "status")
	for _, line := range []string{
		"peer        " + bob.PeerID() + " (böb), started ",
		"peers       0 connected, 0 with npp\n",
		"pieces      0 items, open at 0 peers\n",
		"user        4 items, open at 0 peers\n",
		"practice    see below\n",
		"following   1 companion, 0 online, with 1 piece; 1 peer follows you\n",
		"databases   ",
		"messages    ",
		"attention   practice: ",
		"            ipfs npp db rebuild practice\n",
		"attention   peer " + somePeer + ": its connection is kept, and it is not connected\n            ipfs npp connect " + somePeer,
		"attention   config: pubsub is off",
		"            ipfs npp companions ls --offers\n",
	} {
		if !strings.Contains("\n"+out, "\n"+line) {
			t.Errorf("status has no line %q: %s", line, out)
		}
	}
	bob.MustRun("npp", "db", "rebuild", "practice")
	if s := statusOf(t, bob); s.about("practice") != nil || s.Stores[3].Error != "" {
		t.Errorf("status after the rebuild: %+v", s)
	}
}
