package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
A piece is a file of sheet music in IPFS, known by its hash (a CID), with
title, composer and instrument. Your pieces are in the store "pieces", which
your companions follow as you follow theirs.

  > ipfs npp pieces add prelude.pdf --composer 'J. S. Bach'
  > ipfs npp pieces ls --all --instrument Violin
  > ipfs npp pieces search dvorak humoresque
  > ipfs npp pieces get QmNR2n
  > ipfs npp practice QmNR2n

Where a command takes a piece, the hash may be written in any way that CIDs
can be, and as much of it does as no other piece has.
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

// pieceArg is the piece that a command is about.
var pieceArg = cmds.StringArg("piece", true, false, "Hash of a piece, or how that begins.")

// pieceFacts is what the document of a piece says. What is not known is left out.
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
	return pieceFacts{p.Hash, p.Title, p.Composer, p.Instrument, typeOf(p.MediaType), p.Name, p.Size}
}

// called is how people call the piece.
func (f *pieceFacts) called() string { return cmp.Or(f.Title, f.Name, "(no title)") }

// about is what else there is to say in short: "(J. S. Bach, Piano, PDF)".
func (f *pieceFacts) about() string {
	known := slices.DeleteFunc([]string{f.Composer, f.Instrument, kindOf(f.Type)}, func(s string) bool { return s == "" })
	if len(known) == 0 {
		return ""
	}
	return "(" + printable(strings.Join(known, ", ")) + ")"
}

// text is the piece on part of a line.
func (f *pieceFacts) text() string {
	return strings.TrimRight(fmt.Sprintf("%s  %s  %s", printable(f.Hash), printable(f.called()), f.about()), " ")
}

// kinds are the media types of sheet music: how people call them, and how the names
// of such files end.
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

// pieceLine is a piece, or a warning where pieces are listed.
type pieceLine struct {
	pieceFacts
	Practice    *uint64 `json:"practice,omitempty"`    // how often it was practised, by oneself
	PracticeAll *uint64 `json:"practiceAll,omitempty"` // with companions

	// PracticeMore is set by `npp pieces show` where PracticeAll may be too low.
	PracticeMore bool            `json:"practiceMore,omitempty"`
	Owners       []ownerLine     `json:"owners,omitempty"`
	Fields       json.RawMessage `json:"fields,omitempty"` // the document
	Warning      string          `json:"warning,omitempty"`
}

// ownerLine is somebody who has a piece.
type ownerLine struct {
	Peer string `json:"peer"`
	Name string `json:"name,omitempty"`
	Self bool   `json:"self,omitempty"`
}

func newPieceLine(p library.Listed) *pieceLine {
	l := &pieceLine{
		pieceFacts:   newPieceFacts(p.Piece),
		Practice:     &p.Practice.Own,
		PracticeAll:  &p.Practice.All,
		PracticeMore: p.Practice.More,
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

// column is a text in a column of a table.
func column(s string, width int) string {
	s = printable(cmp.Or(s, "-"))
	if runes := []rune(s); len(runes) > width {
		s = string(runes[:width-1]) + "…"
	}
	return fmt.Sprintf("%-*s", width, s)
}

// counts is how often the piece was practised: by oneself and, where that differs,
// by all.
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
	text := fmt.Sprintf("%s  %s  %s  %s  %s  %s", printable(l.Hash), column(l.called(), 32), column(l.Composer, 20),
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

// rowEncoders print pieces, a line for each.
func rowEncoders(owners func(*cmds.Request) bool) cmds.EncoderMap {
	return cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *pieceLine) error {
			_, err := io.WriteString(w, l.row(owners(req)))
			return err
		}),
	}
}

// choiceOptions choose pieces.
var choiceOptions = []cmds.Option{
	cmds.StringOption(instrumentOption, "Only pieces for this instrument."),
	cmds.StringOption(titleOption, "Only pieces with this in the title."),
	cmds.StringOption(composerOption, "Only pieces with this in the composer."),
	cmds.StringOption(textOption, "Only pieces with all of these words somewhere."),
}

// queryOf reads what chooses pieces.
func queryOf(req *cmds.Request) (q library.Query, err error) {
	q.Instrument, _ = req.Options[instrumentOption].(string)
	q.Title, _ = req.Options[titleOption].(string)
	q.Composer, _ = req.Options[composerOption].(string)
	q.Text, _ = req.Options[textOption].(string)
	q.All = on(req, allOption)
	if text, ok := req.Options[sortOption].(string); ok {
		q.Sort = piece.Sort(text)
		if !slices.Contains(sorts, q.Sort) {
			return q, fmt.Errorf("--%s is %.40q, must be newest, title, composer, instrument or practice", sortOption, text)
		}
	}
	q.Amount, err = amountOf(req)
	return q, err
}

