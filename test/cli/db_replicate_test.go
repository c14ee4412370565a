package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// someIdentity is the ID of an identity that no test has.
const someIdentity = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"

func init() {
	for command, args := range map[string][]string{
		"open":   {"pieces"},
		"close":  {"pieces"},
		"drop":   {"guestbook", "--force"},
		"peers":  nil,
		"watch":  {"pieces"},
		"doctor": {"pieces"},
		"grant":  {"band", someIdentity},
		"revoke": {"band", someIdentity},
	} {
		calls["ipfs npp db "+command] = append([]string{"npp", "db", command}, args...)
	}
}

// replicaLine has the fields of all lines about the replication of a database.
type replicaLine struct {
	Address, Name, Type, State, Error string
	Entries, Waiting                  uint64
	Here, Settled                     bool
	Kept, Asking                      int
	Missing                           []string
	MissingBlocks                     []struct {
		Hash  string
		Since time.Time
		Asked []string
	}
	Refused []struct {
		Hash, Error string
		At          time.Time
		From        []string
	}
	Peers        []dbPeerLine
	Capabilities map[string][]string
}

type dbPeerLine struct {
	Database, Peer, Agent, Error, Compared string
	Open, Connected, Relayed               bool
	Exchanged, InStep                      time.Time
}

type findingLine struct{ Check, Level, Text, Advice, Peer string }

// replica calls a command of `npp db` that prints one line about replication.
func replica(t *testing.T, n *harness.Node, command string, args ...string) replicaLine {
	t.Helper()
	got := decodeLines[replicaLine](t, n.MustRun(append([]string{"npp", "db", command, "--enc=json"}, args...)...))
	if len(got) != 1 {
		t.Fatalf("%s %q: %d lines", command, args, len(got))
	}
	return got[0]
}

// findings returns the findings of `npp db doctor` by the subject of the check.
func findings(t *testing.T, n *harness.Node, called string) map[string]findingLine {
	t.Helper()
	found := make(map[string]findingLine)
	for _, f := range decodeLines[findingLine](t, n.MustRun("npp", "db", "doctor", "--enc=json", called)) {
		if old, ok := found[f.Check]; !ok || old.Level != "problem" {
			found[f.Check] = f
		}
	}
	return found
}

func identityOf(t *testing.T, n *harness.Node) string {
	t.Helper()
	return decodeLines[struct{ ID string }](t, n.MustRun("npp", "id", "--enc=json"))[0].ID
}

// Two daemons replicate without pubsub, live in both directions, and see each
// other as with it. Their doctors say what does not work.
func TestDaemonsReplicateWithoutPubsub(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Set("Pubsub.Enabled", false).Start(), harness.New(t).Set("Pubsub.Enabled", false).Start()
	address := db(t, a, "create", "gigs", "--type=keyvalue", "--write=*")[0].Address
	db(t, a, "put", "gigs", "tuesday", `"Basel"`)
	if l := replica(t, b, "open", address); l.State != "fetching" {
		t.Errorf("open: %+v", l)
	}
	atA := watched(t, a, address)
	a.Connect(b)
	atA("join", b.PeerID())
	atA("sync", b.PeerID())
	b.MustRun("npp", "db", "open", address, "--wait")
	atB := watched(t, b, address)
	for i := range 3 {
		for _, n := range []*harness.Node{a, b} {
			key := fmt.Sprint(n.PeerID(), i)
			db(t, n, "put", "gigs", key, `"Bern"`)
			atA("update", key)
			atB("update", key)
		}
	}
	for _, n := range []*harness.Node{a, b} {
		f := findings(t, n, "gigs")
		if f["pubsub"].Level != "note" || !strings.Contains(f["pubsub"].Text, "JavaScript peers") || f["peers"].Text != "1 connected peer has it open" || f["summary"].Level != "ok" {
			t.Errorf("doctor: %+v", f)
		}
	}
	b.Stop()
	atA("leave", b.PeerID())
}

