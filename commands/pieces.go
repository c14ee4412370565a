package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/library/sheet"
	"github.com/newpieceplease/npp/orbit"
)

const (
	instrumentOption = "instrument"
	titleOption      = "title"
	composerOption   = "composer"
	textOption       = "text"
	sortOption       = "sort"
	ownOption        = "own"
	pinOption        = "pin"
	allFilesOption   = "all-files"
	progressOption   = "progress"
	setOption        = "set"

	defaultFound = 50
)

var piecesCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Keep a library of sheet music.",
		ShortDescription: `
A piece is a file of sheet music in IPFS, with a title, a composer and an
instrument. It is named by the hash of the file (a CID), or by the beginning
of the hash if no other piece begins so. Your companions can see and fetch
your pieces, and you theirs.

  > ipfs npp pieces add prelude.pdf --composer 'J. S. Bach'
  > ipfs npp pieces ls --all --instrument Violin
  > ipfs npp pieces search dvorak humoresque
  > ipfs npp pieces get QmNR2n
  > ipfs npp practice QmNR2n

Any form of a CID is accepted. The pieces are documents in the database
"pieces" of your library.
`,
	},
	Subcommands: map[string]*cmds.Command{
		"add":    piecesAddCmd,
		"ls":     piecesLsCmd,
		"show":   piecesShowCmd,
		"get":    piecesGetCmd,
		"update": piecesUpdateCmd,
		"rm":     piecesRmCmd,
		"random": piecesRandomCmd,
		"search": piecesSearchCmd,
	},
}

var pieceArg = cmds.StringArg("piece", true, false, "Hash of the piece, or its beginning.")

// pieceFacts is what the document of a piece says. Unknown facts are empty.
type pieceFacts struct {
	Hash       string `json:"hash,omitempty"`
	Title      string `json:"title,omitempty"`
	Composer   string `json:"composer,omitempty"`
	Instrument string `json:"instrument,omitempty"`
	Type       string `json:"type,omitempty"` // media type of the file
	Name       string `json:"name,omitempty"` // of the file
	Size       uint64 `json:"size,omitempty"` // of the file, in bytes
}

func newPieceFacts(p piece.Piece) pieceFacts {
	return pieceFacts{p.Hash, p.Title, p.Composer, p.Instrument, safeType(p.MediaType), p.Name, p.Size}
}

// displayName returns the title of the piece, or the name of its file.
func (f *pieceFacts) displayName() string { return cmp.Or(f.Title, f.Name, "(no title)") }

// details returns the other facts in short: "(J. S. Bach, Piano, PDF)".
func (f *pieceFacts) details() string {
	known := slices.DeleteFunc([]string{f.Composer, f.Instrument, kindOf(f.Type)}, func(s string) bool { return s == "" })
	if len(known) == 0 {
		return ""
	}
	return "(" + printable(strings.Join(known, ", ")) + ")"
}

// text is the piece on a part of a line.
func (f *pieceFacts) text() string {
	return strings.TrimRight(fmt.Sprintf("%s  %s  %s", printable(f.Hash), printable(f.displayName()), f.details()), " ")
}

// kinds are the names and the file extensions of sheet music, by media type.
var kinds = map[string]struct{ name, extension string }{
	"application/pdf":                        {string(sheet.PDF), ".pdf"},
	"application/vnd.recordare.musicxml+xml": {string(sheet.MusicXML), ".musicxml"},
	"application/vnd.recordare.musicxml":     {string(sheet.MusicXML), ".mxl"},
	"text/vnd.abc":                           {string(sheet.ABC), ".abc"},
	"audio/midi":                             {string(sheet.MIDI), ".mid"},
	"text/x-lilypond":                        {string(sheet.LilyPond), ".ly"},
}

func kindOf(mediaType string) string {
	if kind, ok := kinds[mediaType]; ok {
		return kind.name
	}
	if strings.HasPrefix(mediaType, "image/") {
		return string(sheet.Image)
	}
	return mediaType
}

// pieceLine is a piece, or a warning among listed pieces.
type pieceLine struct {
	pieceFacts
	Practice    *uint64 `json:"practice,omitempty"`    // the owner's practice count
	PracticeAll *uint64 `json:"practiceAll,omitempty"` // with companions

	// PracticeMore is set, by `npp pieces show` only, if PracticeAll may be too
	// low.
	PracticeMore bool            `json:"practiceMore,omitempty"`
	Owners       []ownerLine     `json:"owners,omitempty"`
	Fields       json.RawMessage `json:"fields,omitempty"` // the document
	Warning      string          `json:"warning,omitempty"`
}