var sorts = []piece.Sort{piece.Newest, piece.ByTitle, piece.ByComposer, piece.ByInstrument, library.ByPractice}

var sortChoice = cmds.StringOption(sortOption, "newest, title, composer, instrument or practice.").WithDefault(string(piece.Newest))

var piecesLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List pieces.",
		ShortDescription: `
Prints a line for each of your pieces: hash, title (or name of the file),
composer, instrument, kind of file, and how often you practised it, "2/5"
where you did twice and all, with your companions, five times. With '--all'
those of your companions are listed, too, and who has each. Upper and lower
case and accents make no difference to what is looked for.

  > ipfs npp pieces ls --instrument violin --sort composer
  QmNR2n…  Humoresque No. 7  Antonín Dvořák  Violin  PDF  2/5
  > ipfs npp pieces ls --all --amount 20

In JSON a line has "hash", "title", "composer", "instrument", "type" (media
type of the file), "name" and "size" (of the file), as far as they are known;
"practice" and "practiceAll"; "owners", each with "peer", "name" and, for you,
"self"; and "fields", the whole document. What cannot be listed is a line with
"warning". Pieces whose documents are damaged make it fail at the end.
`,
	},
	Options: append(slices.Clone(choiceOptions),
		sortChoice,
		cmds.IntOption(amountOption, "At most so many."),
		cmds.BoolOption(allOption, "Those of companions, too."),
	),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		q, err := queryOf(req)
		if err != nil {
			return err
		}
		return emitPieces(req, res, env, q)
	},
	PostRun: noneFound("there are no pieces here that match"),
	Type:    pieceLine{},
	Encoders: rowEncoders(func(req *cmds.Request) bool {
		return on(req, allOption)
	}),
}

var piecesSearchCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Search pieces, one's own and those of companions.",
		ShortDescription: `
Prints the pieces that have all of the words somewhere in title, composer,
instrument or name of the file, as 'ipfs npp pieces ls --all' does. Upper and
lower case and accents make no difference.

  > ipfs npp pieces search dvorak humoresque
  QmNR2n…  Humoresque No. 7  Antonín Dvořák  Violin  PDF  2/5  you, alice
`,
	},
	Arguments: []cmds.Argument{cmds.StringArg("text", true, true, "Words, or parts of words.")},
	Options: []cmds.Option{
		sortChoice,
		cmds.IntOption(amountOption, "At most so many.").WithDefault(defaultFound),
		cmds.BoolOption(ownOption, "Only one's own pieces."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		q, err := queryOf(req)
		if err != nil {
			return err
		}
		q.All = !on(req, ownOption)
		if q.Text = strings.Join(req.Arguments, " "); piece.Fold(q.Text) == "" {
			return errors.New("there is nothing to search for; hint: ipfs npp pieces search <word>, or ipfs npp pieces ls")
		}
		return emitPieces(req, res, env, q)
	},
	PostRun: noneFound("no piece matches"),
	Type:    pieceLine{},
	Encoders: rowEncoders(func(req *cmds.Request) bool {
		return !on(req, ownOption)
	}),
}

// noneFound says at the command line, to people, that there was no piece.
func noneFound(text string) cmds.PostRunMap {
	return cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		found := false
		for {
			v, err := res.Next()
			if errors.Is(err, io.EOF) {
				if !found && forPeople(res.Request()) {
					fmt.Fprintln(os.Stderr, text)
				}
				return nil
			}
			if err != nil {
				return err
			}
			if l, ok := v.(*pieceLine); ok && l.Hash != "" {
				found = true
			}
			if err := re.Emit(v); err != nil {
				return err
			}
		}
	}}
}

// forPeople tells whether the output is text.
func forPeople(req *cmds.Request) bool {
	return cmds.GetEncoding(req, cmds.Text) == cmds.Text
}

// emitPieces emits the pieces that a query chooses. What is damaged, or not here,
// does not keep the others from it.
func emitPieces(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment, q library.Query) error {
	ctx, _, lib, err := libraryOf(req, env)
	if err != nil {
		return err
	}
	ready := patiently(res)
	pieces, troubles, err := lib.Pieces(ctx, q)
	ready()
	if err != nil {
		return storeError(ctx, err)
	}
	if err := emitTroubles(ctx, res, lib, troubles); err != nil {
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
		return fmt.Errorf("%s damaged; hint: ipfs npp db rebuild, with the database that the note names", quantity(damaged, "piece is", "pieces are"))
	}
	return fmt.Errorf("%s damaged; hint: ipfs npp db rebuild %s", quantity(damaged, "piece is", "pieces are"), library.PiecesName)
}