// watched watches a database from now on. The function that it returns waits
// for an event of a peer, or the update of a key.
func watched(t *testing.T, n *harness.Node, address string) (await func(event, what string)) {
	t.Helper()
	resp, err := http.Post(n.APIURL()+"npp/db/watch?arg="+url.QueryEscape(address), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	events := json.NewDecoder(resp.Body)
	return func(event, what string) {
		t.Helper()
		for {
			var e struct{ Event, Peer, Key string }
			if err := events.Decode(&e); err != nil {
				t.Fatalf("%s %s: %v", event, what, err)
			}
			if e.Event == event && (e.Peer == what || e.Key == what) {
				return
			}
		}
	}
}

// An address suffices: the database is fetched from any peer that has it, as
// soon as there is one, and stays in sync in both directions and over a
// restart.
func TestDatabaseIsOpenedByItsAddress(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), harness.New(t).Start()
	address := db(t, a, "create", "gigs", "--type=keyvalue", "--write=*")[0].Address
	db(t, a, "put", "gigs", "tuesday", `"Basel"`)

	// No peer is connected.
	manifest := strings.TrimPrefix(address, "/orbitdb/")
	if l := replica(t, b, "open", address); l.State != "fetching" || l.Address != address || len(l.MissingBlocks) != 1 || l.MissingBlocks[0].Hash != manifest {
		t.Errorf("open: %+v", l)
	}
	if out := b.MustRun("npp", "db", "open", address); !strings.HasPrefix(out, "fetching "+address+": open at 0 peers") || !strings.Contains(out, "missing  "+manifest) {
		t.Errorf("open: %s", out)
	}
	if l := replica(t, b, "info", address); l.State != "fetching" || len(l.Missing) != 1 || l.Missing[0] != manifest || l.MissingBlocks[0].Since.IsZero() {
		t.Errorf("info: %+v", l)
	}
	if out := b.MustRun("npp", "db", "info", address); !strings.Contains(out, "state     fetching\nmissing   "+manifest) {
		t.Errorf("info: %s", out)
	}
	if out := b.MustRun("npp", "db", "ls"); !strings.Contains(out, address+"  ?               0  fetching   ?\n") {
		t.Errorf("ls: %s", out)
	}
	f := findings(t, b, address)
	if f["state"].Level != "problem" || !strings.Contains(f["state"].Text, "its manifest is missing: "+manifest) || f["peers"].Text != "no peer is connected" || f["peers"].Advice == "" || f["summary"].Text != "" {
		t.Errorf("doctor: %+v", f)
	}
	r := b.Run("npp", "db", "open", address, "--wait", "--timeout=1s")
	if r.Code != 1 || r.Stdout != "" || !strings.HasPrefix(r.Stderr, "fetching: open at 0 peers, 1 missing\n") || !strings.Contains(r.Stderr, "Error: "+address+" is not in sync with a peer yet; hint: ") {
		t.Errorf("open --wait: %v", r)
	}
	waiting := b.Spawn("npp", "db", "open", address, "--wait")
	byRPC := make(chan string)
	go func() {
		resp, err := http.Post(b.APIURL()+"npp/db/open?wait=true&arg="+url.QueryEscape(address), "", nil)
		if err != nil {
			t.Error(err)
			close(byRPC)
			return
		}
		defer resp.Body.Close()
		lines, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		byRPC <- string(lines)
	}()
	b.Stop()
	if r := waiting.Wait(); r.Code != 1 {
		t.Errorf("open --wait when the daemon stops: %v", r)
	}
	<-byRPC
	b.Start() // which resumes the open
	go func() { byRPC <- rpc(t, b, "npp/db/open", url.Values{"wait": {"true"}, "arg": {address}}) }()
	waiting = b.Spawn("npp", "db", "open", address, "--wait")
	b.Connect(a)
	if r := waiting.Wait(); r.Code != 0 || r.Stdout != "open "+address+" gigs: 1 entry, 0 pending, open at 1 peer\n" {
		t.Errorf("open --wait: %v", r)
	}
	progress := decodeLines[replicaLine](t, <-byRPC)
	for i, l := range progress {
		if l.Address != address || l.State == "" || l.Peers == nil || l.Settled != (i == len(progress)-1) {
			t.Errorf("open --wait by RPC: line %d: %+v", i, l)
		}
	}

	// The database has arrived.
	if l := replica(t, b, "info", "gigs"); l.State != "open" || l.Entries != 1 || len(l.Peers) != 1 || l.Peers[0].Peer != a.PeerID() || !l.Peers[0].Open || l.Peers[0].InStep.IsZero() {
		t.Errorf("info: %+v", l)
	}
	var p dbPeerLine
	eventually(t, "agent of the peer", func() bool {
		p = decodeLines[dbPeerLine](t, b.MustRun("npp", "db", "peers", "--enc=json", "gigs"))[0]
		return p.Agent != ""
	})
	if p.Peer != a.PeerID() || !p.Open || !p.Connected || p.Relayed || p.Exchanged.IsZero() || p.Error != "" || p.Database != "" {
		t.Errorf("peers: %+v", p)
	}
	if out := b.MustRun("npp", "db", "peers", "gigs"); !strings.HasPrefix(out, a.PeerID()+"  open  direct   exchanged ") || !strings.Contains(out, "in sync ") {
		t.Errorf("peers: %s", out)
	}
	if out := b.MustRun("npp", "db", "peers"); !strings.HasPrefix(out, address+"  "+a.PeerID()+"  open") {
		t.Errorf("peers of all: %s", out)
	}
	f = findings(t, b, "gigs")
	if f["heads"].Level != "ok" || f["heads"].Peer != a.PeerID() || f["writable"].Level != "ok" || f["summary"].Level != "ok" {
		t.Errorf("doctor: %+v", f)
	}
	db(t, b, "put", "gigs", "friday", `"Bern"`)
	eventually(t, "the entry of b", func() bool { return a.Run("npp", "db", "get", "gigs", "friday").Code == 0 })
}

