package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// watchLine is an event of a database.
type watchLine struct {
	Event  string          `json:"event"` // "update", "join", "leave" or "sync"
	At     time.Time       `json:"at"`
	Peer   string          `json:"peer,omitempty"`   // of all but "update", which has what follows
	Number uint64          `json:"number,omitempty"` // in the order of arrival here
	Hash   string          `json:"hash,omitempty"`   // of the entry
	Writer string          `json:"writer,omitempty"` // ID of the identity that wrote it
	Op     json.RawMessage `json:"op,omitempty"`     // PUT, DEL or ADD
	Key    json.RawMessage `json:"key,omitempty"`
	Value  json.RawMessage `json:"value,omitempty"`
}

var dbWatchCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print what happens to a database.",
		ShortDescription: `
Prints, until it is interrupted, each entry that becomes part of the database
("update"), each entry that ceases to count because its writer was revoked
("lost"), each peer that opens the database ("join") or closes it or leaves
("leave"), and each time that a peer turns out to be in step ("sync").

  > ipfs npp db watch pieces
  2026-05-01 20:15:03  join    12D3KooW…
  2026-05-01 20:15:03  sync    12D3KooW…
  2026-05-01 20:15:09  update  PUT  03f5a7c2  QmNR2n…  {"hash":"QmNR2n…"}

'ipfs npp db log --follow' has entries alone, and also those from before.
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Run: runOn(replication.knownAddress, func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		ready := func() {}
		if stream, ok := res.(http.Flusher); ok {
			ready = stream.Flush // the client waits for the head of the answer
		}
		for e, err := range r.Watch(r.ctx, address, ready) {
			switch {
			case err == nil:
			case interrupted(req, err), errors.Is(err, orbit.ErrClosed), errors.Is(err, replicate.ErrClosed), r.ctx.Err() != nil:
				return nil
			default:
				return err
			}
			if err := res.Emit(r.watchLine(e)); err != nil {
				return err
			}
		}
		return nil
	}),
	PostRun: untilInterrupted,
	Type:    watchLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *watchLine) error {
			_, err := io.WriteString(w, l.text())
			return err
		}),
	},
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
	text := fmt.Sprintf("%s  %-6s  ", l.At.Local().Format(time.DateTime), l.Event)
	if l.Event != string(replicate.Update) && l.Event != string(replicate.Lost) {
		return text + l.Peer + "\n"
	}
	op, key, value, writer := "?", "-", "", l.Writer
	if l.Op != nil {
		op = keyText(l.Op)
	}
	if l.Key != nil && string(l.Key) != "null" {
		key = keyText(l.Key)
	}
	if l.Value != nil && string(l.Value) != "null" {
		value = "  " + jsonText(l.Value)
	}
	if writer == "" {
		writer = "?"
	}
	return fmt.Sprintf("%s%-3s  %-8.8s  %s%s\n", text, op, printable(writer), key, value)
}