// patiently emits a line where it takes more than a second until the pieces are
// there, which is called ready then.
func patiently(res cmds.ResponseEmitter) (ready func()) {
	var mu sync.Mutex
	over := false
	timer := time.AfterFunc(time.Second, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over { // where that fails, the next line does, too
			res.Emit(&pieceLine{Warning: "the pieces are read into memory, which takes some seconds after a start"})
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

// emitTroubles emits whose pieces and practice counts are left out, or not all here,
// and why.
func emitTroubles(ctx context.Context, res cmds.ResponseEmitter, lib *library.Library, troubles []library.Trouble) error {
	for _, t := range troubles {
		what, store := "your own pieces", library.PiecesName
		if !t.Self {
			c, _ := lib.Companion(ctx, t.Peer) // it may have been removed meanwhile
			what, store = "the pieces of ", c.PiecesAddr
			if t.Store == library.PracticeName {
				what, store = "the practice counts of ", c.CountsAddr
			}
			what += cmp.Or(t.Name, t.Peer.String())
		}
		text := fmt.Sprintf("%s are left out: %v", what, dbError(t.Err, store))
		if errors.Is(t.Err, library.ErrPartial) {
			text = what + " are not all here yet"
		}
		if err := res.Emit(&pieceLine{Warning: text}); err != nil {
			return err
		}
	}
	return nil
}

// storeError adds the next step to an error of the store of pieces.
func storeError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return dbError(err, library.PiecesName)
}

// pieceError adds the next step to an error about a piece, which was called so.
func pieceError(ctx context.Context, err error, called string) error {
	if err == nil {
		return nil
	}
	if several, ok := errors.AsType[*library.AmbiguousError](err); ok {
		var which []string
		for _, p := range several.Pieces {
			facts := newPieceFacts(p.Piece)
			which = append(which, fmt.Sprintf("%s (%s)", printable(facts.Hash), printable(facts.called())))
		}
		return fmt.Errorf("several pieces begin with %.80q: %s; hint: write more of the hash", called, strings.Join(which, ", "))
	}
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, orbit.ErrNotFound):
		return fmt.Errorf("no piece has the hash %.80q, or one that begins so; hint: ipfs npp pieces ls --all, or ipfs npp pieces search <text>", called)
	case errors.Is(err, library.ErrBeingRead):
		return fmt.Errorf("%w; hint: try again in a moment", err)
	case errors.Is(err, library.ErrNoFile):
		return fmt.Errorf("%w; hint: ipfs get %s", err, shown(called))
	}
	return storeError(ctx, err)
}

// resolve is the piece that an argument names, among one's own or those of all.
func resolve(ctx context.Context, lib *library.Library, called string, all bool) (library.Listed, error) {
	p, err := lib.Resolve(ctx, called, all)
	if !errors.Is(err, orbit.ErrNotFound) {
		return p, pieceError(ctx, err, called)
	}
	// Where one's own pieces cannot be looked at, that is what is amiss.
	if own := lib.Stores(ctx)[0]; own.Err != nil {
		return p, storeError(ctx, fmt.Errorf("store %q: %w", own.Name, own.Err))
	}
	if all {
		return p, pieceError(ctx, err, called)
	}
	theirs, otherErr := lib.Resolve(ctx, called, true)
	if otherErr != nil || len(theirs.Owners) == 0 {
		return p, pieceError(ctx, err, called)
	}
	owner := ownerLine{Peer: theirs.Owners[0].Peer.String(), Name: theirs.Owners[0].Name}
	return p, fmt.Errorf("the piece %s is one of %s, and not yours; hint: ipfs npp pieces add %s makes it yours", printable(theirs.Hash), owner.text(), shown(theirs.Hash))
}

var piecesRandomCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Pick a piece by chance.",
		ShortDescription: `
Prints one of your pieces, or with '--all' of those of your companions, too,
as 'ipfs npp pieces ls' does. Each is as likely as any other.

  > ipfs npp pieces random --instrument Piano
  QmNR2n…  Prelude in C  J. S. Bach  Piano  PDF  0
`,
	},
	Options: append(slices.Clone(choiceOptions), cmds.BoolOption(allOption, "Those of companions, too.")),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		q, err := queryOf(req)
		if err != nil {
			return err
		}
		ready := patiently(res)
		p, troubles, err := lib.Random(ctx, q)
		ready()
		switch {
		case errors.Is(err, orbit.ErrNotFound) && context.Cause(ctx) == nil:
			// What is left out may be why.
			if err := emitTroubles(ctx, res, lib, troubles); err != nil {
				return err
			}
			if q.Query == (piece.Query{}) {
				return errors.New("there is no piece; hint: ipfs npp pieces add <file>")
			}
			return errors.New("no piece matches; hint: ipfs npp pieces ls shows what is there")
		case err != nil:
			return storeError(ctx, err)
		}
		if err := emitTroubles(ctx, res, lib, troubles); err != nil {
			return err
		}
		return res.Emit(newPieceLine(p))
	},
	Type: pieceLine{},
	Encoders: rowEncoders(func(req *cmds.Request) bool {
		return on(req, allOption)
	}),
}