func TestWatchTellsWhatHappens(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), harness.New(t).Start()
	address := db(t, a, "create", "gigs", "--type=keyvalue", "--write=*")[0].Address
	db(t, a, "put", "gigs", "before", "0")

	// Once the response header has arrived, the watcher misses no event.
	resp, err := http.Post(a.APIURL()+"npp/db/watch?arg=gigs", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	hash := db(t, a, "put", "gigs", "k\x1b[31m", `{"a":1}`)[0].Hash
	b.MustRun("npp", "db", "open", address)
	watcher := a.Spawn("npp", "db", "watch", "gigs")
	b.Connect(a)
	watcher.Expect("sync    " + b.PeerID())
	db(t, b, "put", "gigs", "from b", `"b"`)
	id := identityOf(t, b)
	watcher.Expect("update  PUT  " + id[:8] + `  from b  "b"`)
	db(t, b, "del", "gigs", "from b")
	watcher.Expect("update  DEL  " + id[:8] + "  from b")
	b.MustRun("npp", "db", "close", "gigs")
	watcher.Expect("leave   " + b.PeerID())
	watcher.Signal(syscall.SIGINT)
	if r := watcher.Wait(); r.Code != 0 || r.Stderr != "" || strings.Contains(r.Stdout, "before") {
		t.Errorf("interrupted: %v", r)
	}
	a.MustRun("npp", "db", "close", "gigs")
	all, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(resp.Trailer.Get("X-Stream-Error"), "database is not replicated: "+address+"; hint: ipfs npp db open gigs") {
		t.Errorf("the end: %v, %v", err, resp.Trailer)
	}
	events := decodeLines[struct {
		Event, Peer, Hash, Writer, Op string
		At                            time.Time
		Number                        uint64
		Key, Value                    any
	}](t, string(all))
	first := events[0]
	if first.Event != "update" || first.Hash != hash || first.Number != 2 || first.Writer != identityOf(t, a) || first.Op != "PUT" || first.Key != "k\x1b[31m" ||
		fmt.Sprint(first.Value) != "map[a:1]" || time.Since(first.At) > time.Minute || first.Peer != "" {
		t.Errorf("first: %+v", first)
	}
	kinds := map[string]int{}
	for _, e := range events {
		kinds[e.Event]++
		if (e.Event == "update") == (e.Peer == b.PeerID()) {
			t.Errorf("%+v", e)
		}
	}
	if kinds["update"] != 3 || kinds["join"] != 1 || kinds["leave"] != 1 || kinds["sync"] == 0 {
		t.Errorf("events: %v", kinds)
	}

	a.MustRun("npp", "db", "open", "gigs")
	watcher = a.Spawn("npp", "db", "watch", "gigs")
	eventually(t, "the daemon is asked", func() bool {
		return slices.ContainsFunc(lines(a.MustRun("diag", "cmds")), func(l string) bool {
			return strings.Contains(l, "npp/db/watch") && strings.Contains(l, "true") // the request is active
		})
	})
	stopWatched(t, a, watcher)
}

