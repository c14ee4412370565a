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

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/library/sheet"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/space"
)

// addLine is a line of `npp pieces add`: the result for a file or CID, the
// progress, or the summary. It is also the output of `npp pieces update`.
type addLine struct {
	Outcome string `json:"outcome,omitempty"` // "added", "updated", "unchanged", "skipped" or "failed"
	File    string `json:"file,omitempty"`    // as it was given
	pieceFacts
	Reason   string       `json:"reason,omitempty"` // why it was skipped
	Error    string       `json:"error,omitempty"`  // why it failed
	Progress *addProgress `json:"progress,omitempty"`
	Summary  *addSummary  `json:"summary,omitempty"`
}

// addProgress is the progress of a file, in bytes, or of a CID, in blocks.
type addProgress struct {
	Bytes  *uint64 `json:"bytes,omitempty"`  // that were read
	Blocks *int    `json:"blocks,omitempty"` // that are here
}

// addSummary counts the outcomes.
type addSummary struct {
	Added     int `json:"added"`
	Updated   int `json:"updated"`
	Unchanged int `json:"unchanged"`
	Skipped   int `json:"skipped"`
	Failed    int `json:"failed"`
}

// tried returns how many were not skipped.
func (s *addSummary) tried() int { return s.Added + s.Updated + s.Unchanged + s.Failed }

func (s *addSummary) text() string {
	text := fmt.Sprintf("%d added, %d updated, %d unchanged, %d skipped", s.Added, s.Updated, s.Unchanged, s.Skipped)
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed", s.Failed)
	}
	return text
}

var addEncoders = encodeText((*addLine).text)

func (l *addLine) text() string {
	what := printable(cmp.Or(l.File, l.Hash))
	switch {
	case l.Progress != nil:
		return "" // PostRun shows it
	case l.Summary != nil:
		return l.Summary.text() + "\n"
	case l.Error != "":
		return fmt.Sprintf("failed     %s: %s\n", what, printable(l.Error))
	case l.Reason != "":
		return fmt.Sprintf("skipped    %s: %s\n", what, printable(l.Reason))
	}
	return fmt.Sprintf("%-9s  %s\n", l.Outcome, l.pieceFacts.text())
}

