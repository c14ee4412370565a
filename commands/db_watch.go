package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// watchLine is an event of a database.
type watchLine struct {
	Event  string          `json:"event"` // "update", "lost", "join", "leave" or "sync"
	At     time.Time       `json:"at"`
	Peer   string          `json:"peer,omitempty"`   // of "join", "leave" and "sync"; the others have the fields below
	Number uint64          `json:"number,omitempty"` // in the order of arrival
	Hash   string          `json:"hash,omitempty"`   // of the entry
	Writer string          `json:"writer,omitempty"` // ID of the identity that wrote it
	Op     json.RawMessage `json:"op,omitempty"`     // PUT, DEL or ADD
	Key    json.RawMessage `json:"key,omitempty"`
	Value  json.RawMessage `json:"value,omitempty"`
}

var dbWatchCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print changes to a database as they happen.",
		ShortDescription: `
Prints a line for each event until it is interrupted:

  update  an entry was added, here or by a peer
  lost    an entry is no longer authorized: its writer's right was revoked
  join    a peer opened the database
  leave   a peer closed the database, or disconnected
  sync    a peer turned out to be in sync: it has the same entries

  > ipfs npp db watch pieces
  2026-05-01 20:15:03  join    12D3KooW…
  2026-05-01 20:15:03  sync    12D3KooW…
  2026-05-01 20:15:09  update  PUT  03f5a7c2  QmNR2n…  {"hash":"QmNR2n…"}

'ipfs npp db log --follow' prints entries only, and can start with old ones.
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Run: runOn(replication.knownAddress, func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		return emitEach(res, r.Watch(r.ctx, address, flush(res)), r.watchLine, func(err error) error {
			if interrupted(req, err) || errors.Is(err, orbit.ErrClosed) || errors.Is(err, replicate.ErrClosed) || r.ctx.Err() != nil {
				return nil
			}
			return err
		})
	}),
	PostRun:  untilInterrupted,
	Type:     watchLine{},
	Encoders: encodeText((*watchLine).text),
}

func (r replication) watchLine(e replicate.Event) *watchLine {
	l := &watchLine{Event: string(e.Kind), At: e.At}
	if e.Kind != replicate.Update && e.Kind != replicate.Lost {
		l.Peer = e.Peer.String()
		return l
	}
	entry := e.Arrival.Entry
	l.Number, l.Hash = e.Arrival.Number, entry.Hash()
	if writer, err := r.orbit.IdentityOf(r.ctx, entry.Identity); err == nil {
		l.Writer = writer.ID
	}
	l.Op = valueJSON(entry.Payload.Field("op"))
	l.Key = valueJSON(entry.Payload.Field("key"))
	l.Value = valueJSON(entry.Payload.Field("value"))
	return l
}

func (l *watchLine) text() string {
	text := fmt.Sprintf("%s  %-6s  ", localTime(l.At), l.Event)
	if l.Event != string(replicate.Update) && l.Event != string(replicate.Lost) {
		return text + l.Peer + "\n"
	}
	value := ""
	if l.Value != nil && string(l.Value) != "null" {
		value = "  " + jsonText(l.Value)
	}
	return fmt.Sprintf("%s%-3s  %s  %s%s\n", text, operandText(l.Op, "?"), writerText(l.Writer), operandText(l.Key, "-"), value)
}
