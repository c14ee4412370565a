package commands

import (
	"errors"
	"fmt"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit/value"
)

// detailsOf reads the options that describe a piece.
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
		Tagline: "Change the title or other fields of a piece.",
		ShortDescription: `
Changes the instrument, title or composer of one of your pieces; an empty
title or composer is removed. '--set' sets any other field to a JSON value, or
to the text itself if it is not JSON; null removes the field.

  > ipfs npp pieces update QmNR2n --title 'Humoresque No. 7' --set year=1894
  updated    QmNR2n…  Humoresque No. 7  (Antonín Dvořák, Violin, PDF)
  > ipfs npp pieces update QmNR2n --set tags='["solo"]' --set year=null
`,
	},
	Arguments: []cmds.Argument{pieceArg},
	Options: []cmds.Option{
		cmds.StringOption(instrumentOption, "The instrument that the piece is for."),
		cmds.StringOption(titleOption, "The title."),
		cmds.StringOption(composerOption, "The composer."),
		cmds.StringsOption(setOption, "Another field, as key=value; repeatable."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		details := detailsOf(req)
		sets, _ := req.Options[setOption].([]string)
		if details.Instrument == nil && details.Title == nil && details.Composer == nil && len(sets) == 0 {
			return errors.New("there is nothing to update; hint: use --title, --composer, --instrument or --set key=value")
		}
		details.Fields = make(map[string]value.Value)
		for _, set := range sets {
			key, text, ok := strings.Cut(set, "=")
			if !ok || key == "" {
				return fmt.Errorf("--%s is %.80q, but must be key=value; hint: --%s year=1894", setOption, set, setOption)
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

// valueOf returns the value of a text that is JSON, or else the text.
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
	Unpinned bool   `json:"unpinned,omitempty"` // the pin that adding the piece made was removed
	Error    string `json:"error,omitempty"`
}

var piecesRmCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Remove pieces.",
		ShortDescription: `
Removes pieces from your library and unpins their files, so that 'ipfs repo
gc' can delete them. Files that you pinned yourself stay pinned, and practice
counts stay.

  > ipfs npp pieces rm QmNR2n
  removed  QmNR2n…  Prelude in C, and unpinned its file
`,
	},
	Arguments: []cmds.Argument{cmds.StringArg("piece", true, true, "Hash of the piece, or its beginning.")},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		// Resolve all arguments first: what the beginning of a hash names must
		// not depend on the pieces that are removed.
		found := make([]library.CatalogPiece, len(req.Arguments))
		errs := make([]error, len(req.Arguments))
		for i, arg := range req.Arguments {
			found[i], errs[i] = resolve(ctx, lib, arg, false)
		}
		failed := 0
		for i, arg := range req.Arguments {
			l := &rmLine{Piece: arg}
			err := errs[i]
			if err == nil {
				var p piece.Piece
				p, l.Unpinned, err = lib.Remove(ctx, found[i].Hash)
				err = pieceError(ctx, err, arg)
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
	Type:     rmLine{},
	Encoders: encodeText((*rmLine).text),
}

func (l *rmLine) text() string {
	if l.Error != "" {
		return fmt.Sprintf("failed   %s: %s\n", printable(l.Piece), printable(l.Error))
	}
	facts := pieceFacts{Title: l.Title, Name: l.Name}
	text := fmt.Sprintf("removed  %s  %s", printable(l.Hash), printable(facts.displayName()))
	if l.Unpinned {
		text += ", and unpinned its file"
	}
	return text + "\n"
}
