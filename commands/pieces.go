package commands

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/library/sheet"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/orbit/value"
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
	Practice    *uint64         `json:"practice,omitempty"`    // how often it was practised, by oneself
	PracticeAll *uint64         `json:"practiceAll,omitempty"` // with companions
	Owners      []ownerLine     `json:"owners,omitempty"`
	Fields      json.RawMessage `json:"fields,omitempty"` // the document
	Warning     string          `json:"warning,omitempty"`
}

// ownerLine is somebody who has a piece.
type ownerLine struct {
	Peer string `json:"peer"`
	Name string `json:"name,omitempty"`
	Self bool   `json:"self,omitempty"`
}

func newPieceLine(p library.Listed) *pieceLine {
	l := &pieceLine{
		pieceFacts:  newPieceFacts(p.Piece),
		Practice:    &p.Practice.Own,
		PracticeAll: &p.Practice.All,
		Fields:      valueJSON(p.Doc),
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
	pieces, troubles, err := lib.Pieces(ctx, q)
	if err != nil {
		return storeError(ctx, err)
	}
	if err := emitTroubles(res, troubles); err != nil {
		return err
	}
	damaged := 0
	for p, err := range pieces {
		l := &pieceLine{}
		switch {
		case err == nil:
			l = newPieceLine(p)
		case context.Cause(ctx) != nil || !errors.Is(err, blocks.ErrDamaged):
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

// emitTroubles emits whose pieces are left out, and why.
func emitTroubles(res cmds.ResponseEmitter, troubles []library.Trouble) error {
	for _, t := range troubles {
		whose := "the pieces of " + cmp.Or(t.Name, t.Peer.String())
		if t.Self {
			whose = "your own pieces"
		}
		if err := res.Emit(&pieceLine{Warning: fmt.Sprintf("%s are left out: %v", whose, dbError(t.Err, library.PiecesName))}); err != nil {
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

var piecesShowCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show all that is known of a piece.",
		ShortDescription: `
Prints what the document of the piece says, how often it was practised, and
who has it: you, or companions. In JSON it is a line as of 'ipfs npp pieces
ls'.

  > ipfs npp pieces show QmNR2n
  hash        QmNR2n…
  title       Humoresque No. 7
  composer    Antonín Dvořák
  instrument  Violin
  type        application/pdf
  practised   2 times, 5 with companions
  owner       you
  owner       alice, 12D3KooWQK5Uh9…
  year        1894
`,
	},
	Arguments: []cmds.Argument{pieceArg},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		p, err := resolve(ctx, lib, req.Arguments[0], true)
		if err != nil {
			return err
		}
		return res.Emit(newPieceLine(p))
	},
	Type: pieceLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *pieceLine) error {
			_, err := io.WriteString(w, l.text())
			return err
		}),
	},
}

// text is all of the piece.
func (l *pieceLine) text() string {
	var b strings.Builder
	shownSo := make(map[string]bool)
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-10s  %s\n", printable(name), text)
			shownSo[name] = true
		}
	}
	row(piece.FieldHash, printable(l.Hash))
	row(piece.FieldTitle, printable(l.Title))
	row(piece.FieldComposer, printable(l.Composer))
	row(piece.FieldInstrument, printable(l.Instrument))
	row(piece.FieldType, printable(l.Type))
	row(piece.FieldName, printable(l.Name))
	if l.Size > 0 {
		row(piece.FieldSize, fmt.Sprintf("%d bytes", l.Size))
	}
	own, all := l.counts()
	practised := quantity(own, "time", "times")
	if own != all {
		practised += fmt.Sprintf(", %d with companions", all)
	}
	row("practised", practised)
	for _, o := range l.Owners {
		text := o.text()
		if !o.Self && o.Name != "" {
			text += ", " + o.Peer
		}
		row("owner", text)
	}
	delete(shownSo, "practised") // which a document may have, too
	delete(shownSo, "owner")
	var fields map[string]json.RawMessage
	if json.Unmarshal(l.Fields, &fields) == nil {
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if !shownSo[name] {
				row(name, jsonText(fields[name]))
			}
		}
	}
	return b.String()
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
		p, troubles, err := lib.Random(ctx, q)
		switch {
		case errors.Is(err, orbit.ErrNotFound) && context.Cause(ctx) == nil:
			// What is left out may be why.
			if err := emitTroubles(res, troubles); err != nil {
				return err
			}
			if q.Query == (piece.Query{}) {
				return errors.New("there is no piece; hint: ipfs npp pieces add <file>")
			}
			return errors.New("no piece matches; hint: ipfs npp pieces ls shows what is there")
		case err != nil:
			return storeError(ctx, err)
		}
		if err := emitTroubles(res, troubles); err != nil {
			return err
		}
		return res.Emit(newPieceLine(p))
	},
	Type: pieceLine{},
	Encoders: rowEncoders(func(req *cmds.Request) bool {
		return on(req, allOption)
	}),
}

