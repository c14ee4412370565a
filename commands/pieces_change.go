package commands

import (
	"errors"
	"fmt"
	"io"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit/value"
)

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
			return changeError(ctx, err, req.Arguments[0], "update")
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
				l.Hash, l.Title, l.Name = p.Hash, p.Title, p.Name
				l.Removed = err == nil || errors.Is(err, library.ErrStillPinned)
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
			text := fmt.Sprintf("removed  %s  %s", printable(l.Hash), printable(facts.displayName()))
			if l.Unpinned {
				text += ", and unpinned its file"
			}
			_, err := fmt.Fprintln(w, text)
			return err
		}),
	},
}