// stopWatched stops a daemon. It checks that the watcher does not delay the
// daemon and ends without an error.
func stopWatched(t *testing.T, n *harness.Node, watcher *harness.Process) {
	t.Helper()
	begin := time.Now()
	n.Stop()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the daemon took %v to stop", took)
	}
	if r := watcher.Wait(); r.Code != 0 || r.Stderr != "" {
		t.Errorf("the daemon stops: %v", r)
	}
}

// A closed database does not change, over a restart, until it is opened again,
// by its name.
func TestClosedDatabaseStaysAsItIs(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), harness.New(t).Start()
	address := db(t, a, "create", "gigs", "--write=*")[0].Address
	db(t, a, "put", "gigs", "1")
	b.Connect(a)
	b.MustRun("npp", "db", "open", address, "--wait")
	if out := b.MustRun("npp", "db", "close", "gigs"); out != "closed "+address+" gigs: 1 entry stays here\n" {
		t.Errorf("close: %s", out)
	}
	b.Stop()
	b.Start()
	b.Connect(a)
	if l := replica(t, b, "info", "gigs"); l.State != "closed" || l.Entries != 1 || len(l.Peers) != 0 {
		t.Errorf("info: %+v", l)
	}
	if out := b.MustRun("npp", "db", "ls"); !strings.Contains(out, address+"  events          1  closed     gigs\n") {
		t.Errorf("ls: %s", out)
	}
	if f := findings(t, b, "gigs"); f["state"].Level != "problem" || f["state"].Advice != "ipfs npp db open "+address {
		t.Errorf("doctor: %+v", f)
	}
	for name, way := range ways {
		for _, command := range []string{"db/close", "db/watch"} {
			if _, err := way(t, b, call{command, []string{"gigs"}, nil, nil}); err != "database is not replicated: "+address+"; hint: ipfs npp db open gigs" {
				t.Errorf("%s: %s: %s", name, command, err)
			}
		}
	}
	db(t, a, "put", "gigs", "2")
	db(t, b, "put", "gigs", "3")
	if l := replica(t, b, "open", "gigs"); l.State != "open" || l.Name != "gigs" {
		t.Errorf("open: %+v", l)
	}
	b.MustRun("npp", "db", "open", "gigs", "--wait")
	eventually(t, "3 entries at a", func() bool { return replica(t, a, "info", "gigs").Entries == 3 })
	if l := replica(t, b, "info", "gigs"); l.State != "open" || l.Entries != 3 {
		t.Errorf("info: %+v", l)
	}

	// A database that had not arrived yet leaves nothing.
	nowhere := "/orbitdb/zdpuAwHevBbd7V9QXeP8zC1pdb3HmugJ7zgzKnyiWxJG3p2Y4"
	b.MustRun("npp", "db", "open", nowhere)
	if l := replica(t, b, "close", nowhere); l.Here || l.Address != nowhere {
		t.Errorf("close: %+v", l)
	}
	if r := b.Run("npp", "db", "info", nowhere); r.Code != 1 || !strings.Contains(r.Stderr, "unknown database") {
		t.Errorf("info: %v", r)
	}
}

