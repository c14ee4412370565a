package commands

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gabriel-vasile/mimetype"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/plugin"
)

const (
	stallTimeoutOption = "stall-timeout"

	defaultStallTimeout = 2 * time.Minute

	// toStdout is the output file that stands for standard output.
	toStdout = "-"

	// maxFileName is the longest name that a file is given, in bytes.
	maxFileName = 200
)

// getLine is the output of `npp pieces get`, at the command line.
type getLine struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	Hash  string `json:"hash"`
}

var piecesGetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Write the file of a piece, whoever has it.",
		ShortDescription: `
Fetches the file of one of your pieces, or of one of your companions', and
writes it to a file of the name that it had when it was added. It is fetched
from whoever has it, companions first. A file that is there is not replaced,
and nothing is at its place before all is written.

  > ipfs npp pieces get QmNR2n
  got 91034 bytes: prelude.pdf
  > ipfs npp pieces get QmNR2n -o bach.pdf --force
  > ipfs npp pieces get QmNR2n -o - | lp

Over the RPC, the answer is the file.
`,
	},
	Arguments: []cmds.Argument{pieceArg},
	Options: []cmds.Option{
		cmds.StringOption(outputOption, "o", "Write to this file or folder; '-' is standard output."),
		cmds.BoolOption(forceOption, "f", "Replace a file that is there."),
		cmds.StringOption(stallTimeoutOption, "Give up when nothing came for this time.").WithDefault(defaultStallTimeout.String()),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if _, ok := req.Context.Value(downloadKey{}).(*download); ok {
			return nil // kubo runs this twice where the daemon does not answer
		}
		g := &download{}
		g.path, _ = req.Options[outputOption].(string)
		if err := g.choose(req, env); err != nil {
			return err
		}
		if term.IsTerminal(int(os.Stderr.Fd())) {
			g.waiting = time.AfterFunc(time.Second, func() {
				fmt.Fprintf(os.Stderr, "looking for somebody who has the file, for %s at most\n", req.Options[stallTimeoutOption])
			})
		}
		delete(req.Options, outputOption)
		req.Context = context.WithValue(req.Context, downloadKey{}, g)
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, d, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		if _, ok := req.Options[outputOption]; ok {
			return fmt.Errorf("--%s is for the command line; hint: the answer is the file", outputOption)
		}
		patience, err := durationOption(req, stallTimeoutOption)
		if err != nil {
			return err
		}
		p, err := resolve(ctx, lib, req.Arguments[0], true)
		if err != nil {
			return err
		}
		f, err := openStallReader(ctx, patience, func(ctx context.Context) (library.File, error) { return lib.Fetch(ctx, p.Piece) })
		if err != nil {
			return fetchError(ctx, err, d, lib, p, patience)
		}
		defer f.Close()
		r := bufio.NewReaderSize(f, 64<<10)
		if _, err := r.Peek(1); err != nil && !errors.Is(err, io.EOF) {
			return fetchError(ctx, err, d, lib, p, patience) // instead of an answer that breaks off
		}
		if size, err := f.file.Size(); err == nil {
			res.SetLength(uint64(size))
		}
		res.SetEncodingType(cmds.OctetStream)
		err = res.Emit(r)
		if f.stalled.Load() || err != nil && ctx.Err() != nil {
			return fetchError(ctx, err, d, lib, p, patience)
		}
		return err
	},
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		req := res.Request()
		g, ok := req.Context.Value(downloadKey{}).(*download)
		if !ok {
			g = &download{path: toStdout}
		}
		v, err := res.Next()
		if g.waiting != nil {
			g.waiting.Stop()
		}
		if err != nil {
			return err
		}
		r, ok := v.(io.Reader)
		if !ok {
			return fmt.Errorf("the daemon answered with a %T instead of a file", v)
		}
		if term.IsTerminal(int(os.Stderr.Fd())) {
			r = &progress{Reader: r, w: os.Stderr, what: fmt.Sprintf("of %d bytes", res.Length())}
		}
		switch g.path {
		case toStdout:
			return re.Emit(r)
		case "":
			g.path = cmp.Or(safeName(req.Arguments[0], ""), "piece")
		}
		n, err := saveFile(g.path, r, isSet(req, forceOption))
		if err != nil {
			return err
		}
		return re.Emit(&getLine{File: g.path, Bytes: n, Hash: req.Arguments[0]})
	}},
	Type: getLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *getLine) error {
			_, err := fmt.Fprintf(w, "got %s: %s\n", quantity(l.Bytes, "byte", "bytes"), printable(l.File))
			return err
		}),
	},
}

// download is where the file of a piece goes, at the command line.
type download struct {
	path    string
	waiting *time.Timer // nil: nobody looks
}

// downloadKey is the key of a [download] in the context of a request.
type downloadKey struct{}

// choose chooses the file that is written, and refuses one that is there before
// anything is fetched.
func (g *download) choose(req *cmds.Request, env cmds.Environment) error {
	if g.path == toStdout {
		return nil
	}
	if info, err := os.Stat(g.path); g.path == "" || err == nil && info.IsDir() {
		api, err := apiOf(req, env)
		if err != nil || api == nil {
			return err
		}
		var l pieceLine
		if api.Request(Name+"/pieces/show", req.Arguments[0]).Exec(req.Context, &l) != nil {
			return nil // what is amiss is said when the file is asked for
		}
		req.Arguments[0] = l.Hash
		g.path = filepath.Join(g.path, l.fileName())
	}
	info, err := os.Lstat(g.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err = os.Stat(filepath.Dir(g.path))
		return err
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a folder; hint: -o <file>", printable(g.path))
	case isSet(req, forceOption) || isDevice(g.path):
		return nil
	}
	return errExists(g.path)
}