// ownerLine is a library that contains a piece.
type ownerLine struct {
	Peer string `json:"peer"`
	Name string `json:"name,omitempty"`
	Self bool   `json:"self,omitempty"`
}

func newPieceLine(p library.CatalogPiece) *pieceLine {
	l := &pieceLine{
		pieceFacts:   newPieceFacts(p.Piece),
		Practice:     &p.Practice.Own,
		PracticeAll:  &p.Practice.All,
		PracticeMore: p.Practice.Incomplete,
		Fields:       valueJSON(p.Doc),
	}
	for _, o := range p.Owners {
		l.Owners = append(l.Owners, ownerLine{o.Peer.String(), o.Name, o.Self})
	}
	return l
}

func (o ownerLine) text() string {
	if o.Self {
		return "you"
	}
	return printable(cmp.Or(o.Name, o.Peer))
}

// counts returns the owner's practice count, and that with companions.
func (l *pieceLine) counts() (own, all uint64) {
	if l.Practice != nil {
		own = *l.Practice
	}
	if l.PracticeAll != nil {
		all = *l.PracticeAll
	}
	return own, all
}

// row is the piece on a line.
func (l *pieceLine) row(owners bool) string {
	if l.Warning != "" {
		return "note: " + printable(l.Warning) + "\n"
	}
	own, all := l.counts()
	count := fmt.Sprint(own)
	if own != all {
		count = fmt.Sprintf("%d/%d", own, all)
	}
	text := fmt.Sprintf("%s  %s  %s  %s  %s  %s", printable(l.Hash), column(l.displayName(), 32), column(l.Composer, 20),
		column(l.Instrument, 10), column(kindOf(l.Type), 8), count)
	if owners {
		var names []string
		for _, o := range l.Owners {
			names = append(names, o.text())
		}
		text = fmt.Sprintf("%s%s  %s", text, strings.Repeat(" ", max(0, 5-len(count))), strings.Join(names, ", "))
	}
	return text + "\n"
}

// rowEncoders print a row per piece, with the owners if owners says so.
func rowEncoders(owners func(*cmds.Request) bool) cmds.EncoderMap {
	return encodeTextFor(func(req *cmds.Request, l *pieceLine) string { return l.row(owners(req)) })
}

// choiceOptions choose pieces.
var choiceOptions = []cmds.Option{
	cmds.StringOption(instrumentOption, "Only pieces for this instrument."),
	cmds.StringOption(titleOption, "Only pieces whose title contains this."),
	cmds.StringOption(composerOption, "Only pieces whose composer contains this."),
	cmds.StringOption(textOption, "Only pieces that contain all of these words."),
}

// queryOf reads the options that choose pieces.
func queryOf(req *cmds.Request) (q library.Query, err error) {
	q.Instrument, _ = req.Options[instrumentOption].(string)
	q.Title, _ = req.Options[titleOption].(string)
	q.Composer, _ = req.Options[composerOption].(string)
	q.Text, _ = req.Options[textOption].(string)
	q.All = isSet(req, allOption)
	if text, ok := req.Options[sortOption].(string); ok {
		q.Sort = piece.Sort(text)
		if !slices.Contains(sorts, q.Sort) {
			return q, fmt.Errorf("--%s is %.40q, but must be newest, title, composer, instrument or practice", sortOption, text)
		}
	}
	q.Limit, err = limitOption(req)
	return q, err
}

var sorts = []piece.Sort{piece.Newest, piece.ByTitle, piece.ByComposer, piece.ByInstrument, library.ByPractice}

var sortChoice = cmds.StringOption(sortOption, "The order: newest, title, composer, instrument or practice.").WithDefault(string(piece.Newest))

var piecesLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List pieces.",
		ShortDescription: `
Prints a line per piece: hash, title (or the name of the file), composer,
instrument, kind of file, and how often you practised it. "2/5" means twice,
and five times together with your companions.

  > ipfs npp pieces ls --instrument violin --sort composer
  QmNR2n…  Humoresque No. 7  Antonín Dvořák  Violin  PDF  2/5
  > ipfs npp pieces ls --all --amount 20

'--all' includes the pieces of your companions, and prints who has each piece.
Case and accents do not matter: "dvorak" finds "Dvořák".

In JSON, a line has "hash", "title", "composer", "instrument", "type" (media
type of the file), "name" and "size" (of the file), as far as they are known;
"practice" and "practiceAll"; "owners", each with "peer", "name" and, for you,
"self"; and "fields", the whole document. A "warning" says which pieces are
not listed, and why. If your database is damaged, the exit status is 1.
`,
	},
	Options: append(slices.Clone(choiceOptions),
		sortChoice,
		cmds.IntOption(amountOption, "Print at most this many."),
		cmds.BoolOption(allOption, "Include the pieces of companions."),
	),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		q, err := queryOf(req)
		if err != nil {
			return err
		}
		return emitPieces(req, res, env, q)
	},
	PostRun: noneFound,
	Type:    pieceLine{},
	Encoders: rowEncoders(func(req *cmds.Request) bool {
		return isSet(req, allOption)
	}),
}

var piecesSearchCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Search your and your companions' pieces.",
		ShortDescription: `
Prints the pieces that contain all of the words in the title, the composer,
the instrument or the name of the file, in the format of 'ipfs npp pieces ls
--all'. Case and accents do not matter.

  > ipfs npp pieces search dvorak humoresque
  QmNR2n…  Humoresque No. 7  Antonín Dvořák  Violin  PDF  2/5  you, alice
`,
	},
	Arguments: []cmds.Argument{cmds.StringArg("text", true, true, "Words, or parts of words.")},
	Options: []cmds.Option{
		sortChoice,
		cmds.IntOption(amountOption, "Print at most this many.").WithDefault(defaultFound),
		cmds.BoolOption(ownOption, "Search only your own pieces."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		q, err := queryOf(req)
		if err != nil {
			return err
		}
		q.All = !isSet(req, ownOption)
		if q.Text = strings.Join(req.Arguments, " "); piece.Fold(q.Text) == "" {
			return errors.New("there is nothing to search for; hint: ipfs npp pieces search <word>, or ipfs npp pieces ls")
		}
		return emitPieces(req, res, env, q)
	},
	PostRun: noneFound,
	Type:    pieceLine{},
	Encoders: rowEncoders(func(req *cmds.Request) bool {
		return !isSet(req, ownOption)
	}),
}

// noneFound says at the command line that there was no piece.
var noneFound = cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
	found := false
	err := forward(res, re, func(line any) bool {
		if l, ok := line.(*pieceLine); ok && l.Hash != "" {
			found = true
		}
		return false
	})
	if err == nil && !found && wantsText(res.Request()) {
		fmt.Fprintln(os.Stderr, "no piece matches")
	}
	return err
}}

// emitPieces emits the pieces that a query chooses. It continues after a piece
// that is damaged or not here.
func emitPieces(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment, q library.Query) error {
	ctx, _, lib, err := libraryOf(req, env)
	if err != nil {
		return err
	}
	ready := noteIfSlow(res)
	pieces, troubles, err := lib.Pieces(ctx, q)
	ready()
	if err != nil {
		return storeError(ctx, err)
	}
	if err := emitWarnings(ctx, res, lib, troubles); err != nil {
		return err
	}
	damaged := 0
	for p, err := range pieces {
		l := &pieceLine{}
		switch {
		case err == nil:
			l = newPieceLine(p)
		case context.Cause(ctx) != nil || !errors.Is(err, orbit.ErrDamagedBlock):
			return storeError(ctx, err)
		default:
			damaged++
			l.Warning = err.Error()
		}
		if err := res.Emit(l); err != nil {
			return err
		}
	}
	switch {
	case damaged == 0:
		return nil
	case q.All:
		return fmt.Errorf("%s damaged; hint: ipfs npp db rebuild with the database in the note", quantity(damaged, "piece is", "pieces are"))
	}
	return fmt.Errorf("%s damaged; hint: ipfs npp db rebuild %s", quantity(damaged, "piece is", "pieces are"), library.PiecesName)
}

