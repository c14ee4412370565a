package commands

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library/piece"
)

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
		if p, err = lib.WithOwners(ctx, p); err != nil {
			return storeError(ctx, err)
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
		row(piece.FieldSize, quantity(l.Size, "byte", "bytes"))
	}
	own, all := l.counts()
	practised := quantity(own, "time", "times")
	switch {
	case l.PracticeMore:
		practised += fmt.Sprintf(", at least %d with companions", all)
	case own != all:
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