// detailsOf reads what is said about a piece.
func detailsOf(req *cmds.Request) library.Details {
	text := func(option string) *string {
		if s, ok := req.Options[option].(string); ok {
			return &s
		}
		return nil
	}
	return library.Details{Instrument: text(instrumentOption), Title: text(titleOption), Composer: text(composerOption)}
}

var piecesUpdateCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Change what is said about a piece.",
		ShortDescription: `
Changes instrument, title or composer of one of your pieces; an empty title or
composer removes it. '--set' sets any other field of its document to JSON, or
to a text where it is no JSON; null removes the field.

  > ipfs npp pieces update QmNR2n --title 'Humoresque No. 7' --set year=1894
  updated    QmNR2n…  Humoresque No. 7  (Antonín Dvořák, Violin, PDF)
  > ipfs npp pieces update QmNR2n --set tags='["solo"]' --set year=null
`,
	},
	Arguments: []cmds.Argument{pieceArg},
	Options: []cmds.Option{
		cmds.StringOption(instrumentOption, "Whom the piece is for."),
		cmds.StringOption(titleOption, "Its title."),
		cmds.StringOption(composerOption, "Its composer."),
		cmds.StringsOption(setOption, "Another field, as key=value; may be repeated."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		details := detailsOf(req)
		sets, _ := req.Options[setOption].([]string)
		if details.Instrument == nil && details.Title == nil && details.Composer == nil && len(sets) == 0 {
			return errors.New("there is nothing to update; hint: --title, --composer, --instrument or --set key=value")
		}
		details.Fields = make(map[string]value.Value)
		for _, set := range sets {
			key, text, ok := strings.Cut(set, "=")
			if !ok || key == "" {
				return fmt.Errorf("--%s is %.80q, must be key=value; hint: --%s year=1894", setOption, set, setOption)
			}
			details.Fields[key] = valueOf(text)
		}
		p, err := resolve(ctx, lib, req.Arguments[0], false)
		if err != nil {
			return err
		}
		updated, outcome, err := lib.Update(ctx, p.Hash, details)
		if err != nil {
			return addError(ctx, err, req.Arguments[0])
		}
		return res.Emit(&addLine{Outcome: string(outcome), pieceFacts: newPieceFacts(updated)})
	},
	Type:     addLine{},
	Encoders: addEncoders,
}

// valueOf is the JSON that a text is, or else the text.
func valueOf(text string) value.Value {
	v, err := value.FromJSON([]byte(text))
	if err != nil {
		return value.Text(text)
	}
	return v
}

// rmLine is a line of `npp pieces rm`.
type rmLine struct {
	Piece    string `json:"piece"` // as it was given
	Hash     string `json:"hash,omitempty"`
	Title    string `json:"title,omitempty"`
	Name     string `json:"name,omitempty"` // of the file
	Removed  bool   `json:"removed"`
	Unpinned bool   `json:"unpinned,omitempty"` // the pin that adding it made is gone
	Error    string `json:"error,omitempty"`
}

var piecesRmCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Remove pieces.",
		ShortDescription: `
Removes pieces of yours, and the pins that adding them made: garbage
collection takes the files then. What you pinned yourself stays pinned, and
the counts of 'ipfs npp practice' stay.

  > ipfs npp pieces rm QmNR2n
  removed  QmNR2n…  Prelude in C, and unpinned its file
`,
	},
	Arguments: []cmds.Argument{cmds.StringArg("piece", true, true, "Hash of a piece, or how that begins.")},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		// What an argument names must not depend on what goes because of another.
		found := make([]library.Listed, len(req.Arguments))
		errs := make([]error, len(req.Arguments))
		for i, called := range req.Arguments {
			found[i], errs[i] = resolve(ctx, lib, called, false)
		}
		failed := 0
		for i, called := range req.Arguments {
			l := &rmLine{Piece: called}
			err := errs[i]
			if err == nil {
				var p piece.Piece
				p, l.Unpinned, err = lib.Remove(ctx, found[i].Hash)
				err = pieceError(ctx, err, called)
				l.Hash, l.Title, l.Name, l.Removed = p.Hash, p.Title, p.Name, err == nil
			}
			if err != nil {
				if len(req.Arguments) == 1 {
					return err
				}
				failed++
				l.Error = err.Error()
			}
			if err := res.Emit(l); err != nil {
				return err
			}
		}
		if failed > 0 {
			return fmt.Errorf("%d of %d failed", failed, len(req.Arguments))
		}
		return nil
	},
	Type: rmLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *rmLine) error {
			if l.Error != "" {
				_, err := fmt.Fprintf(w, "failed   %s: %s\n", printable(l.Piece), printable(l.Error))
				return err
			}
			facts := pieceFacts{Title: l.Title, Name: l.Name}
			text := fmt.Sprintf("removed  %s  %s", printable(l.Hash), printable(facts.called()))
			if l.Unpinned {
				text += ", and unpinned its file"
			}
			_, err := fmt.Fprintln(w, text)
			return err
		}),
	},
}

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
	Bytes  uint64 `json:"bytes,omitempty"`  // of the file that were read
	Blocks int    `json:"blocks,omitempty"` // of what is pinned that are here
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
	if l.File == "" {
		return fmt.Sprintf("%s: %s here", printable(l.Hash), quantity(l.Progress.Blocks, "block is", "blocks are"))
	}
	return fmt.Sprintf("%s: %d bytes", printable(l.File), l.Progress.Bytes)
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