// noteIfSlow emits a note if the pieces are not ready within a second. The
// caller calls ready when they are.
func noteIfSlow(res cmds.ResponseEmitter) (ready func()) {
	var mu sync.Mutex
	over := false
	timer := time.AfterFunc(time.Second, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over { // if this fails, so does the next line
			res.Emit(&pieceLine{Warning: "reading the pieces into memory, which takes a few seconds after a start"})
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

// emitWarnings emits a warning for each library whose pieces or practice counts
// are missing or not complete.
func emitWarnings(ctx context.Context, res cmds.ResponseEmitter, lib *library.Library, troubles []library.Problem) error {
	for _, t := range troubles {
		what, store := "your own pieces", library.PiecesName
		if !t.Self {
			c, _ := lib.Companion(ctx, t.Peer) // it may have been removed meanwhile
			what, store = "the pieces of ", c.PiecesAddr
			if t.Database == library.PracticeName {
				what, store = "the practice counts of ", c.PracticeAddr
			}
			what += cmp.Or(t.Name, t.Peer.String())
		}
		text := fmt.Sprintf("%s are not listed: %v", what, dbError(t.Err, store))
		if errors.Is(t.Err, library.ErrIncomplete) {
			text = what + " are not complete yet"
		}
		if err := res.Emit(&pieceLine{Warning: text}); err != nil {
			return err
		}
	}
	return nil
}

// storeError adds the next step to an error of the database of pieces.
func storeError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return dbError(err, library.PiecesName)
}

// pieceError adds the next step to an error about the piece that an argument
// names.
func pieceError(ctx context.Context, err error, arg string) error {
	if err == nil {
		return nil
	}
	if several, ok := errors.AsType[*library.AmbiguousError](err); ok {
		var which []string
		for _, p := range several.Pieces {
			facts := newPieceFacts(p.Piece)
			which = append(which, fmt.Sprintf("%s (%s)", printable(facts.Hash), printable(facts.displayName())))
		}
		return fmt.Errorf("the hashes of several pieces begin with %.80q: %s; hint: type more of the hash", arg, strings.Join(which, ", "))
	}
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, orbit.ErrNotFound):
		return fmt.Errorf("no piece has the hash %.80q or a hash that begins with it; hint: find the piece with ipfs npp pieces ls --all, or ipfs npp pieces search <text>", arg)
	case errors.Is(err, library.ErrBeingRead):
		return fmt.Errorf("%w; hint: try again in a moment", err)
	case errors.Is(err, library.ErrNoFile):
		return fmt.Errorf("%w; hint: ipfs get %s", err, hintArg(arg))
	}
	return storeError(ctx, err)
}

// resolve returns the piece that an argument names, among the owner's pieces or
// all.
func resolve(ctx context.Context, lib *library.Library, arg string, all bool) (library.CatalogPiece, error) {
	p, err := lib.Resolve(ctx, arg, all)
	if !errors.Is(err, orbit.ErrNotFound) {
		return p, pieceError(ctx, err, arg)
	}
	// If the owner's pieces cannot be read, that is the error.
	if own := lib.Databases(ctx)[0]; own.Err != nil {
		return p, storeError(ctx, fmt.Errorf("database %q: %w", own.Name, own.Err))
	}
	if all {
		return p, pieceError(ctx, err, arg)
	}
	theirs, otherErr := lib.Resolve(ctx, arg, true)
	if otherErr != nil || len(theirs.Owners) == 0 {
		return p, pieceError(ctx, err, arg)
	}
	owner := ownerLine{Peer: theirs.Owners[0].Peer.String(), Name: theirs.Owners[0].Name}
	return p, fmt.Errorf("the piece %s belongs to %s, not to you; hint: ipfs npp pieces add %s adds it to your pieces", printable(theirs.Hash), owner.text(), hintArg(theirs.Hash))
}

var piecesRandomCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Pick a random piece.",
		ShortDescription: `
Prints one of your pieces, or with '--all' one of your or your companions'
pieces, in the format of 'ipfs npp pieces ls'. All are equally likely.

  > ipfs npp pieces random --instrument Piano
  QmNR2n…  Prelude in C  J. S. Bach  Piano  PDF  0
`,
	},
	Options: append(slices.Clone(choiceOptions), cmds.BoolOption(allOption, "Include the pieces of companions.")),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		q, err := queryOf(req)
		if err != nil {
			return err
		}
		ready := noteIfSlow(res)
		p, troubles, err := lib.Random(ctx, q)
		ready()
		switch {
		case errors.Is(err, orbit.ErrNotFound) && context.Cause(ctx) == nil:
			// The piece may be among those that are not listed.
			if err := emitWarnings(ctx, res, lib, troubles); err != nil {
				return err
			}
			if q.Query == (piece.Query{}) {
				return errors.New("there are no pieces yet; hint: ipfs npp pieces add <file>")
			}
			return errors.New("no piece matches; hint: ipfs npp pieces ls shows all of them")
		case err != nil:
			return storeError(ctx, err)
		}
		if err := emitWarnings(ctx, res, lib, troubles); err != nil {
			return err
		}
		return res.Emit(newPieceLine(p))
	},
	Type: pieceLine{},
	Encoders: rowEncoders(func(req *cmds.Request) bool {
		return isSet(req, allOption)
	}),
}