// A dropped database is removed, except for pinned blocks, which survive
// garbage collection and a restart. Opened again, the database is fetched
// again.
func TestDroppedDatabaseIsGoneButForPins(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), harness.New(t).Start()
	address := db(t, a, "create", "gigs", "--managed")[0].Address
	var hashes []string
	for i := range 4 {
		hashes = append(hashes, db(t, a, "put", "gigs", fmt.Sprint(i))[0].Hash)
	}
	b.Connect(a)
	b.MustRun("npp", "db", "open", address, "--wait")

	// All kinds of pins, with any form of CID: recursive, direct, and indirect.
	b.MustRun("pin", "add", hashes[0])
	b.MustRun("pin", "add", "--recursive=false", strings.TrimSpace(b.MustRun("cid", "format", "-v=1", "-b=base32", "--mc=raw", hashes[1])))
	above := b.RunStdin(`{"entry":{"/":"`+hashes[2]+`"}}`, "dag", "put", "--pin")
	if above.Code != 0 {
		t.Fatal(above)
	}
	for name, way := range ways {
		if _, err := way(t, b, call{"db/drop", []string{"gigs"}, nil, nil}); !strings.Contains(err, "hint: add --force (over HTTP: force=true)") {
			t.Errorf("%s: not forced: %s", name, err)
		}
	}
	if l := replica(t, b, "drop", "gigs", "--force"); l.Address != address || l.Name != "gigs" || !l.Here || l.Entries != 4 || l.Kept != 3 {
		t.Errorf("drop: %+v", l)
	}
	b.MustRun("repo", "gc")
	a.Stop() // or it would send the blocks
	kept := func(when string) {
		t.Helper()
		for i, hash := range hashes {
			r := b.Run("block", "get", "--offline", hash)
			if (r.Code == 0) != (i < 3) {
				t.Errorf("%s: entry %d: %v", when, i, r)
			}
		}
	}
	kept("after gc")
	b.Stop()
	kept("without a daemon")
	b.Start()
	b.MustRun("repo", "gc")
	kept("after a restart and gc")
	if out := b.MustRun("npp", "db", "ls"); strings.Contains(out, "gigs") {
		t.Errorf("ls: %s", out)
	}
	if r := b.Run("npp", "db", "info", address); r.Code != 1 || !strings.Contains(r.Stderr, "unknown database: "+address) || !strings.Contains(r.Stderr, "ipfs npp db open "+address+" fetches it") {
		t.Errorf("info: %v", r)
	}

	// The database is fetched again with its access list.
	a.Start()
	b.Connect(a)
	b.MustRun("npp", "db", "open", address, "--wait")
	if l := replica(t, b, "info", "gigs"); l.Entries != 4 || l.State != "open" {
		t.Errorf("opened again: %+v", l)
	}
	id := identityOf(t, b)
	a.MustRun("npp", "db", "grant", "gigs", id)
	eventually(t, "b may write", func() bool { return b.Run("npp", "db", "put", "gigs", "5").Code == 0 })

	// A database that has not arrived yet can be dropped, too.
	nowhere := "/orbitdb/zdpuAwHevBbd7V9QXeP8zC1pdb3HmugJ7zgzKnyiWxJG3p2Y4"
	b.MustRun("npp", "db", "open", nowhere)
	if out := b.MustRun("npp", "db", "drop", "--force", nowhere); out != "dropped "+nowhere+": nothing of it was here yet\n" {
		t.Errorf("drop: %s", out)
	}
}

