package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/test/ipfs"
)

// The bars for the library.
const (
	firstRowBar = 50 * time.Millisecond
	searchBar   = 300 * time.Millisecond
)

// defaultFound is the default number of pieces that a search lists.
const defaultFound = 50

// Words in the titles of pieces, see pieceTitle.
const (
	wordOfOne     = "unica"
	wordOfHundred = "centum"
	wordOfAll     = "sonata"
	wordOfLast    = "ultima"

	hundred = 100
)

// benchLibrary measures the library: pieces and companions.
func benchLibrary(ctx context.Context, b *bench) ([]*section, error) {
	js, err := installJavaScript(ctx, b)
	if err != nil {
		return nil, err
	}
	m := &libraryBench{
		bench: b, js: js,
		small: b.pick(1000, 500), middle: b.pick(10_000, 1000), large: b.pick(100_000, 20_000),
		companions: b.pick(20, 8), perCompanion: b.pick(5000, 1000),
		settle: time.Duration(b.pick(3, 1)) * time.Second,
	}
	var sections []*section
	for _, measure := range []func(context.Context) ([]*section, error){m.list, m.search, m.start, m.add} {
		s, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		sections = append(sections, s...)
	}
	return sections, nil
}

// libraryBench is the state that the measurements of the library share.
type libraryBench struct {
	*bench
	js                       *javaScript
	small, middle, large     int           // numbers of pieces of a daemon
	companions, perCompanion int           // number of companions, and of pieces of each
	settle                   time.Duration // time before each reading of memory

	// stopped nodes that one measurement leaves for another
	withLarge, withCompanions *node
}

// numberedPiece returns the document of piece i of a total. Its hash is the CID
// of a block that no peer has.
func numberedPiece(i, of int) (map[string]any, error) {
	sum, err := mh.Sum([]byte(fmt.Sprint("piece ", i)), mh.SHA2_256, -1)
	if err != nil {
		return nil, err
	}
	d := document(i)
	return map[string]any{
		"hash":       cid.NewCidV1(cid.Raw, sum).String(),
		"title":      pieceTitle(d["title"], i, of),
		"composer":   d["composer"],
		"instrument": d["instrument"],
		"type":       "application/pdf",
		"name":       fmt.Sprintf("scan-%06d.pdf", i),
		"size":       40_000 + i,
	}, nil
}

// pieceTitle marks titles: one piece in the middle, a hundred spread over all,
// and the last.
func pieceTitle(title any, i, of int) string {
	text := fmt.Sprint(title)
	if i == of/2 {
		text += " " + wordOfOne
	}
	if i%(of/hundred) == 0 {
		text += " " + wordOfHundred
	}
	if i == of-1 {
		text += " " + wordOfLast
	}
	return text
}

// putPieces puts the pieces with the numbers in [begin, end) of a total.
func (n *node) putPieces(ctx context.Context, begin, end, of int) error {
	var lines bytes.Buffer
	for i := begin; i < end; i++ {
		p, err := numberedPiece(i, of)
		if err != nil {
			return err
		}
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		lines.Write(append(text, '\n'))
	}
	_, err := n.rpc.Call(ctx, "npp/db/put", url.Values{"arg": {"pieces"}, "many": {"true"}}, lines.Bytes())
	return err
}