var (
	errNothingToAdd = errors.New("there is nothing to add; hint: ipfs npp pieces add <file>, a folder or a CID")
	errOneTitle     = errors.New("--title is for one piece; hint: add the files one by one, or ipfs npp pieces update <piece> --title")
)

// shownProgress is a line at a terminal that gives way to what is printed.
type shownProgress struct {
	w     io.Writer
	shown bool
}

func (p *shownProgress) show(text string) {
	p.shown = true
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
}

func (p *shownProgress) clear() {
	if p.shown {
		p.shown = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// cidOf is the CID that an argument is, as it is written.
func cidOf(arg string) (hash string, ok bool) {
	hash = strings.TrimPrefix(arg, "/ipfs/")
	_, err := cid.Decode(hash)
	return hash, err == nil && len(hash) <= piece.MaxHash
}

// sources are files and folders at the command line, which are opened one at a time.
// They are a [files.Directory] of what is sent.
type sources struct {
	paths, names []string
	folders      bool // there are folders among them
	inFolder     bool // these are what a folder has
}

// sourcesOf tells files and folders from CIDs, which are returned as they are.
func sourcesOf(args []string) (sent *sources, hashes []string, err error) {
	sent = &sources{}
	for _, arg := range args {
		info, statErr := os.Stat(arg)
		_, isCID := cidOf(arg)
		switch {
		case isCID && (statErr != nil || strings.HasPrefix(arg, "/ipfs/")):
			hashes = append(hashes, arg)
			continue
		case isCID:
			return nil, nil, fmt.Errorf("%s is a CID, and there is a file of that name; hint: ./%s is the file, /ipfs/%s the CID", arg, arg, arg)
		case errors.Is(statErr, fs.ErrNotExist):
			return nil, nil, fmt.Errorf("%.80q: no such file, and no CID", arg)
		case statErr != nil:
			return nil, nil, statErr
		}
		path, err := filepath.Abs(arg)
		if err != nil {
			return nil, nil, err
		}
		if err := readable(path, info); err != nil {
			return nil, nil, err
		}
		sent.folders = sent.folders || info.IsDir()
		sent.paths, sent.names = append(sent.paths, path), append(sent.names, filepath.Base(path))
	}
	if len(args) == 0 {
		return nil, nil, errNothingToAdd
	}
	return sent, hashes, nil
}

// readable reports what keeps a file or folder from being read.
func readable(path string, info fs.FileInfo) error {
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("%q is neither a file nor a folder", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *sources) Mode() fs.FileMode          { return fs.ModeDir }
func (s *sources) ModTime() time.Time         { return time.Time{} }
func (s *sources) Size() (int64, error)       { return 0, files.ErrNotSupported }
func (s *sources) Close() error               { return nil }
func (s *sources) Entries() files.DirIterator { return &sourceIterator{of: s, at: -1} }

type sourceIterator struct {
	of   *sources
	at   int
	node files.Node
}

func (it *sourceIterator) Name() string     { return it.of.names[it.at] }
func (it *sourceIterator) Node() files.Node { return it.node }
func (it *sourceIterator) Err() error       { return nil }

func (it *sourceIterator) Next() bool {
	if it.at++; it.at >= len(it.of.paths) {
		return false
	}
	node, err := it.of.open(it.at)
	if err != nil {
		node = marked(fs.ModeIrregular, err.Error())
	}
	it.node = node
	return true
}

// open opens a file or folder. What is not sent is a mark of its kind.
func (s *sources) open(at int) (files.Node, error) {
	path := s.paths[at]
	stat := os.Stat
	if s.inFolder {
		stat = os.Lstat
	}
	info, err := stat(path)
	switch {
	case err != nil:
		return nil, err
	case s.inFolder && isHidden(s.names[at]):
		return marked(0, ""), nil
	case info.Mode()&fs.ModeSymlink != 0:
		return files.NewLinkFile("", nil), nil
	case info.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		return files.NewReaderFile(f), nil
	case !info.IsDir():
		return marked(info.Mode().Type(), ""), nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	below := &sources{inFolder: true}
	for _, e := range entries {
		below.paths, below.names = append(below.paths, filepath.Join(path, e.Name())), append(below.names, e.Name())
	}
	return below, nil
}

func isHidden(name string) bool { return strings.HasPrefix(name, ".") }

// marked is a file whose mode says that it is none to be added: one that could not be
// read is irregular, and has the reason in it.
func marked(mode fs.FileMode, text string) files.Node {
	return files.NewReaderStatFile(strings.NewReader(text), markInfo{mode})
}

type markInfo struct{ mode fs.FileMode }

func (markInfo) Name() string           { return "" }
func (markInfo) Size() int64            { return 0 }
func (i markInfo) Mode() fs.FileMode    { return i.mode }
func (markInfo) ModTime() (t time.Time) { return t }
func (markInfo) IsDir() bool            { return false }
func (markInfo) Sys() any               { return nil }

const (
	// maxLook is how much of a file in a folder is looked at, which is more than
	// package sheet reads of any that it knows but a zip.
	maxLook = 8 << 20
	// maxZip is the largest zip that may be sheet music, in bytes.
	maxZip = 64 << 20
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
	head    bytes.Buffer
}

func (a *adding) run(sent files.Directory) error {
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
	if a.folders {
		if err := a.tell(&addLine{Summary: &a.sum}); err != nil {
			return err
		}
	}
	switch {
	case a.held != nil:
		return a.heldErr
	case a.sum.Failed > 0:
		return fmt.Errorf("%d of %d failed", a.sum.Failed, a.sum.tried())
	case a.sum == addSummary{} && !a.folders:
		return errNothingToAdd
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
		case errors.Is(err, library.ErrInvalid), errors.Is(err, orbit.ErrNotAllowed), errors.Is(err, orbit.ErrClosed), errors.Is(err, oplog.ErrDamaged), errors.Is(err, errUnread):
			return addError(a.ctx, err, l.Hash)
		}
		err = addError(a.ctx, err, l.Hash)
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

// addError adds the next step to an error of adding or updating a piece.
func addError(ctx context.Context, err error, called string) error {
	if errors.Is(err, library.ErrInvalid) && ctx.Err() == nil {
		return fmt.Errorf("%w; hint: ipfs npp pieces update --help", err)
	}
	return pieceError(ctx, err, called)
}

func (a *adding) hash(hash string) error {
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	begin := time.Now()
	p, outcome, err := a.lib.AddHash(ctx, hash, a.details, a.pin, func(blocks int) {
		if time.Since(begin) > time.Second {
			a.show(ctx, &addLine{pieceFacts: pieceFacts{Hash: hash}, Progress: &addProgress{Blocks: blocks}})
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
		g.adding.show(g.adding.ctx, &addLine{File: g.name, Progress: &addProgress{Bytes: g.read}})
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
		f, err := spool(r, -1)
		if err != nil {
			return a.ended(err)
		}
		defer f.remove()
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
	a.head.Reset()
	_, err := io.CopyN(&a.head, r, maxLook)
	whole := errors.Is(err, io.EOF)
	if err != nil && !whole {
		return a.ended(err)
	}
	head := a.head.Bytes()
	s, err := sheet.Read(a.ctx, bytes.NewReader(head), int64(len(head)))
	if err != nil {
		return a.ended(err)
	}
	rest := io.MultiReader(bytes.NewReader(head), r)
	if s.Kind == "" && !whole && bytes.HasPrefix(head, []byte("PK")) {
		// What a zip has is at its end.
		f, err := spool(rest, maxZip)
		if err != nil {
			return a.ended(err)
		}
		defer f.remove()
		if f.size <= maxZip {
			if s, err = sheet.Read(a.ctx, f, f.size); err != nil {
				return a.ended(err)
			}
		}
		rest = f
	}
	if s.Kind == "" {
		return a.skip(name, "no sheet music that is known; hint: --"+allFilesOption)
	}
	return a.add(name, rest)
}

// spooled is a temporary file.
type spooled struct {
	*os.File
	size int64
}

// spool puts what r has into a temporary file, or the beginning where it is longer
// than most, unless that is negative.
func spool(r io.Reader, most int64) (*spooled, error) {
	f, err := os.CreateTemp("", "npp-piece-*")
	if err != nil {
		return nil, err
	}
	s := &spooled{File: f}
	if most >= 0 {
		r = io.LimitReader(r, most+1)
	}
	if s.size, err = io.Copy(f, r); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *spooled) remove() {
	s.Close()
	os.Remove(s.Name())
}