func TestOnlyAdminsChangeWhoMayWrite(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), harness.New(t).Start()
	address := db(t, a, "create", "band", "--managed", "--type=keyvalue")[0].Address
	b.Connect(a)
	b.MustRun("npp", "db", "open", address, "--wait")
	admin, id := identityOf(t, a), identityOf(t, b)
	f := findings(t, b, "band")
	if f["writable"].Level != "note" || !strings.HasSuffix(f["writable"].Advice, "ipfs npp db grant "+address+" "+id) {
		t.Errorf("doctor: %+v", f)
	}
	if r := b.Run("npp", "db", "grant", "band", id); r.Code != 1 || !strings.Contains(r.Stderr, "not allowed to write") || !strings.Contains(r.Stderr, "hint: ipfs npp db info band shows who may write") {
		t.Errorf("grant by who may not: %v", r)
	}
	for name, way := range ways {
		out, err := way(t, a, call{"db/grant", []string{"band", id}, url.Values{"capability": {"write"}}, nil})
		if err != "" {
			t.Fatalf("%s: grant: %s", name, err)
		}
		got := decodeLines[replicaLine](t, out)[0]
		if got.Address != address || fmt.Sprint(got.Capabilities) != fmt.Sprint(map[string][]string{"admin": {admin}, "write": {id}}) {
			t.Errorf("%s: grant: %+v", name, got)
		}
	}
	if out := a.MustRun("npp", "db", "grant", "band", id); out != "admin  "+admin+"\nwrite  "+id+"\n" {
		t.Errorf("grant: %s", out)
	}
	eventually(t, "b may write", func() bool { return b.Run("npp", "db", "put", "band", "k", "1").Code == 0 })
	eventually(t, "a has it", func() bool { return a.Run("npp", "db", "get", "band", "k").Code == 0 })
	if out := a.MustRun("npp", "db", "revoke", "band", id); out != "admin  "+admin+"\n" {
		t.Errorf("revoke: %s", out)
	}
	eventually(t, "b may not write any more", func() bool { return b.Run("npp", "db", "put", "band", "k", "2").Code == 1 })

	// The access list is replicated as long as the database is.
	list := ""
	for _, l := range db(t, a, "ls") {
		if l.AccessOf == address {
			list = l.Address
		}
	}
	for _, args := range [][]string{{"close", list}, {"drop", list, "--force"}} {
		r := a.Run(append([]string{"npp", "db"}, args...)...)
		if r.Code != 1 || !strings.Contains(r.Stderr, "in use as the access controller of a database that is replicated") || !strings.Contains(r.Stderr, "hint: ") {
			t.Errorf("%q: %v", args, r)
		}
	}
	if got := replica(t, a, "info", list); got.State != "open" {
		t.Errorf("the list of writers: %+v", got)
	}
}