// progress returns the progress for people.
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
		Tagline: "Add files, folders or CIDs to your pieces.",
		ShortDescription: `
Adds a file to IPFS, pins it, and adds it to your pieces. The title and the
composer are read from the file, if it is PDF, MusicXML, ABC, MIDI or
LilyPond. If you have the piece already, it is updated. Of a folder and its
subfolders, sheet music and images are added and everything else is skipped.

  > ipfs npp pieces add prelude.pdf --instrument Piano
  added      QmNR2n…  Prelude in C  (J. S. Bach, Piano, PDF)
  > ipfs npp pieces add ~/scores
  > ipfs npp pieces add QmZ4tD… --pin

An argument that is neither a file nor a folder must be a CID. It is added as
it is; with '--pin', the file is first fetched, pinned and read.

Over HTTP, files are parts of the multipart body, as with 'ipfs add', and CIDs
are arg=. In JSON, a line has an "outcome": added, updated, unchanged, skipped
(with a "reason") or failed (with an "error"); the "file"; and "hash",
"title", "composer", "instrument", "type", "name" and "size" of the piece. A
folder ends with a line that has a "summary". With '--progress' there are
lines with "progress", in "bytes" or "blocks".
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("file", false, true, "File, folder or CID."),
	},
	Options: []cmds.Option{
		cmds.StringOption(instrumentOption, "The instrument that the piece is for; default: Piano."),
		cmds.StringOption(titleOption, "The title, for a single file or CID."),
		cmds.StringOption(composerOption, "The composer."),
		cmds.BoolOption(pinOption, "Fetch and pin the file of a CID."),
		cmds.BoolOption(allFilesOption, "Add files of any kind in folders."),
		cmds.BoolOption(progressOption, "p", "Print the progress; default: only at a terminal."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if hasBody(req) {
			return nil
		}
		sent, hashes, err := sourcesOf(req.Arguments)
		if err != nil {
			return err
		}
		if _, ok := req.Options[titleOption]; ok && (len(sent.paths)+len(hashes) > 1 || sent.folders) {
			return errOneTitle
		}
		if _, ok := req.Options[progressOption]; !ok && wantsText(req) && isTerminal(os.Stderr) {
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
		a := &addRun{ctx: ctx, lib: lib, details: detailsOf(req), allFiles: isSet(req, allFilesOption), pin: isSet(req, pinOption)}
		a.emit = func(l *addLine) error { return res.Emit(l) }
		a.progress = isSet(req, progressOption)
		for _, arg := range req.Arguments {
			hash, ok := cidOf(arg)
			if !ok {
				return fmt.Errorf("%.80q is not a CID; hint: post files as a multipart body", arg)
			}
			a.hashes = append(a.hashes, hash)
		}
		switch {
		case req.Files == nil && len(a.hashes) == 0:
			return errNothingToAdd
		case a.details.Title != nil && (len(a.hashes) > 1 || len(a.hashes) == 1 && req.Files != nil):
			return errOneTitle
		}
		// Reading from the client may block until the request ends.
		done := make(chan error, 1)
		go func() {
			err := a.run(req.Files)
			if err != nil && req.Files != nil {
				drain(&allParts{parts: req.Files.Entries()})
			}
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	},
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		shown := &progressLine{w: os.Stderr}
		defer shown.clear()
		return forward(res, re, func(line any) bool {
			if l, ok := line.(*addLine); ok && l.Progress != nil && wantsText(res.Request()) {
				shown.show(l.progress())
				return true
			}
			shown.clear()
			return false
		})
	}},
	Type:     addLine{},
	Encoders: addEncoders,
}

const (
	// maxDepth bounds the nesting of folders.
	maxDepth = 100

	// progressInterval is the time between two progress lines of a file.
	progressInterval = 500 * time.Millisecond
)

// addRun is a run of `npp pieces add`.
type addRun struct {
	ctx      context.Context
	lib      *library.Library
	details  library.Details
	allFiles bool // add files of any kind
	pin      bool
	progress bool
	hashes   []string

	emitting sync.Mutex // one line at a time
	emit     func(*addLine) error

	sum     addSummary
	folders bool // a folder was given

	// The first line if it is a failure, and its error. If there is no other
	// line, the run returns the error instead.
	firstFailure *addLine
	firstErr     error
}

func (a *addRun) run(sent files.Directory) error {
	err := a.addAll(sent)
	switch {
	case err != nil && a.firstFailure != nil && a.ctx.Err() == nil:
		if emitErr := a.emit(a.firstFailure); emitErr != nil {
			return emitErr
		}
		return err
	case err != nil:
		return err
	case a.firstFailure != nil:
		return a.firstErr
	case a.folders:
		if err := a.emitLine(&addLine{Summary: &a.sum}); err != nil {
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

// addAll adds the files that were sent, and then the CIDs.
func (a *addRun) addAll(sent files.Directory) error {
	if sent != nil {
		it := sent.Entries()
		for it.Next() {
			if err := a.addEntry(it); err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return a.cause(fmt.Errorf("read the files: %w", err))
		}
	}
	for _, hash := range a.hashes {
		if err := a.addCID(hash); err != nil {
			return err
		}
	}
	return nil
}

// cause returns the cause of the context, or else the error, which ends the
// run.
func (a *addRun) cause(err error) error {
	if cause := context.Cause(a.ctx); cause != nil {
		return cause
	}
	return err
}

// emitLine emits a line, after the first failure if that was held back.
func (a *addRun) emitLine(l *addLine) error {
	a.emitting.Lock()
	defer a.emitting.Unlock()
	if first := a.firstFailure; first != nil {
		a.firstFailure, a.firstErr = nil, nil
		if err := a.emit(first); err != nil {
			return err
		}
	}
	return a.emit(l)
}

// emitProgress emits a progress line, unless the context is done.
func (a *addRun) emitProgress(ctx context.Context, l *addLine) {
	a.emitting.Lock()
	defer a.emitting.Unlock()
	if a.progress && ctx.Err() == nil {
		a.emit(l) // if this fails, so does the next line
	}
}

func (a *addRun) skip(name, reason string) error {
	a.sum.Skipped++
	return a.emitLine(&addLine{Outcome: "skipped", File: name, Reason: reason})
}

// record counts and emits the outcome for a file or CID. It returns an error
// that would be the same for all others.
func (a *addRun) record(l *addLine, p piece.Piece, outcome library.Result, err error) error {
	if err != nil {
		a.sum.Failed++
		switch {
		case a.ctx.Err() != nil:
			return a.cause(err)
		case errors.Is(err, library.ErrInvalid), errors.Is(err, orbit.ErrNotAllowed), errors.Is(err, orbit.ErrClosed), errors.Is(err, orbit.ErrDamaged), errors.Is(err, space.ErrFull), errors.Is(err, errReadFile):
			return changeError(a.ctx, err, l.Hash, "add")
		}
		err = pieceError(a.ctx, err, l.Hash)
		l.Outcome, l.Error = "failed", err.Error()
		if a.sum.tried() == 1 && a.sum.Skipped == 0 && !a.folders {
			a.firstFailure, a.firstErr = l, err
			return nil
		}
		return a.emitLine(l)
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
	return a.emitLine(l)
}

// changeError is pieceError for a command that adds or updates pieces.
func changeError(ctx context.Context, err error, arg, command string) error {
	if errors.Is(err, library.ErrInvalid) && ctx.Err() == nil {
		return fmt.Errorf("%w; hint: ipfs npp pieces %s --help", err, command)
	}
	return pieceError(ctx, err, arg)
}

func (a *addRun) addCID(hash string) error {
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	begin := time.Now()
	p, outcome, err := a.lib.AddHash(ctx, hash, a.details, a.pin, func(blocks int) {
		if time.Since(begin) > time.Second {
			a.emitProgress(ctx, &addLine{pieceFacts: pieceFacts{Hash: hash}, Progress: &addProgress{Blocks: &blocks}})
		}
	})
	cancel() // no progress after the outcome
	return a.record(&addLine{pieceFacts: pieceFacts{Hash: hash}}, p, outcome, err)
}

// errReadFile says that the client could not send all of a file.
var errReadFile = errors.New("read the file")

// uploadedFile is a file that the client sends. Reading it emits progress
// lines.
type uploadedFile struct {
	io.Reader
	adding  *addRun
	name    string
	read    uint64
	emitted time.Time
}

func (g *uploadedFile) Read(b []byte) (int, error) {
	n, err := g.Reader.Read(b)
	g.read += uint64(n)
	if time.Since(g.emitted) > progressInterval {
		g.emitted = time.Now()
		read := g.read
		g.adding.emitProgress(g.adding.ctx, &addLine{File: g.name, Progress: &addProgress{Bytes: &read}})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errReadFile, err)
	}
	return n, err
}

// clientFile returns an [uploadedFile] whose first progress line comes after a
// second.
func (a *addRun) clientFile(name string, r io.Reader) io.Reader {
	return &uploadedFile{Reader: r, adding: a, name: name, emitted: time.Now().Add(time.Second - progressInterval)}
}

// addEntry adds a file of any kind, or a folder, that an argument named.
func (a *addRun) addEntry(it files.DirIterator) error {
	name := it.Name()
	switch node := it.Node().(type) {
	case *files.Symlink:
		return a.skip(name, "it is a link")
	case files.Directory:
		if a.details.Title != nil {
			return errOneTitle
		}
		a.folders = true
		return a.addFolder(name, node, 0)
	case files.File:
		if ok, err := a.isRegular(name, node); !ok {
			return err
		}
		r := a.clientFile(name, node)
		if a.details.Title == nil {
			return a.addFile(name, r)
		}
		// With a title there must be no second file, so look for one before
		// adding the first.
		f, err := spool(r)
		if err != nil {
			return a.cause(err)
		}
		defer f.Close()
		if it.Next() {
			return errOneTitle
		}
		return a.addFile(name, f)
	}
	return a.skip(name, "it is not a regular file")
}

// addFile adds a file.
func (a *addRun) addFile(name string, r io.Reader) error {
	p, outcome, err := a.lib.AddFile(a.ctx, files.NewReaderFile(r), path.Base(name), a.details)
	return a.record(&addLine{File: name}, p, outcome, err)
}

// isRegular reports whether a file can be added; if not, it records why.
func (a *addRun) isRegular(name string, f files.File) (bool, error) {
	switch mode := f.Mode().Type(); mode {
	case 0:
		return true, nil
	case fs.ModeIrregular: // see placeholder
		text, err := io.ReadAll(io.LimitReader(f, 4<<10))
		if err != nil {
			return false, a.cause(err)
		}
		return false, a.record(&addLine{File: name}, piece.Piece{}, "", errors.New(string(text)))
	default:
		return false, a.skip(name, "it is not a regular file")
	}
}

// addFolder adds the sheet music in a folder and its subfolders.
func (a *addRun) addFolder(name string, dir files.Directory, depth int) error {
	if depth > maxDepth {
		return a.skip(name, "its folders are nested too deep")
	}
	it := dir.Entries()
	for it.Next() {
		if err := a.addInFolder(name+"/"+it.Name(), it, depth); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil {
		return a.cause(fmt.Errorf("read the files: %w", err))
	}
	return nil
}

func (a *addRun) addInFolder(name string, it files.DirIterator, depth int) error {
	if isHidden(it.Name()) {
		return a.skip(name, "it is hidden")
	}
	switch node := it.Node().(type) {
	case *files.Symlink:
		return a.skip(name, "it is a link")
	case files.Directory:
		return a.addFolder(name, node, depth+1)
	case files.File:
		if ok, err := a.isRegular(name, node); !ok {
			return err
		}
		return a.addIfSheet(name, a.clientFile(name, node))
	}
	return a.skip(name, "it is not a regular file")
}

// addIfSheet adds a file if it is sheet music, or with --all-files.
func (a *addRun) addIfSheet(name string, r io.Reader) error {
	if a.allFiles {
		return a.addFile(name, r)
	}
	s, whole, err := sheet.Peek(a.ctx, r)
	if err != nil {
		return a.cause(err)
	}
	if s.Kind == "" {
		return a.skip(name, "not a known kind of sheet music; hint: --"+allFilesOption+" adds it anyway")
	}
	return a.addFile(name, whole)
}

// spool copies r to a temporary file, which Close removes.
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
