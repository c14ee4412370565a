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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
)

// The bars for the library.
const (
	firstRowBar = 50 * time.Millisecond
	searchBar   = 300 * time.Millisecond
)

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
		small: 1000, middle: b.pick(10_000, 2000), large: b.pick(100_000, 20_000),
		companions: b.pick(20, 8), each: b.pick(5000, 1000),
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

// libraryBench is what the measurements of the library share.
type libraryBench struct {
	*bench
	js                   *javaScript
	small, middle, large int           // how many pieces a daemon has
	companions, each     int           // how many there are, and pieces of each
	settle               time.Duration // how long after anything memory is read

	// what one measurement leaves to another; no daemon runs
	withLarge, withCompanions *node
}

// numberedPiece is the document of a piece by its number of so many. Its hash is the
// CID of a block that nobody has.
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

// pieceTitle marks a title: one piece in the middle, a hundred all over, and the last.
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

// putPieces puts the pieces from number begin up to end of so many.
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
	_, err := n.call(ctx, "npp/db/put", url.Values{"arg": {"pieces"}, "many": {"true"}}, lines.Bytes())
	return err
}

// holder starts a daemon whose own pieces are n. The caller stops it.
func (m *libraryBench) holder(ctx context.Context, n int) (*node, error) {
	progress("%d pieces", n)
	d, err := startNode(ctx, m.bench, m.npp, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.putPieces(ctx, 0, n, n), d.awaitWord(ctx, wordOfLast, 1)); err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// awaitWord waits until a search finds so many pieces, and all can be searched.
func (n *node) awaitWord(ctx context.Context, word string, want int) error {
	return await(ctx, fmt.Sprintf("%d pieces with the word %q", want, word), func() (bool, error) {
		l, err := n.list(ctx, "npp/pieces/search", url.Values{"arg": {word}})
		return l.rows == want && l.warnings == 0, err
	})
}

// listing is what a command printed that lists pieces, and how long it took until the
// first row and until its end.
type listing struct {
	rows, warnings int
	first, last    time.Duration
}

func (n *node) list(ctx context.Context, path string, query url.Values) (listing, error) {
	began := time.Now()
	resp, err := n.post(ctx, path, query, nil)
	if err != nil {
		return listing{}, err
	}
	defer resp.Body.Close()
	l, err := readListing(resp.Body, began)
	if err == nil {
		if text := resp.Trailer.Get("X-Stream-Error"); text != "" {
			err = errors.New(text)
		}
	}
	if err != nil {
		err = fmt.Errorf("rpc %s: %w", path, err)
	}
	return l, err
}

// readListing reads lines, of which those that begin with a warning are no rows.
func readListing(r io.Reader, began time.Time) (l listing, err error) {
	for lines := bufio.NewReaderSize(r, 1<<16); ; {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			switch {
			case bytes.HasPrefix(line, []byte(`{"warning"`)), bytes.HasPrefix(line, []byte("note:")):
				l.warnings++
			default:
				if l.rows == 0 {
					l.first = time.Since(began)
				}
				l.rows++
			}
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

// listAtCommandLine is list by a process of its own, from its start.
func (n *node) listAtCommandLine(ctx context.Context, args ...string) (l listing, err error) {
	cmd := n.command(ctx, args...)
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
	l, err = readListing(stdout, began)
	if waitErr := cmd.Wait(); err == nil {
		err = waitErr
	}
	if l.last = time.Since(began); err != nil {
		err = fmt.Errorf("ipfs %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return l, err
}

// asked is a command that lists, and what it was measured to take.
type asked struct {
	name          string
	command       []string // below `ipfs npp`
	query         url.Values
	want          func(n int) int // how many rows there are of n pieces
	rpc, terminal []listing
}

// args are those at the command line.
func (a *asked) args() []string {
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

// measure asks once by RPC and once at the command line, of n pieces.
func (a *asked) measure(ctx context.Context, d *node, n int) error {
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
			return fmt.Errorf("%s: %d rows and %d warnings, not %d rows", a.name, l.rows, l.warnings, a.want(n))
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

func all(n int) int { return n }

// lists are the ways to list one's own pieces.
func lists() []*asked {
	ls := []string{"pieces", "ls"}
	return []*asked{
		{name: "`pieces ls`", command: ls, want: all},
		{name: "`pieces ls --sort title`", command: ls, query: url.Values{"sort": {"title"}}, want: all},
		{name: "`pieces ls --instrument cello`", command: ls, query: url.Values{"instrument": {"cello"}}, want: func(n int) int { return n / 5 }},
	}
}