// A refused command states the reason and a remedy, and changes nothing.
func TestReplicationCommandsRefuseBadInput(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	db(t, n, "create", "fixed")
	db(t, n, "create", "band", "--managed")
	db(t, n, "create", "twice", "--type=keyvalue", "--write=*")
	db(t, n, "create", "twice", "--type=documents", "--write=*")
	hash := "zdpuAwHevBbd7V9QXeP8zC1pdb3HmugJ7zgzKnyiWxJG3p2Y4"
	id := identityOf(t, n)
	force := url.Values{"force": {"true"}}
	capability := func(c string) url.Values { return url.Values{"capability": {c}} }
	tests := []struct {
		call
		want []string
	}{
		{call{"db/open", []string{"/orbitdb/" + hash + "/old"}, nil, nil}, []string{"format before OrbitDB 1.0", "hint: "}},
		{call{"db/drop", []string{"pieces"}, force, nil}, []string{`is the daemon's own "pieces" and cannot be dropped`, "hint: ipfs npp db close pieces"}},
		{call{"db/drop", []string{"user"}, force, nil}, []string{`is the daemon's own "user" and cannot be dropped`}},
		{call{"db/drop", []string{"fixed"}, nil, nil}, []string{"hint: add --force"}},
		{call{"db/drop", []string{"fixed"}, url.Values{"force": {"false"}}, nil}, []string{"hint: add --force"}},
		{call{"db/grant", []string{"fixed", someIdentity}, nil, nil}, []string{"the access list at /ipfs/zdpu", "is fixed", "hint: ", "--managed"}},
		{call{"db/revoke", []string{"fixed", someIdentity}, nil, nil}, []string{"is fixed", "--managed"}},
		{call{"db/grant", []string{"band", "somebody"}, nil, nil}, []string{`"somebody" is not an identity`, "hint: ipfs npp id"}},
		{call{"db/grant", []string{"band", n.PeerID()}, nil, nil}, []string{"is not an identity"}},
		{call{"db/grant", []string{"band", strings.ToUpper(someIdentity)}, nil, nil}, []string{"is not an identity"}},
		{call{"db/grant", []string{"band", someIdentity[:62]}, nil, nil}, []string{"is not an identity"}},
		{call{"db/grant", []string{"band", "00" + someIdentity[2:]}, nil, nil}, []string{"is not an identity"}},
		{call{"db/grant", []string{"band", strings.Repeat("ab", 1<<15)}, nil, nil}, []string{"is not an identity"}},
		{call{"db/revoke", []string{"band", "somebody"}, nil, nil}, []string{"is not an identity"}},
		{call{"db/revoke", []string{"band", someIdentity}, nil, nil}, []string{"revoke write from " + someIdentity + ": it was not granted", "hint: ipfs npp db info band"}},
		{call{"db/revoke", []string{"band", id}, capability("admin"), nil}, []string{"is an admin since the database was created, and stays one"}},
		{call{"db/grant", []string{"band", someIdentity}, capability("read"), nil}, []string{`--capability is "read", but must be write or admin`}},
		{call{"db/revoke", []string{"band", someIdentity}, capability(""), nil}, []string{`--capability is "", but must be write or admin`}},
	}
	for _, command := range []string{"open", "close", "drop", "peers", "watch", "doctor", "grant", "revoke"} {
		for arg, want := range map[string][]string{
			"nobody":            {`unknown database: "nobody"`, "hint: ipfs npp db ls"},
			"/orbitdb/" + hash:  {"unknown database: /orbitdb/" + hash, "hint: ipfs npp db ls", "ipfs npp db open /orbitdb/" + hash},
			"/orbitdb/nothing":  {"invalid OrbitDB address", "hint: "},
			"/ipfs/" + hash:     {"invalid OrbitDB address", "hint: "},
			"twice":             {"several databases have that name", "hint: use one of these addresses"},
			"a\x1b[31m\nb":      {`unknown database: "a\x1b[31m\nb"`},
			"/orbitdb/\x1b[31m": {`invalid OrbitDB address: "/orbitdb/\x1b[31m"`},
		} {
			if command == "open" && arg == "/orbitdb/"+hash {
				continue // the command fetches it
			}
			args := []string{arg}
			if command == "grant" || command == "revoke" {
				args = append(args, someIdentity)
			}
			tests = append(tests, struct {
				call
				want []string
			}{call{"db/" + command, args, nil, nil}, want})
		}
	}
	before := n.MustRun("npp", "db", "ls", "--enc=json")
	for _, test := range tests {
		for name, way := range ways {
			out, err := way(t, n, test.call)
			if out != "" {
				t.Errorf("%s: %s %q: %s", name, test.command, test.args, out)
			}
			for _, want := range test.want {
				if !strings.Contains(err, want) || strings.ContainsAny(err, "\n\x1b") || len(err) > 1000 {
					t.Errorf("%s: %s %.100q %v: error is %q, want %q", name, test.command, test.args, test.options, err, want)
				}
			}
		}
	}
	if after := n.MustRun("npp", "db", "ls", "--enc=json"); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	if r := n.Run("npp", "db", "open"); r.Code != 1 {
		t.Errorf("open without an argument: %v", r)
	}
}

