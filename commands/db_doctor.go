package commands

import (
	"fmt"
	"io"

	cmds "github.com/ipfs/go-ipfs-cmds"
)

const deepOption = "deep"

// findingLine is what `npp db doctor` found in one respect.
type findingLine struct {
	Check  string `json:"check"` // what was looked at, in a word
	Level  string `json:"level"` // "ok", "note" or "problem"
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
	Peer   string `json:"peer,omitempty"` // that it is about
}

var dbDoctorCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Say why a database is not replicated.",
		ShortDescription: `
Looks at all that it takes to replicate a database: pubsub, the free space of
the disk, who is connected and how, who has it open and speaks what, what is
missing and who was asked for it, what was refused and why, and who may write.
Each line is "ok", a "note" or a "problem", with what to do below.

With '--deep', it also compares what counts here with what counts at each
daemon that has the database open, and names the entries that differ.

  > ipfs npp db doctor pieces
  ok       pubsub    pubsub is on
  ok       state     it is open, with 12 entries
  problem  peers     3 peers are connected directly, and none has it open
                     open the database there, or connect to a peer that …
  ok       writable  this daemon may write
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options:   []cmds.Option{cmds.BoolOption(deepOption, "Compare entries with the daemons that have the database open.")},
	Run: runOn(replication.address, func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		examine := r.Examine
		if isSet(req, deepOption) {
			examine = r.ExamineDeep
		}
		findings, err := examine(r.ctx, address)
		if err != nil {
			return err
		}
		for _, f := range findings {
			l := &findingLine{Check: f.Check, Level: string(f.Level), Text: f.Text, Advice: f.Advice}
			if f.Peer != "" {
				l.Peer = f.Peer.String()
			}
			if err := res.Emit(l); err != nil {
				return err
			}
		}
		return nil
	}),
	Type: findingLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *findingLine) error {
			peer := ""
			if l.Peer != "" {
				peer = l.Peer + ": "
			}
			text := fmt.Sprintf("%-7s  %-8s  %s%s\n", printable(l.Level), printable(l.Check), peer, printable(l.Text))
			if l.Advice != "" {
				text += fmt.Sprintf("%19s%s\n", "", printable(l.Advice))
			}
			_, err := io.WriteString(w, text)
			return err
		}),
	},
}
