package commands

import (
	"fmt"
	"slices"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit/replicate"
)

const deepOption = "deep"

// findingLine is a finding of `npp db doctor`.
type findingLine struct {
	Check  string `json:"check"` // what was checked, in a word
	Level  string `json:"level"` // "ok", "note" or "problem"
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
	Peer   string `json:"peer,omitempty"` // that the finding is about
}

var dbDoctorCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Say why a database is not replicated.",
		ShortDescription: `
Checks everything that replication needs: pubsub, disk space, the connected
peers and what they support, missing and refused entries, and the right to
write. Each line is "ok", a "note" or a "problem"; what to do is below it.

  > ipfs npp db doctor pieces
  ok       pubsub    pubsub is on
  ok       state     it is open, with 12 entries
  problem  peers     3 peers are connected directly, and none has it open
                     open the database there, or connect to a peer that …
  ok       writable  this daemon may write

'--deep' also compares the entries with those of each daemon that has the
database open, and lists those that differ.
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options:   []cmds.Option{cmds.BoolOption(deepOption, "Compare entries with other daemons that have it open.")},
	Run: runOn(replication.address, func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		examine := r.Examine
		if isSet(req, deepOption) {
			examine = r.ExamineDeep
		}
		findings, err := examine(r.ctx, address)
		if err != nil {
			return err
		}
		return emitAll(res, slices.Values(findings), func(f replicate.Finding) *findingLine {
			l := &findingLine{Check: f.Check, Level: string(f.Level), Text: f.Text, Advice: f.Advice}
			if f.Peer != "" {
				l.Peer = f.Peer.String()
			}
			return l
		})
	}),
	Type:     findingLine{},
	Encoders: encodeText((*findingLine).text),
}

func (l *findingLine) text() string {
	peer := ""
	if l.Peer != "" {
		peer = l.Peer + ": "
	}
	text := fmt.Sprintf("%-7s  %-8s  %s%s\n", printable(l.Level), printable(l.Check), peer, printable(l.Text))
	if l.Advice != "" {
		text += fmt.Sprintf("%19s%s\n", "", printable(l.Advice))
	}
	return text
}