// The doctor reports disabled pubsub, and peers with different content.
func TestDoctorNamesWhatIsAmiss(t *testing.T) {
	t.Parallel()
	off, stock, n := harness.New(t).Set("Pubsub.Enabled", false).Start(), harness.NewStock(t).Set("Pubsub.Enabled", true).Start(), harness.New(t).Start()
	if f := findings(t, off, "pieces"); f["pubsub"].Level != "note" || !strings.Contains(f["pubsub"].Advice, "Pubsub.Enabled true") {
		t.Errorf("pubsub off: %+v", f)
	}
	address := db(t, n, "info", "pieces")[0].Address
	n.Connect(stock)
	if f := findings(t, n, "pieces"); f["peers"].Level != "problem" || !strings.Contains(f["peers"].Text, "none has it open") {
		t.Errorf("no peer has it: %+v", f)
	}
	stock.Spawn("pubsub", "sub", address)
	eventually(t, "the subscriber that is not an OrbitDB peer is reported", func() bool {
		f := findings(t, n, "pieces")["heads"]
		return f.Level == "problem" && f.Peer == stock.PeerID() && strings.Contains(f.Text, "exchanges no heads")
	})
	if out := n.MustRun("npp", "db", "doctor", "pieces"); !strings.Contains(out, "problem  heads     "+stock.PeerID()+": it is subscribed") || !strings.Contains(out, "\n"+strings.Repeat(" ", 19)+"open the database there\n") {
		t.Errorf("doctor: %s", out)
	}
	if p := decodeLines[dbPeerLine](t, n.MustRun("npp", "db", "peers", "--enc=json", "pieces"))[0]; p.Error != "peer has not opened the database" || !p.Exchanged.IsZero() {
		t.Errorf("peers: %+v", p)
	}
}

// On a terminal, a drop asks for confirmation.
func TestDropAsksATerminal(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	address := db(t, n, "create", "gigs")[0].Address
	db(t, n, "put", "gigs", "1")
	ask := func(answer string, args ...string) (out string, err error) {
		t.Helper()
		terminal, user := openTerminal(t)
		cmd := n.Command(append([]string{"npp", "db", "drop"}, args...)...)
		var output bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &output, &output
		if _, err := io.WriteString(user, answer); err != nil {
			t.Fatal(err)
		}
		err = cmd.Run()
		return output.String(), err
	}
	question := "drop gigs (" + address + "), 1 entry? [y/N] "
	for _, no := range []string{"\n", "n\n", "no\n", "yess\n", "\x04"} {
		if out, err := ask(no, "gigs"); err == nil || out != question+"Error: nothing was dropped\n" {
			t.Errorf("%q: %v: %s", no, err, out)
		}
	}
	if out, err := ask("y\n", "nobody"); err == nil || !strings.HasPrefix(out, `Error: unknown database: "nobody"; hint: `) {
		t.Errorf("unknown: %v: %s", err, out)
	}
	if out, err := ask("y\n", "pieces"); err == nil || !strings.Contains(out, `the daemon's own "pieces" and cannot be dropped`) {
		t.Errorf("own: %v: %s", err, out)
	}
	if l := replica(t, n, "info", "gigs"); l.Entries != 1 || l.State != "open" {
		t.Errorf("info: %+v", l)
	}
	if out, err := ask("Yes\n", "gigs"); err != nil || out != question+"dropped "+address+" gigs: 1 entry\n" {
		t.Errorf("yes: %v: %s", err, out)
	}
	db(t, n, "create", "gigs")
	if out, err := ask("", "--force", "gigs"); err != nil || out != "dropped "+address+" gigs: 0 entries\n" {
		t.Errorf("--force: %v: %s", err, out)
	}
	n.Stop()
	if out, err := ask("y\n", "gigs"); err == nil || !strings.Contains(out, "no daemon is running") {
		t.Errorf("without a daemon: %v: %s", err, out)
	}
}
