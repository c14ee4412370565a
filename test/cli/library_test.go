package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// trio is three musicians, each with a folder of files.
type trio struct {
	t       *testing.T
	names   []string
	nodes   map[string]*harness.Node
	folders map[string]map[string]string // content by file name
	dirs    map[string]string
}

// view returns all pieces that a daemon knows: title, composer, hash, owners
// and the total practice count. It must be the same for all three.
func (m *trio) view(n *harness.Node) string {
	m.t.Helper()
	var lines []string
	for _, p := range ask[pieceRow](m.t, n, "pieces/ls", url.Values{"all": {"true"}}) {
		var owners []string
		for _, o := range p.Owners {
			owners = append(owners, o.Name+" "+o.Peer)
		}
		slices.Sort(owners)
		lines = append(lines, fmt.Sprintln(p.Title, p.Composer, p.Hash, p.Size, owners, p.PracticeAll, p.Warning))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// agree waits until daemons have the same view, with the given number of pieces
// and total practice count.
func (m *trio) agree(when string, pieces int, practice func() uint64, of ...string) {
	m.t.Helper()
	views := make(map[string]string)
	agreed := false
	defer func() {
		if !agreed {
			for name, view := range views {
				m.t.Logf("%s: %s:\n%s", when, name, view)
			}
		}
	}()
	eventually(m.t, when+": all agree", func() bool {
		for _, name := range of {
			views[name] = m.view(m.nodes[name])
			if strings.Count(views[name], "\n") != pieces || views[name] != views[of[0]] || m.sum(m.nodes[name]) != practice() {
				return false
			}
		}
		agreed = true
		return true
	})
}

// sum returns the total practice count of all pieces on a daemon.
func (m *trio) sum(n *harness.Node) (all uint64) {
	m.t.Helper()
	for _, p := range ask[pieceRow](m.t, n, "pieces/ls", url.Values{"all": {"true"}}) {
		all += p.PracticeAll
	}
	return all
}

// practise counts over the RPC with concurrent clients. It returns the number
// of acknowledged calls.
func practise(n *harness.Node, hash string, clients, times int) (acknowledged uint64) {
	var done atomic.Uint64
	var running sync.WaitGroup
	u := n.APIURL() + "npp/practice?" + url.Values{"arg": {hash}}.Encode()
	client := http.Client{Timeout: harness.Patience, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range clients {
		running.Go(func() {
			for range times {
				resp, err := client.Post(u, "", nil)
				if err != nil {
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					return
				}
				done.Add(1)
			}
		})
	}
	running.Wait()
	return done.Load()
}

// Three musicians add, search, fetch and practise pieces while any of them may
// be offline. They agree once they have reconnected by themselves.
func TestThreeMusiciansShareTheirLibraries(t *testing.T) {
	t.Parallel()
	shared := abc("Kesh Jig", "trad.")
	m := &trio{t: t, names: []string{"alice", "bob", "carol"}, nodes: map[string]*harness.Node{}, dirs: map[string]string{}}
	m.folders = map[string]map[string]string{
		"alice": {"prelude.pdf": pdf("Prelude in C", "J. S. Bach"), "kesh.abc": shared},
		"bob":   {"deeper/humoresque.musicxml": musicXML("Humoresque", "Antonín Dvořák"), "the kesh.abc": shared},
		"carol": {"reel.abc": abc("Musical Priest", "trad."), "long.abc": abc("Long", "Carol") + strings.Repeat("CDEC|", 140_000)},
	}
	for _, name := range m.names {
		n := fixedPort(t).Start()
		n.MustRun("npp", "profile", "set", "username", name)
		m.nodes[name], m.dirs[name] = n, folder(t, m.folders[name])
		add(t, n, m.dirs[name])
	}
	alice, bob, carol := m.nodes["alice"], m.nodes["bob"], m.nodes["carol"]
	alice.Connect(bob)
	bob.Connect(carol)
	carol.Connect(alice)
	meet(t, alice, bob)
	meet(t, bob, carol)
	meet(t, carol, alice)
	var adding []*harness.Process
	for i, name := range m.names {
		next, other := m.names[(i+1)%3], m.nodes[m.names[(i+2)%3]].PeerID()
		for _, who := range []string{next, other} { // one by name, one by peer ID
			adding = append(adding, m.nodes[name].Spawn("npp", "companions", "add", "--yes", "--wait=1m", who))
		}
	}
	for _, p := range adding {
		if r := p.Wait(); r.Code != 0 || !strings.HasPrefix(r.Stdout, "added ") || !strings.Contains(r.Stdout, "\nhere: ") {
			t.Errorf("companions add: %v", r)
		}
	}
	for i, name := range m.names {
		for _, other := range append(slices.Clone(m.names[:i]), m.names[i+1:]...) {
			see(t, m.nodes[name], m.nodes[other], "both follow")
		}
	}
	counted := uint64(0)
	sum := func() uint64 { return counted }
	m.agree("at first", 5, sum, m.names...)

	// The pieces of all are found and fetched unchanged from any owner.
	hashes := make(map[string]string)
	owners := make(map[string]string)
	for _, p := range ask[pieceRow](t, bob, "pieces/ls", url.Values{"all": {"true"}}) {
		hashes[p.Title] = p.Hash
		for _, o := range p.Owners {
			owners[p.Title] += o.Name + " "
			if o.Self != (o.Peer == bob.PeerID()) || m.nodes[o.Name].PeerID() != o.Peer {
				t.Errorf("%s: owner %+v", p.Title, o)
			}
		}
	}
	if want := map[string]string{"Prelude in C": "alice ", "Kesh Jig": "bob alice ", "Humoresque": "bob ", "Musical Priest": "carol ", "Long": "carol "}; !maps.Equal(owners, want) {
		t.Errorf("owners %v, want %v", owners, want)
	}
	for _, name := range m.names {
		out := m.nodes[name].MustRun("npp", "pieces", "search", "DVORAK humor")
		if !strings.HasPrefix(out, hashes["Humoresque"]+"  Humoresque ") || strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, cmp.Or(map[string]string{"bob": "  you\n"}[name], "  bob\n")) {
			t.Errorf("%s searches: %s", name, out)
		}
	}
	contents := make(map[string]string)
	for _, name := range m.names {
		for _, content := range m.folders[name] {
			for title := range hashes {
				if strings.Contains(content, title) {
					contents[title] = content
				}
			}
		}
	}
	get := func(when string) {
		t.Helper()
		for _, name := range m.names {
			for title, content := range contents {
				status, got := m.nodes[name].RPC("npp/pieces/get", url.Values{"arg": {hashes[title]}, "stall-timeout": {"1m"}}, nil)
				if status != http.StatusOK || got != content {
					t.Errorf("%s: %s gets %q: %d, %d bytes, want %d", when, name, title, status, len(got), len(content))
				}
			}
		}
	}
	get("at first")
	if out := alice.MustRun("npp", "pieces", "get", hashes["Long"][:20], "-o", filepath.Join(t.TempDir(), "long.abc")); !strings.HasPrefix(out, fmt.Sprintf("got %d bytes: ", len(contents["Long"]))) {
		t.Errorf("get: %s", out)
	}

	// All practise the same piece at once, over the RPC and at the command
	// line.
	kesh := hashes["Kesh Jig"]
	var playing sync.WaitGroup
	var acknowledged [3]uint64
	for i, name := range m.names {
		playing.Go(func() { acknowledged[i] = practise(m.nodes[name], kesh, 20, 2) })
	}
	byHand := carol.Spawn("npp", "practice", kesh, "+7")
	playing.Wait()
	if r := byHand.Wait(); r.Code != 0 || !strings.HasPrefix(r.Stdout, "practised ") {
		t.Errorf("practice: %v", r)
	}
	if acknowledged != [3]uint64{40, 40, 40} {
		t.Errorf("acknowledged: %v", acknowledged)
	}
	counted = 3*40 + 7
	m.agree("all practised", 5, sum, m.names...)
	for i, name := range m.names {
		want := uint64(40)
		if name == "carol" {
			want += 7
		}
		p := ask[pieceRow](t, m.nodes[name], "pieces/show", url.Values{"arg": {kesh}})[0]
		if p.Practice != want || p.PracticeAll != counted {
			t.Errorf("%s practised %d of %d times, want %d of %d", name, p.Practice, p.PracticeAll, want, counted)
		}
		if l := db(t, m.nodes[name], "all", "practice"); len(l) != 1 || string(l[0].Value) != fmt.Sprint(want) || !strings.HasSuffix(string(l[0].Key), "/"+identityOf(t, m.nodes[name])+`"`) {
			t.Errorf("practice of %d: %+v", i, l)
		}
	}

	// One after the other goes offline; Bob is killed while he practises.
	alice.Stop()
	counted += practise(bob, kesh, 5, 2) + practise(carol, hashes["Prelude in C"], 5, 2)
	added := folder(t, map[string]string{"b.abc": abc("Banish Misfortune", "trad."), "c.abc": abc("Cooley's", "trad.")})
	add(t, bob, filepath.Join(added, "b.abc"))
	before := m.sum(bob)
	killed := make(chan uint64)
	go func() { killed <- practise(bob, hashes["Humoresque"], 8, 1000) }()
	eventually(t, "bob practises", func() bool { return m.sum(bob) > before+50 })
	bob.Kill()
	last := <-killed
	add(t, carol, filepath.Join(added, "c.abc"))
	counted += practise(carol, kesh, 5, 2)
	carol.MustRun("npp", "pieces", "update", hashes["Long"], "--title=Longest")
	carol.Kill()
	alice.Start()
	counted += practise(alice, kesh, 5, 2)
	alice.MustRun("npp", "pieces", "rm", hashes["Prelude in C"])
	alice.MustRun("npp", "profile", "set", "about", "plays the piano")
	bob.Start()
	own := ask[pieceRow](t, bob, "pieces/show", url.Values{"arg": {hashes["Humoresque"]}})[0].Practice
	if own < last || own > last+8 {
		t.Errorf("bob practised %d times, %d of which were acknowledged", own, last)
	}
	counted += own
	carol.Start()
	for i, name := range m.names {
		reconnected(t, m.nodes[name], m.nodes[m.names[(i+1)%3]], m.nodes[m.names[(i+2)%3]])
	}
	counted -= 10 // of the piece that has no owner any more
	m.agree("all are back", 6, sum, m.names...)
	delete(contents, "Prelude in C")
	if got := titles(t, alice); got != "Banish Misfortune Cooley's Humoresque Kesh Jig Longest Musical Priest" {
		t.Errorf("titles: %s", got)
	}

	// Garbage collection removes no owned file.
	databases := func(n *harness.Node) string {
		t.Helper()
		var all strings.Builder
		for _, name := range m.names {
			for store, address := range storesOf(t, m.nodes[name]) {
				if store == "companions" && m.nodes[name] != n {
					continue
				}
				out, err := ways["RPC"](t, n, call{"db/all", []string{address}, nil, nil})
				if err != "" || store != "practice" && out == "" {
					t.Errorf("%s of %s: %s", store, name, err)
				}
				all.WriteString(out)
			}
		}
		return all.String()
	}
	sorted := func(s string) string { return strings.Join(slices.Sorted(strings.Lines(s)), "") }
	want := make(map[string]string)
	for name, n := range m.nodes {
		want[name] = sorted(databases(n))
	}
	for _, n := range m.nodes {
		n.MustRun("repo", "gc")
	}
	for name, n := range m.nodes {
		if got := sorted(databases(n)); got != want[name] {
			t.Errorf("%s after gc:\n%s\nwant:\n%s", name, got, want[name])
		}
		for _, p := range ask[pieceRow](t, n, "pieces/ls", nil) {
			if got := n.MustRun("cat", "--offline", p.Hash); uint64(len(got)) != p.Size {
				t.Errorf("%s after gc: %s of %d bytes, want %d", name, p.Title, len(got), p.Size)
			}
		}
	}
	m.agree("after gc", 6, sum, m.names...)
	get("after gc")
	for name, n := range m.nodes {
		for _, a := range statusOf(t, n).Attention {
			if a.About != "config" { // Bootstrap is empty
				t.Errorf("%s: %+v", name, a)
			}
		}
	}
}