// isDevice reports whether a path is that of a pipe, say, which is written to.
func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.Mode().IsRegular() && !info.IsDir()
}

func errExists(path string) error {
	return fmt.Errorf("there is a file %s; hint: --%s replaces it, -o <file> writes another", printable(path), forceOption)
}

// fileName is a name for the file of the piece: the one that it had, as far as that
// is safe, or else the title, or else the hash.
func (f *pieceFacts) fileName() string {
	name := f.Name
	if at := strings.LastIndexAny(name, `/\`); at >= 0 {
		name = name[at+1:]
	}
	if name = safeName(name, ""); name != "" {
		return name
	}
	extension := kinds[f.Type].extension
	if extension == "" {
		if known := mimetype.Lookup(f.Type); known != nil {
			extension = known.Extension()
		}
	}
	return cmp.Or(safeName(f.Title, extension), safeName(f.Hash, extension), "piece")
}

// safeName is a text as the name of a file that no system takes for anything else,
// with an extension, or "" if nothing is left of it.
func safeName(text, extension string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return -1
		case strings.ContainsRune(`/\:*?"<>|`, r):
			return '-'
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = strings.TrimLeft(text, " .-")
	if extension == "" {
		extension = filepath.Ext(text)
		if len(extension) > 20 {
			extension = ""
		}
		text = strings.TrimSuffix(text, extension)
	}
	for len(text)+len(extension) > maxFileName {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	if text = strings.TrimRight(text, " ."); text == "" {
		return ""
	}
	return text + strings.TrimRight(extension, " .")
}

// saveFile writes a file, which is there when it is whole, and replaces one that is
// there only with force. What is no file, such as a pipe, is written to.
func saveFile(path string, r io.Reader, force bool) (n int64, err error) {
	if isDevice(path) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return 0, fmt.Errorf("write the file: %w", err)
		}
		n, err := io.Copy(f, r)
		return n, errors.Join(err, f.Close())
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(path), fmt.Sprintf(".npp-%016x", rand.Uint64())), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return 0, fmt.Errorf("write the file: %w", err)
	}
	defer os.Remove(f.Name()) // if it still is there
	n, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return n, err
	}
	if force {
		return n, os.Rename(f.Name(), path)
	}
	// A link does not replace what came meanwhile.
	switch err := os.Link(f.Name(), path); {
	case err == nil:
		return n, nil
	case errors.Is(err, fs.ErrExist):
		return n, errExists(path)
	}
	if _, err := os.Lstat(path); err == nil {
		return n, errExists(path)
	}
	return n, os.Rename(f.Name(), path)
}

// stallReader is a file whose reads end when nothing comes for a time.
type stallReader struct {
	file    library.File
	timeout time.Duration
	stop    context.CancelFunc
	stalled atomic.Bool
}

// openStallReader opens a file, which takes no longer than patience, as each read of it.
func openStallReader(ctx context.Context, patience time.Duration, open func(context.Context) (library.File, error)) (*stallReader, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &stallReader{timeout: patience, stop: stop}
	var err error
	s.within(func() { s.file, err = open(ctx) })
	if err != nil {
		stop()
		return nil, s.why(err)
	}
	return s, nil
}

var errStalled = errors.New("nothing came")

func (s *stallReader) within(do func()) {
	timer := time.AfterFunc(s.timeout, func() {
		s.stalled.Store(true)
		s.stop()
	})
	defer timer.Stop()
	do()
}

func (s *stallReader) why(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && s.stalled.Load() {
		return errStalled
	}
	return err
}

func (s *stallReader) Read(b []byte) (n int, err error) {
	s.within(func() { n, err = s.file.Read(b) })
	return n, s.why(err)
}

func (s *stallReader) Close() error {
	s.stop()
	return s.file.Close()
}

// fetchError adds the next step to an error of fetching the file of a piece.
func fetchError(ctx context.Context, err error, d *plugin.Daemon, lib *library.Library, p library.Listed, patience time.Duration) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, library.ErrInvalid):
		return fmt.Errorf("%w, so there is no file to fetch", err)
	case !errors.Is(err, errStalled):
		return pieceError(ctx, err, p.Hash)
	}
	connected := make(map[string]bool)
	for _, peer := range d.Swarm.Peers() {
		connected[peer.ID.String()] = true
	}
	var who []string
	away := ""
	for _, o := range p.Owners {
		if o.Self {
			continue
		}
		state := "connected"
		if id := o.Peer.String(); !connected[id] {
			state = "not connected"
			away = cmp.Or(away, id)
		}
		who = append(who, fmt.Sprintf("%s, which is %s", ownerLine{Peer: o.Peer.String(), Name: o.Name}.text(), state))
	}
	have, hint := "no companion has the piece", "ipfs npp connect <peer> connects to somebody who has the file"
	if len(who) > 0 {
		have, hint = "the piece is one of "+strings.Join(who, ", and of "), "try again, or ask whether the file is still there"
	}
	if away != "" {
		hint = "ipfs npp connect " + away + ", and try again"
	}
	return fmt.Errorf("nothing of the file %s came for %s; %s; hint: %s", printable(p.Hash), patience, have, hint)
}
