package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"github.com/ipfs/boxo/files"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/library/sheet"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/space"
)

// addLine is a line of `npp pieces add`: what became of a file or CID, how far it is,
// or how many there were; and of `npp pieces update`.
type addLine struct {
	Outcome string `json:"outcome,omitempty"` // "added", "updated", "unchanged", "skipped" or "failed"
	File    string `json:"file,omitempty"`    // as it was given
	pieceFacts
	Reason   string       `json:"reason,omitempty"` // of what is skipped
	Error    string       `json:"error,omitempty"`  // of what failed
	Progress *addProgress `json:"progress,omitempty"`
	Summary  *addSummary  `json:"summary,omitempty"`
}

// addProgress is how far a file or CID is.
type addProgress struct {
	Bytes  *uint64 `json:"bytes,omitempty"`  // of the file that were read
	Blocks *int    `json:"blocks,omitempty"` // of what is pinned that are here
}

// addSummary is how many there were of each outcome.
type addSummary struct {
	Added     int `json:"added"`
	Updated   int `json:"updated"`
	Unchanged int `json:"unchanged"`
	Skipped   int `json:"skipped"`
	Failed    int `json:"failed"`
}

// tried is how many were not skipped.
func (s *addSummary) tried() int { return s.Added + s.Updated + s.Unchanged + s.Failed }

func (s *addSummary) text() string {
	text := fmt.Sprintf("%d added, %d updated, %d unchanged, %d skipped", s.Added, s.Updated, s.Unchanged, s.Skipped)
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed", s.Failed)
	}
	return text
}

var addEncoders = cmds.EncoderMap{
	cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *addLine) error {
		_, err := io.WriteString(w, l.text())
		return err
	}),
}

func (l *addLine) text() string {
	what := printable(cmp.Or(l.File, l.Hash))
	switch {
	case l.Progress != nil:
		return "" // it is shown apart
	case l.Summary != nil:
		return l.Summary.text() + "\n"
	case l.Error != "":
		return fmt.Sprintf("failed     %s: %s\n", what, printable(l.Error))
	case l.Reason != "":
		return fmt.Sprintf("skipped    %s: %s\n", what, printable(l.Reason))
	}
	return fmt.Sprintf("%-9s  %s\n", l.Outcome, l.pieceFacts.text())
}

// progress is how far it is, for people.
func (l *addLine) progress() string {
	what := printable(cmp.Or(l.File, l.Hash))
	switch p := l.Progress; {
	case p.Blocks != nil:
		return fmt.Sprintf("%s: %s here", what, quantity(*p.Blocks, "block is", "blocks are"))
	case p.Bytes != nil:
		return fmt.Sprintf("%s: %s", what, quantity(*p.Bytes, "byte", "bytes"))
	}
	return what
}

var piecesAddCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Add files, folders or CIDs to one's pieces.",
		ShortDescription: `
Adds a file to IPFS, pins it and puts it into your pieces, with the title and
composer that it has (PDF, MusicXML, ABC, MIDI and LilyPond). A piece that is
there already is updated with what is new. Of a folder, with all below it,
what is known to be sheet music or an image is added.

  > ipfs npp pieces add prelude.pdf --instrument Piano
  added      QmNR2n…  Prelude in C  (J. S. Bach, Piano, PDF)
  > ipfs npp pieces add ~/scores
  > ipfs npp pieces add QmZ4tD… --pin

What is neither a file nor a folder is a CID, which is put as it is: with
'--pin' the file is fetched, pinned and looked at first.

Over the RPC, files are in the multipart body, as for 'ipfs add', and CIDs are
arg=. In JSON a line has an "outcome": added, updated, unchanged, skipped (and
the "reason") or failed (and the "error"); the "file"; and of the piece
"hash", "title", "composer", "instrument", "type", "name" and "size". At the
end of a folder there is a line with a "summary", and with '--progress' lines
with "progress", in "bytes" or "blocks".
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("file", false, true, "File, folder or CID."),
	},
	Options: []cmds.Option{
		cmds.StringOption(instrumentOption, "Whom it is for; Piano if not given."),
		cmds.StringOption(titleOption, "Its title, of one file or CID."),
		cmds.StringOption(composerOption, "Its composer."),
		cmds.BoolOption(pinOption, "Fetch and pin what a CID is of."),
		cmds.BoolOption(allFilesOption, "Of folders, add files of any kind."),
		cmds.BoolOption(progressOption, "p", "Tell how far it is; at a terminal, if not given."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if req.Files != nil {
			return nil // kubo runs this twice where the daemon does not answer
		}
		sent, hashes, err := sourcesOf(req.Arguments)
		if err != nil {
			return err
		}
		if _, ok := req.Options[titleOption]; ok && (len(sent.paths)+len(hashes) > 1 || sent.folders) {
			return errOneTitle
		}
		if _, ok := req.Options[progressOption]; !ok && forPeople(req) && term.IsTerminal(int(os.Stderr.Fd())) {
			req.SetOption(progressOption, true)
		}
		req.Arguments = hashes
		if len(sent.paths) > 0 {
			req.Files = sent
		}
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		if err := checkBody(req, res); err != nil {
			return err
		}
		a := &adding{ctx: ctx, lib: lib, details: detailsOf(req), all: on(req, allFilesOption), pin: on(req, pinOption)}
		a.emit = func(l *addLine) error { return res.Emit(l) }
		a.progress = on(req, progressOption)
		for _, arg := range req.Arguments {
			hash, ok := cidOf(arg)
			if !ok {
				return fmt.Errorf("%.80q is no CID; hint: files are posted as a multipart body", arg)
			}
			a.hashes = append(a.hashes, hash)
		}
		switch {
		case req.Files == nil && len(a.hashes) == 0:
			return errNothingToAdd
		case a.details.Title != nil && (len(a.hashes) > 1 || len(a.hashes) == 1 && req.Files != nil):
			return errOneTitle
		}
		// What is read from the client ends only when the request does.
		done := make(chan error, 1)
		go func() { done <- a.run(req.Files) }()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	},
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		shown := &shownProgress{w: os.Stderr}
		defer shown.clear()
		for {
			v, err := res.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if l, ok := v.(*addLine); ok && l.Progress != nil && forPeople(res.Request()) {
				shown.show(l.progress())
				continue
			}
			shown.clear()
			if err := re.Emit(v); err != nil {
				return err
			}
		}
	}},
	Type:     addLine{},
	Encoders: addEncoders,
}

const (
	// maxDepth is how deep folders may nest.
	maxDepth = 100

	// tellEvery is how often it is told how far a file is.
	tellEvery = 500 * time.Millisecond
)

// adding is a run of `npp pieces add`.
type adding struct {
	ctx      context.Context
	lib      *library.Library
	details  library.Details
	all      bool // files of any kind
	pin      bool
	progress bool
	hashes   []string

	telling sync.Mutex // one line at a time
	emit    func(*addLine) error

	sum     addSummary
	folders bool     // there were some
	held    *addLine // the first, if it failed: alone, it is the error
	heldErr error
}

func (a *adding) run(sent files.Directory) error {
	err := a.each(sent)
	switch {
	case err != nil && a.held != nil && a.ctx.Err() == nil:
		if emitErr := a.emit(a.held); emitErr != nil {
			return emitErr
		}
		return err
	case err != nil:
		return err
	case a.held != nil:
		return a.heldErr
	case a.folders:
		if err := a.tell(&addLine{Summary: &a.sum}); err != nil {
			return err
		}
	}
	switch {
	case a.sum.Failed > 0:
		return fmt.Errorf("%d of %d failed", a.sum.Failed, a.sum.tried())
	case a.sum == addSummary{} && !a.folders:
		return errNothingToAdd
	}
	return nil
}

// each adds what is sent, and then the CIDs.
func (a *adding) each(sent files.Directory) error {
	if sent != nil {
		it := sent.Entries()
		for it.Next() {
			if err := a.entry(it); err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return a.ended(fmt.Errorf("read the files: %w", err))
		}
	}
	for _, hash := range a.hashes {
		if err := a.hash(hash); err != nil {
			return err
		}
	}
	return nil
}

// ended is an error that ends it all: where the request ended, that.
func (a *adding) ended(err error) error {
	if cause := context.Cause(a.ctx); cause != nil {
		return cause
	}
	return err
}

// tell emits a line, behind one that was held back.
func (a *adding) tell(l *addLine) error {
	a.telling.Lock()
	defer a.telling.Unlock()
	if held := a.held; held != nil {
		a.held, a.heldErr = nil, nil
		if err := a.emit(held); err != nil {
			return err
		}
	}
	return a.emit(l)
}

// show emits how far something is, until the context is done.
func (a *adding) show(ctx context.Context, l *addLine) {
	a.telling.Lock()
	defer a.telling.Unlock()
	if a.progress && ctx.Err() == nil {
		a.emit(l) // where that fails, the next line does, too
	}
}

func (a *adding) skip(name, reason string) error {
	a.sum.Skipped++
	return a.tell(&addLine{Outcome: "skipped", File: name, Reason: reason})
}

// done tells what became of a file or CID. It returns an error that would be that of
// all others, too.
func (a *adding) done(l *addLine, p piece.Piece, outcome library.Outcome, err error) error {
	if err != nil {
		a.sum.Failed++
		switch {
		case a.ctx.Err() != nil:
			return a.ended(err)
		case errors.Is(err, library.ErrInvalid), errors.Is(err, orbit.ErrNotAllowed), errors.Is(err, orbit.ErrClosed), errors.Is(err, orbit.ErrDamaged), errors.Is(err, space.ErrFull), errors.Is(err, errUnread):
			return changeError(a.ctx, err, l.Hash, "add")
		}
		err = pieceError(a.ctx, err, l.Hash)
		l.Outcome, l.Error = "failed", err.Error()
		if a.sum.tried() == 1 && a.sum.Skipped == 0 && !a.folders {
			a.held, a.heldErr = l, err
			return nil
		}
		return a.tell(l)
	}
	switch outcome {
	case library.Added:
		a.sum.Added++
	case library.Updated:
		a.sum.Updated++
	default:
		a.sum.Unchanged++
	}
	l.Outcome, l.pieceFacts = string(outcome), newPieceFacts(p)
	return a.tell(l)
}

// changeError is pieceError of a command that adds or updates pieces.
func changeError(ctx context.Context, err error, called, command string) error {
	if errors.Is(err, library.ErrInvalid) && ctx.Err() == nil {
		return fmt.Errorf("%w; hint: ipfs npp pieces %s --help", err, command)
	}
	return pieceError(ctx, err, called)
}

func (a *adding) hash(hash string) error {
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	begin := time.Now()
	p, outcome, err := a.lib.AddHash(ctx, hash, a.details, a.pin, func(blocks int) {
		if time.Since(begin) > time.Second {
			a.show(ctx, &addLine{pieceFacts: pieceFacts{Hash: hash}, Progress: &addProgress{Blocks: &blocks}})
		}
	})
	cancel() // it may be told once more
	return a.done(&addLine{pieceFacts: pieceFacts{Hash: hash}}, p, outcome, err)
}

// errUnread says that the client's file could not be read to its end.
var errUnread = errors.New("read the file")

// given is a file that comes from the client. It tells how far it is.
type given struct {
	io.Reader
	adding *adding
	name   string
	read   uint64
	told   time.Time
}

func (g *given) Read(b []byte) (int, error) {
	n, err := g.Reader.Read(b)
	g.read += uint64(n)
	if time.Since(g.told) > tellEvery {
		g.told = time.Now()
		read := g.read
		g.adding.show(g.adding.ctx, &addLine{File: g.name, Progress: &addProgress{Bytes: &read}})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errUnread, err)
	}
	return n, err
}

// given returns a file that tells from the first second on how far it is.
func (a *adding) given(name string, r io.Reader) io.Reader {
	return &given{Reader: r, adding: a, name: name, told: time.Now().Add(time.Second - tellEvery)}
}

// entry adds what was named itself: a file, whatever it is, or a folder.
func (a *adding) entry(it files.DirIterator) error {
	name := it.Name()
	switch node := it.Node().(type) {
	case *files.Symlink:
		return a.skip(name, "it is a link")
	case files.Directory:
		if a.details.Title != nil {
			return errOneTitle
		}
		a.folders = true
		return a.folder(name, node, 0)
	case files.File:
		if ok, err := a.regular(name, node); !ok {
			return err
		}
		r := a.given(name, node)
		if a.details.Title == nil {
			return a.add(name, r)
		}
		// Before anything is added, there must be no other.
		f, err := spool(r)
		if err != nil {
			return a.ended(err)
		}
		defer f.Close()
		if it.Next() {
			return errOneTitle
		}
		return a.add(name, f)
	}
	return a.skip(name, "it is no file")
}

// add adds a file.
func (a *adding) add(name string, r io.Reader) error {
	p, outcome, err := a.lib.AddFile(a.ctx, files.NewReaderFile(r), path.Base(name), a.details)
	return a.done(&addLine{File: name}, p, outcome, err)
}

// regular reports whether a file is one to be added, and else tells why not.
func (a *adding) regular(name string, f files.File) (bool, error) {
	switch mode := f.Mode().Type(); mode {
	case 0:
		return true, nil
	case fs.ModeIrregular: // see marked
		text, err := io.ReadAll(io.LimitReader(f, 4<<10))
		if err != nil {
			return false, a.ended(err)
		}
		return false, a.done(&addLine{File: name}, piece.Piece{}, "", errors.New(string(text)))
	default:
		return false, a.skip(name, "it is no file")
	}
}

// folder adds what is sheet music in a folder, and below it.
func (a *adding) folder(name string, dir files.Directory, depth int) error {
	if depth > maxDepth {
		return a.skip(name, "it is too deep in folders")
	}
	it := dir.Entries()
	for it.Next() {
		if err := a.inFolder(name+"/"+it.Name(), it, depth); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil {
		return a.ended(fmt.Errorf("read the files: %w", err))
	}
	return nil
}

func (a *adding) inFolder(name string, it files.DirIterator, depth int) error {
	if isHidden(it.Name()) {
		return a.skip(name, "it is hidden")
	}
	switch node := it.Node().(type) {
	case *files.Symlink:
		return a.skip(name, "it is a link")
	case files.Directory:
		return a.folder(name, node, depth+1)
	case files.File:
		if ok, err := a.regular(name, node); !ok {
			return err
		}
		return a.ifSheet(name, a.given(name, node))
	}
	return a.skip(name, "it is no file")
}

// ifSheet adds a file if it is sheet music, or all are wanted.
func (a *adding) ifSheet(name string, r io.Reader) error {
	if a.all {
		return a.add(name, r)
	}
	s, whole, err := sheet.Peek(a.ctx, r)
	if err != nil {
		return a.ended(err)
	}
	if s.Kind == "" {
		return a.skip(name, "no sheet music that is known; hint: --"+allFilesOption)
	}
	return a.add(name, whole)
}

// spool puts what r has into a temporary file, which is removed when it is closed.
func spool(r io.Reader) (*spooled, error) {
	f, err := os.CreateTemp("", "npp-piece-*")
	if err != nil {
		return nil, err
	}
	s := &spooled{f}
	if _, err = io.Copy(f, r); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

type spooled struct{ *os.File }

func (s *spooled) Close() error { return errors.Join(s.File.Close(), os.Remove(s.Name())) }