// holder starts a daemon with n pieces of its own. The caller stops it.
func (m *libraryBench) holder(ctx context.Context, n int) (*node, error) {
	progress("%d pieces", n)
	d, err := startNode(ctx, m.bench, m.npp, nil)
	if err != nil {
		return nil, err
	}
	err = d.putPieces(ctx, 0, n, n)
	if err == nil {
		err = d.awaitWord(ctx, wordOfLast, 1)
	}
	if err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// awaitWord waits until a search finds the wanted number of pieces and covers
// all pieces.
func (n *node) awaitWord(ctx context.Context, word string, want int) error {
	return await(ctx, fmt.Sprintf("%d pieces with the word %q", want, word), func() (bool, error) {
		l, err := n.list(ctx, "npp/pieces/search", url.Values{"arg": {word}})
		return l.rows == want && l.warnings == 0, err
	})
}

// listing is the output of a command that lists pieces, with the time to its
// first row and to its end.
type listing struct {
	rows, warnings int
	first, last    time.Duration
}

// list reads the whole output of a command.
func (n *node) list(ctx context.Context, path string, query url.Values) (listing, error) {
	return n.listUpTo(ctx, -1, path, query)
}

// listUpTo reads at most the given number of rows, or all if it is -1, and then
// cancels the command.
func (n *node) listUpTo(ctx context.Context, most int, path string, query url.Values) (listing, error) {
	began := time.Now()
	resp, err := n.rpc.Stream(ctx, path, query, nil)
	if err != nil {
		return listing{}, err
	}
	defer resp.Body.Close()
	l, err := readListing(resp.Body, began, most)
	if err == nil && l.rows != most {
		if text := resp.Trailer.Get("X-Stream-Error"); text != "" {
			err = errors.New(text)
		}
	}
	if err != nil {
		err = fmt.Errorf("rpc %s: %w", path, err)
	}
	return l, err
}

// readListing reads at most the given number of rows, or all if it is -1.
// Warnings do not count as rows.
func readListing(r io.Reader, began time.Time, most int) (l listing, err error) {
	for lines := bufio.NewReaderSize(r, 1<<16); l.rows != most; {
		line, err := lines.ReadSlice('\n')
		switch {
		case len(line) == 0:
		case bytes.HasPrefix(line, []byte(`{"warning":`)), bytes.HasPrefix(line, []byte("note: ")):
			l.warnings++
		default:
			if l.rows == 0 {
				l.first = time.Since(began)
			}
			l.rows++
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return l, err
		}
	}
	if l.last = time.Since(began); l.rows == 0 {
		l.first = l.last
	}
	return l, nil
}

// listAtCommandLine is list in a process of its own, timed from its start.
func (n *node) listAtCommandLine(ctx context.Context, args ...string) (l listing, err error) {
	cmd := n.Command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return l, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return l, err
	}
	l, err = readListing(stdout, began, -1)
	if waitErr := cmd.Wait(); err == nil {
		err = waitErr
	}
	if l.last = time.Since(began); err != nil {
		err = fmt.Errorf("ipfs %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return l, err
}

// listCommand is a command that lists, with its measurements.
type listCommand struct {
	name          string
	command       []string // below `ipfs npp`
	query         url.Values
	want          func(n int) int // expected number of rows for n pieces
	rpc, terminal []listing
}

// args returns the command-line arguments.
func (a *listCommand) args() []string {
	args := append([]string{"npp"}, a.command...)
	for name, values := range a.query {
		for _, v := range values {
			if name == "arg" {
				args = append(args, v)
			} else {
				args = append(args, fmt.Sprintf("--%s=%s", name, v))
			}
		}
	}
	return args
}

// measure runs the command once by RPC and once at the command line, against n
// pieces.
func (a *listCommand) measure(ctx context.Context, d *node, n int) error {
	byRPC, err := d.list(ctx, "npp/"+strings.Join(a.command, "/"), a.query)
	if err != nil {
		return err
	}
	atTerminal, err := d.listAtCommandLine(ctx, a.args()...)
	if err != nil {
		return err
	}
	for _, l := range []listing{byRPC, atTerminal} {
		if l.rows != a.want(n) || l.warnings > 0 {
			return fmt.Errorf("%s: got %d rows and %d warnings, want %d rows", a.name, l.rows, l.warnings, a.want(n))
		}
	}
	a.rpc, a.terminal = append(a.rpc, byRPC), append(a.terminal, atTerminal)
	return nil
}

func firstOf(all []listing) time.Duration {
	return median(collect(all, func(l listing) time.Duration { return l.first }))
}

func lastOf(all []listing) time.Duration {
	return median(collect(all, func(l listing) time.Duration { return l.last }))
}

// allOf is the number of rows where every piece is a row.
func allOf(n int) int { return n }

// lists returns the ways to list one's own pieces.
func lists() []*listCommand {
	ls := []string{"pieces", "ls"}
	return []*listCommand{
		{name: "`pieces ls`", command: ls, want: allOf},
		{name: "`pieces ls --sort title`", command: ls, query: url.Values{"sort": {"title"}}, want: allOf},
		{name: "`pieces ls --instrument cello`", command: ls, query: url.Values{"instrument": {"cello"}}, want: func(n int) int { return n / 5 }},
	}
}

// list measures how soon pieces are listed.
func (m *libraryBench) list(ctx context.Context) ([]*section, error) {
	rounds := m.pick(5, 2)
	s := &section{
		title: "Library: `pieces ls`",
		how: fmt.Sprintf("Daemons with the given number of pieces of their own: documents of about 270 bytes, put by `npp db put pieces --many`. Over the RPC, the times are from the request to the first line and to the end; "+
			"at the command line, from the start of a process to the first line of its standard output and to its end. The last row is the cost of any command there. "+
			"%d rounds; all pieces are read to the end each time.", rounds),
	}
	s.row("", "rows", "RPC: first row", "last row", "command line: first row", "last row")
	var id []time.Duration
	var beside []*listCommand // of the size that is measured in JavaScript
	for _, n := range []int{m.small, m.middle, m.large} {
		commands, took, err := m.listOf(ctx, n, rounds)
		if err != nil {
			return nil, err
		}
		id = append(id, took...)
		if n == m.middle {
			beside = commands
		}
		for _, a := range commands {
			s.row(fmt.Sprintf("%d pieces: %s", n, a.name), fmt.Sprint(a.want(n)), ms(firstOf(a.rpc)), ms(lastOf(a.rpc)), ms(firstOf(a.terminal)), ms(lastOf(a.terminal)))
			if n == m.large {
				first := firstOf(a.rpc)
				s.verdict(first < firstRowBar, "%s prints the first of %d pieces within %d ms; it takes %s.", a.name, n, firstRowBar.Milliseconds(), ms(first))
			}
		}
	}
	s.row("`npp id`", "", "", "", "", ms(median(id)))
	other, err := m.listBeside(ctx, beside)
	if err != nil {
		return nil, err
	}
	return append([]*section{s}, other...), nil
}

// listOf measures lists of n pieces, and `npp id` beside them.
func (m *libraryBench) listOf(ctx context.Context, n, rounds int) (all []*listCommand, id []time.Duration, err error) {
	d, err := m.holder(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	defer d.stop()
	if n == m.large {
		m.withLarge = d
	}
	all = lists()
	for range rounds {
		for _, a := range all {
			if err := a.measure(ctx, d, n); err != nil {
				return nil, nil, err
			}
		}
		l, err := d.listAtCommandLine(ctx, "npp", "id")
		if err != nil {
			return nil, nil, err
		}
		id = append(id, l.last)
	}
	return all, id, nil
}

// listBeside compares lists with @orbitdb/core.
func (m *libraryBench) listBeside(ctx context.Context, own []*listCommand) ([]*section, error) {
	s := &section{
		title: "Library: `pieces ls` beside @orbitdb/core",
		how: fmt.Sprintf("The lists of %d pieces above, by RPC from another process, beside loops in one Node.js process with @orbitdb/core over as many documents, of about 130 bytes, that it has read before: "+
			"the first document that `iterator` yields (median of 20), `all`, and `query` for one instrument of five (each the median of 3).%s", m.middle, m.js.without()),
	}
	s.row("", "npp", "@orbitdb/core", "speedup")
	var other map[string]figure
	if m.js.missing == "" {
		progress("@orbitdb/core, %d documents", m.middle)
		var err error
		if other, err = m.js.run(ctx, m.middle, "first-row", "all-rows", "query"); err != nil {
			return nil, err
		}
	}
	for _, r := range []struct {
		name, there string
		took        time.Duration
	}{
		{"first of all", "first-row", firstOf(own[0].rpc)},
		{"all", "all-rows", lastOf(own[0].rpc)},
		{"all of an instrument", "query", lastOf(own[2].rpc)},
	} {
		if other == nil {
			s.row(r.name, ms(r.took), "", "")
			continue
		}
		theirs := other[r.there].p50()
		s.row(r.name, ms(r.took), ms(theirs), fmt.Sprintf("%.2f", float64(theirs)/float64(r.took)))
	}
	return []*section{s}, nil
}

// footprint is memory in MiB.
type footprint struct{ resident, settled, heap float64 }

// footprint reads the memory of a daemon, before and after a garbage
// collection.
func (m *libraryBench) footprint(ctx context.Context, n *node) (f footprint, err error) {
	if err := wait(ctx, m.settle); err != nil {
		return f, err
	}
	if f.resident, err = n.memory("VmRSS"); err != nil {
		return f, err
	}
	if f.heap, err = n.heap(ctx); err != nil {
		return f, err
	}
	if err := wait(ctx, m.settle); err != nil {
		return f, err
	}
	f.settled, err = n.memory("VmRSS")
	return f, err
}

// searches returns the ways to search the pieces of companions.
func searches() []*listCommand {
	search := func(word string, want int) *listCommand {
		return &listCommand{command: []string{"pieces", "search"}, query: url.Values{"arg": {word}}, want: func(int) int { return want }}
	}
	return []*listCommand{
		search(wordOfOne, 1).called("`pieces search`, a word that 1 piece has"),
		search(wordOfHundred, defaultFound).called(fmt.Sprintf("`pieces search`, a word that %d pieces have", hundred)),
		search(wordOfAll, defaultFound).called("`pieces search`, a word that all pieces have"),
		search(wordOfAll+" "+wordOfOne, 1).called("`pieces search`, a word that all have and one that 1 has"),
		{name: "`pieces random --all`", command: []string{"pieces", "random"}, query: url.Values{"all": {"true"}}, want: func(int) int { return 1 }},
	}
}

func (a *listCommand) called(name string) *listCommand {
	a.name = name
	return a
}

// search measures searches in the pieces of companions.
func (m *libraryBench) search(ctx context.Context) ([]*section, error) {
	d, err := startNode(ctx, m.bench, m.npp, ipfs.Hidden)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	m.withCompanions = d
	before, err := m.footprint(ctx, d)
	if err != nil {
		return nil, err
	}
	for i := range m.companions {
		progress("companion %d of %d", i+1, m.companions)
		if err := m.follow(ctx, d, i); err != nil {
			return nil, err
		}
	}
	if err := d.awaitWord(ctx, wordOfLast, 1); err != nil {
		return nil, err
	}
	after, err := m.footprint(ctx, d)
	if err != nil {
		return nil, err
	}
	rounds := m.pick(20, 5)
	all := searches()
	for range rounds {
		for _, a := range all {
			if err := a.measure(ctx, d, m.companions*m.perCompanion); err != nil {
				return nil, err
			}
		}
	}
	s := &section{
		title: fmt.Sprintf("Library: search in the pieces of %d companions", m.companions),
		how: fmt.Sprintf("%d daemons, one after the other, put %d pieces each and stop once the measured daemon, which has followed them (`npp companions add`), has all of these. It has no pieces of its own. "+
			"The times are from the request, or from the start of the process, to the end. A search lists at most %d pieces, its default; %d rounds.", m.companions, m.perCompanion, defaultFound, rounds),
	}
	s.row("", "rows", "RPC: first row", "last row", "command line: last row")
	for _, a := range all {
		s.row(a.name, fmt.Sprint(a.want(0)), ms(firstOf(a.rpc)), ms(lastOf(a.rpc)), ms(lastOf(a.terminal)))
		s.verdict(lastOf(a.rpc) < searchBar, "%s: the answer takes at most %d ms; it takes %s.", a.name, searchBar.Milliseconds(), ms(lastOf(a.rpc)))
	}
	memory := &section{
		title: "Library: memory of a daemon by its companions",
		how:   fmt.Sprintf("The same daemon: resident memory (VmRSS) %[1]s after it was ready, and after it had all pieces; the same %[1]s after a garbage collection, and the live objects on the heap then.", m.settle),
	}
	memory.row("companions", "pieces", "resident", "resident after a garbage collection", "heap")
	memory.row("0", "0", mib(before.resident), mib(before.settled), mib(before.heap))
	memory.row(fmt.Sprint(m.companions), fmt.Sprint(m.companions*m.perCompanion), mib(after.resident), mib(after.settled), mib(after.heap))
	return []*section{s, memory}, nil
}

// follow makes a daemon follow the i-th companion until it has all its pieces.
func (m *libraryBench) follow(ctx context.Context, d *node, i int) error {
	c, err := startNode(ctx, m.bench, m.npp, nil)
	if err != nil {
		return err
	}
	defer c.stop()
	if err := c.putPieces(ctx, i*m.perCompanion, (i+1)*m.perCompanion, m.companions*m.perCompanion); err != nil {
		return err
	}
	addr, err := c.addr(ctx)
	if err != nil {
		return err
	}
	if _, err := d.rpc.Call(ctx, "npp/companions/add", url.Values{"arg": {addr}, "wait": {"1m"}}, nil); err != nil {
		return err
	}
	return await(ctx, "the pieces of a companion", func() (bool, error) {
		answer, err := d.rpc.Call(ctx, "npp/companions/ls", nil, nil)
		if err != nil {
			return false, err
		}
		for line := range bytes.Lines(answer) {
			var l struct {
				Peer   string
				Pieces int
			}
			if err := json.Unmarshal(line, &l); err != nil {
				return false, err
			}
			if l.Peer == c.id {
				return l.Pieces == m.perCompanion, nil
			}
		}
		return false, nil
	})
}

// startedNode is a daemon that is restarted repeatedly, with the times until it
// was ready, until a list printed its first row, until a search was answered,
// and until a search was complete.
type startedNode struct {
	*node
	name                       string
	query                      url.Values // of the list
	found                      int        // number of pieces that have [wordOfOne]
	ready, list, search, whole []time.Duration
	silent                     int // incomplete answers that did not say so
	memory                     footprint
}

// start measures how soon a daemon that has pieces is usable.
func (m *libraryBench) start(ctx context.Context) ([]*section, error) {
	empty, err := newNode(ctx, m.bench, m.npp, nil)
	if err != nil {
		return nil, err
	}
	defer empty.stop()
	defer m.withLarge.stop()
	defer m.withCompanions.stop()
	all := []*startedNode{
		{node: empty, name: "no pieces"},
		{node: m.withLarge, name: fmt.Sprintf("%d pieces", m.large), found: 1},
		{node: m.withCompanions, name: fmt.Sprintf("%d companions with %d each", m.companions, m.perCompanion), query: url.Values{"all": {"true"}}, found: 1},
	}
	rounds := m.pick(7, 2)
	for round := range rounds + 1 {
		progress("start %d of %d", round, rounds)
		for _, st := range all {
			if err := st.round(ctx); err != nil {
				return nil, err
			}
			if round == 0 { // it read freshly written files
				st.ready, st.list, st.search, st.whole, st.silent = nil, nil, nil, nil, 0
			}
		}
	}
	for _, st := range all {
		if st.memory, err = m.memoryOfStarted(ctx, st); err != nil {
			return nil, err
		}
	}
	s := &section{
		title: "Library: start of a daemon that has pieces",
		how: fmt.Sprintf("From the start of `ipfs daemon`, on the repos above and on one without pieces, to \"Daemon is ready\", and to the first row of a `pieces ls` that is called then, with `--all` if there are companions "+
			"(without pieces, to its end). In another start, to the end of a `pieces search` that is called then, for a word that one piece has; and, as the search is repeated, to the end of the first that finds the piece and leaves out nobody's pieces. "+
			"%d starts of each kind, in turns, with the files in the system's cache. Memory is read %[2]s after a search was complete, and %[2]s after a garbage collection.", rounds, m.settle),
	}
	for _, st := range all {
		if st.silent > 0 {
			s.how += fmt.Sprintf(" Of the searches with %s, %d were incomplete and did not say so.", st.name, st.silent)
		}
	}
	row := func(name string, of func(*startedNode) string) {
		cells := []string{name}
		for _, st := range all {
			cells = append(cells, of(st))
		}
		s.row(cells...)
	}
	row("", func(st *startedNode) string { return st.name })
	row("ready", func(st *startedNode) string { return ms(median(st.ready)) })
	row("`pieces ls`: first row", func(st *startedNode) string { return ms(median(st.list)) })
	row("`pieces search`: first answer", func(st *startedNode) string { return ms(median(st.search)) })
	row("`pieces search`: complete answer", func(st *startedNode) string { return ms(median(st.whole)) })
	row("resident", func(st *startedNode) string { return mib(st.memory.resident) })
	row("resident after a garbage collection", func(st *startedNode) string { return mib(st.memory.settled) })
	row("heap", func(st *startedNode) string { return mib(st.memory.heap) })
	return []*section{s}, nil
}

// memoryOfStarted starts the daemon and returns its memory once all is read.
func (m *libraryBench) memoryOfStarted(ctx context.Context, st *startedNode) (f footprint, err error) {
	if err := st.node.start(ctx); err != nil {
		return f, err
	}
	defer st.stop()
	if err := st.awaitWord(ctx, wordOfOne, st.found); err != nil {
		return f, err
	}
	return m.footprint(ctx, st.node)
}

// round starts the daemon twice and records the times.
func (st *startedNode) round(ctx context.Context) error {
	began := time.Now()
	if err := st.node.start(ctx); err != nil {
		return err
	}
	st.ready = append(st.ready, st.node.ready)
	err := await(ctx, "a row", func() (bool, error) {
		l, err := st.listUpTo(ctx, 1, "npp/pieces/ls", st.query)
		return l.rows == st.found, err
	})
	st.list = append(st.list, time.Since(began))
	st.stop()
	if err != nil {
		return err
	}

	began = time.Now()
	if err := st.node.start(ctx); err != nil {
		return err
	}
	defer st.stop()
	first := true
	err = await(ctx, "a complete search", func() (bool, error) {
		l, err := st.node.list(ctx, "npp/pieces/search", url.Values{"arg": {wordOfOne}})
		if first {
			st.search, first = append(st.search, time.Since(began)), false
		}
		if l.rows < st.found && l.warnings == 0 {
			st.silent++
		}
		return l.rows == st.found && l.warnings == 0, err
	})
	st.whole = append(st.whole, time.Since(began))
	return err
}

// added is the number of files that were added per second in each round: as
// pieces, as a folder, and one by one.
type added struct{ pieces, tree, each []float64 }

// add measures how soon files become pieces.
func (m *libraryBench) add(ctx context.Context) ([]*section, error) {
	const count = 200
	d, err := startNode(ctx, m.bench, m.npp, nil)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	stock, err := startNode(ctx, m.bench, m.stock, nil)
	if err != nil {
		return nil, err
	}
	defer stock.stop()
	rounds := m.pick(7, 3)
	var rates added
	for round := range rounds + 1 {
		var all added
		for _, way := range []struct {
			add  func(dir string, files []string) error
			rate *[]float64
		}{
			{func(dir string, _ []string) error { return addPieces(ctx, d, dir, count) }, &all.pieces},
			{func(dir string, _ []string) error {
				out, err := stock.Command(ctx, "add", "--recursive", "--quieter", dir).CombinedOutput()
				if err != nil {
					err = fmt.Errorf("ipfs add: %w\n%s", err, out)
				}
				return err
			}, &all.tree},
			{func(_ string, files []string) error {
				for _, text := range files {
					if _, err := stock.rpc.Call(ctx, "add", url.Values{"quieter": {"true"}}, []byte(text)); err != nil {
						return err
					}
				}
				return nil
			}, &all.each},
		} {
			dir, files, err := m.scores(count)
			if err != nil {
				return nil, err
			}
			began := time.Now()
			if err := way.add(dir, files); err != nil {
				return nil, err
			}
			*way.rate = append(*way.rate, perSecond(count, time.Since(began)))
		}
		if round > 0 {
			rates.pieces, rates.tree, rates.each = append(rates.pieces, all.pieces...), append(rates.tree, all.tree...), append(rates.each, all.each...)
		}
	}
	s := &section{
		title: fmt.Sprintf("Library: `pieces add` of a folder of %d files", count),
		how: fmt.Sprintf("Files in ABC notation of about 2 KiB, new ones each time. `npp pieces add <folder>` parses each file, adds and pins it, and puts its document into the pieces, all on disk before the next file; "+
			"stock `ipfs add -r` of such a folder adds all files and creates one pin. Both run at the command line and are timed from the start of the process to its end. "+
			"The third is stock `add` over the RPC, one file after the other, which creates a pin for each; %d rounds in turns.", rounds),
	}
	s.row("", "files", "ratio of `pieces add` to it", "middle half")
	s.row("`npp pieces add <folder>`", rate(rates.pieces), "", "")
	for _, r := range []struct {
		name string
		of   []float64
	}{{"stock `ipfs add -r <folder>`", rates.tree}, {"stock `add`, each file by RPC", rates.each}} {
		quotients := ratios(rates.pieces, r.of)
		s.row(r.name, rate(r.of), ratio(quotients), spread(quotients))
	}
	return []*section{s}, nil
}

// addPieces adds a folder at the command line.
func addPieces(ctx context.Context, d *node, dir string, count int) error {
	out, err := d.Command(ctx, "npp", "pieces", "add", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ipfs npp pieces add: %w\n%s", err, out)
	}
	if want := fmt.Sprintf("%d added,", count); !bytes.Contains(out, []byte(want)) {
		return fmt.Errorf("ipfs npp pieces add has not printed %q: %s", want, out)
	}
	return nil
}

// scores creates a folder of new files in ABC notation. It also returns their
// texts.
func (m *libraryBench) scores(count int) (dir string, files []string, err error) {
	if dir, err = os.MkdirTemp(m.Dir, "scores-"); err != nil {
		return "", nil, err
	}
	for i := range count {
		text := fmt.Sprintf("X:%d\nT:Sonata no. %d of %s\nC:Composer of the %dth\nM:4/4\nL:1/8\nK:G\n%s", i+1, i, filepath.Base(dir), i, strings.Repeat("GABc dedB|dedB dedB|c2ec B2dB|A2F2 G4:|\n", 50))
		if err := os.WriteFile(filepath.Join(dir, "sonata-"+strconv.Itoa(i)+".abc"), []byte(text), 0o644); err != nil {
			return "", nil, err
		}
		files = append(files, text)
	}
	return dir, files, nil
}
