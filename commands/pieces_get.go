package commands

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gabriel-vasile/mimetype"
	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/library"
)

const (
	stallTimeoutOption = "stall-timeout"

	defaultStallTimeout = 2 * time.Minute

	// toStdout is the output file that stands for standard output.
	toStdout = "-"
)

// getLine is the output of `npp pieces get` at the command line.
type getLine struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	Hash  string `json:"hash"`
}

var piecesGetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Download the file of a piece.",
		ShortDescription: `
Fetches the file of a piece, of yours or of a companion, from any peer that
has it, and writes it under its original name. An existing file is not
replaced without '--force'. The file appears when it is complete.

  > ipfs npp pieces get QmNR2n
  got 91034 bytes: prelude.pdf
  > ipfs npp pieces get QmNR2n -o bach.pdf --force
  > ipfs npp pieces get QmNR2n -o - | lp

Over HTTP, the response is the file itself.
`,
	},
	Arguments: []cmds.Argument{pieceArg},
	Options: []cmds.Option{
		cmds.StringOption(outputOption, "o", "Write to this file or folder, or '-' for standard output."),
		cmds.BoolOption(forceOption, "f", "Replace an existing file."),
		cmds.StringOption(stallTimeoutOption, "Give up when nothing arrives for this time.").WithDefault(defaultStallTimeout.String()),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if _, ok := req.Context.Value(downloadKey{}).(*download); ok {
			return nil // kubo calls PreRun twice if the daemon does not answer
		}
		g := &download{}
		g.path, _ = req.Options[outputOption].(string)
		if err := g.choose(req, env); err != nil {
			return err
		}
		if isTerminal(os.Stderr) {
			g.waiting = time.AfterFunc(time.Second, func() {
				fmt.Fprintf(os.Stderr, "looking for a peer that has the file, for %s at most\n", req.Options[stallTimeoutOption])
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
			return errCommandLineOnly(outputOption, "the response is the file")
		}
		timeout, err := durationOption(req, stallTimeoutOption)
		if err != nil {
			return err
		}
		p, err := resolve(ctx, lib, req.Arguments[0], true)
		if err != nil {
			return err
		}
		f, err := openStallReader(ctx, timeout, func(ctx context.Context) (library.File, error) { return lib.Fetch(ctx, p.Piece) })
		if err != nil {
			return fetchError(ctx, err, d, p, timeout)
		}
		defer f.Close()
		r := bufio.NewReaderSize(f, 64<<10)
		if _, err := r.Peek(1); err != nil && !errors.Is(err, io.EOF) {
			return fetchError(ctx, err, d, p, timeout) // an error is better than an answer that breaks off
		}
		if size, err := f.file.Size(); err == nil {
			res.SetLength(uint64(size))
		}
		res.SetEncodingType(cmds.OctetStream)
		err = res.Emit(r)
		if f.stalled.Load() || err != nil && ctx.Err() != nil {
			return fetchError(ctx, err, d, p, timeout)
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
		r = withProgress(r, fmt.Sprintf("of %d bytes", res.Length()), nil)
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
	Encoders: encodeText(func(l *getLine) string {
		return fmt.Sprintf("got %s: %s\n", quantity(l.Bytes, "byte", "bytes"), printable(l.File))
	}),
}

// download is where the command line writes the file of a piece.
type download struct {
	path    string
	waiting *time.Timer // prints that the file is looked for; nil if not at a terminal
}

// downloadKey is the key of a [download] in the context of a request.
type downloadKey struct{}

// choose sets the path of the file. It returns an error, before anything is
// fetched, if the file must not be written.
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
			return nil // Run returns a better error
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

// fileName returns a name for the file of the piece: the original name as far
// as it is safe, or else the title, or else the hash.
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

// stallReader is a file whose reads fail with errStalled if nothing arrives for
// a time.
type stallReader struct {
	file    library.File
	timeout time.Duration
	stop    context.CancelFunc
	stalled atomic.Bool
}

// openStallReader opens a file. The timeout bounds opening it, and each read.
func openStallReader(ctx context.Context, timeout time.Duration, open func(context.Context) (library.File, error)) (*stallReader, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &stallReader{timeout: timeout, stop: stop}
	var err error
	s.within(func() { s.file, err = open(ctx) })
	if err != nil {
		stop()
		return nil, s.why(err)
	}
	return s, nil
}

var errStalled = errors.New("nothing arrived")

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

// fetchError adds the next step to the error of fetching the file of a piece.
func fetchError(ctx context.Context, err error, d *daemon.Daemon, p library.CatalogPiece, timeout time.Duration) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, library.ErrInvalid):
		return fmt.Errorf("%w, so there is no file to fetch; hint: ipfs npp pieces show <piece> shows what is known", err)
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
	have, hint := "no companion has the piece", "connect to a peer that has the file: ipfs npp connect <peer>"
	if len(who) > 0 {
		have, hint = "the piece belongs to "+strings.Join(who, ", and to "), "try again, or ask whether they still have the file"
	}
	if away != "" {
		hint = "ipfs npp connect " + away + ", and try again"
	}
	return fmt.Errorf("nothing of the file %s arrived for %s, and %s; hint: %s", printable(p.Hash), timeout, have, hint)
}
