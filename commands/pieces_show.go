package commands

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library/piece"
)

var piecesShowCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show everything about a piece.",
		ShortDescription: `
Prints all fields of the piece, how often it was practised, and who has it:
you or companions. In JSON, the line is that of 'ipfs npp pieces ls'.

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
	Type:     pieceLine{},
	Encoders: encodeText((*pieceLine).text),
}

// text is the piece as a table.
func (l *pieceLine) text() string {
	t := table{width: 10}
	shown := make(map[string]bool)
	field := func(name, text string) {
		t.optional(name, text)
		shown[name] = text != ""
	}
	field(piece.FieldHash, l.Hash)
	field(piece.FieldTitle, l.Title)
	field(piece.FieldComposer, l.Composer)
	field(piece.FieldInstrument, l.Instrument)
	field(piece.FieldType, l.Type)
	field(piece.FieldName, l.Name)
	if l.Size > 0 {
		field(piece.FieldSize, size(l.Size))
	}
	own, all := l.counts()
	practised := quantity(own, "time", "times")
	switch {
	case l.PracticeMore:
		practised += fmt.Sprintf(", at least %d with companions", all)
	case own != all:
		practised += fmt.Sprintf(", %d with companions", all)
	}
	t.row("practised", practised)
	for _, o := range l.Owners {
		text := o.text()
		if !o.Self && o.Name != "" {
			text += ", " + o.Peer
		}
		t.row("owner", text)
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(l.Fields, &fields) == nil {
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if !shown[name] {
				t.optional(name, jsonText(fields[name]))
			}
		}
	}
	return t.String()
}
