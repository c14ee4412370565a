package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit"
)

const (
	gtOption     = "gt"
	gteOption    = "gte"
	ltOption     = "lt"
	lteOption    = "lte"
	followOption = "follow"
)

// entryLine is an entry of a log, its fields named as in OrbitDB, and what is
// known besides.
type entryLine struct {
	Number   uint64          `json:"number,omitempty"` // in the order of arrival here, with --since or --follow
	Lost     bool            `json:"lost,omitempty"`   // it counted and ceased to, with --follow
	Hash     string          `json:"hash"`
	Next     []string        `json:"next"`
	Refs     []string        `json:"refs"`
	Clock    clockLine       `json:"clock"`
	Key      string          `json:"key"`              // that signed it
	Sig      string          `json:"sig"`              // its signature
	Identity string          `json:"identity"`         // hash of the writer's identity
	Writer   string          `json:"writer,omitempty"` // ID of that identity, if it is here
	Size     int             `json:"size"`             // of the block, in bytes
	Payload  json.RawMessage `json:"payload"`
}

// clockLine is a Lamport clock: it counts entries, not seconds.
type clockLine struct {
	ID   string  `json:"id"`
	Time float64 `json:"time"`
}

var dbLogCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print the entries under a database, or follow them.",
		ShortDescription: `
Prints each entry, newest first: its hash, its time (which counts entries, not
seconds), its writer's identity, operation, size in bytes and key.

  > ipfs npp db log pieces --amount 2
  zdpuB2g…      12  03f5a7c2  PUT     702  QmNR2n…
  zdpuAqq…      11  03f5a7c2  DEL     644  QmX1Yz…

'--gt', '--gte', '--lt' and '--lte' take the hash of an entry. Below an entry
is what it was written on top of. '--since' prints what came here behind a
number, oldest first, each with its number in front; '--since 0' all.
'--follow' goes on with what comes until it is interrupted:

  > ipfs npp db log pieces --follow
  > ipfs npp db log pieces --follow --since 12
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(gtOption, "Only entries above the one with this hash."),
		cmds.StringOption(gteOption, "Only that entry and those above."),
		cmds.StringOption(ltOption, "Only entries below the one with this hash."),
		cmds.StringOption(lteOption, "Only that entry and those below."),
		cmds.IntOption(amountOption, "At most so many."),
		cmds.Uint64Option(sinceOption, "Only what came behind this number, in that order."),
		cmds.BoolOption(followOption, "Go on with what comes; from now on, without --since."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		db, err := o.Find(ctx, req.Arguments[0])
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		amount, err := amountOf(req)
		if err != nil {
			return err
		}
		entries, err := entriesOf(ctx, db, req)
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		follow := on(req, followOption)
		if stream, ok := res.(http.Flusher); ok && follow {
			stream.Flush() // the client waits for the head of the answer
		}
		count := 0
		for a, err := range entries {
			switch {
			case err == nil:
			case interrupted(req, err), follow && (errors.Is(err, orbit.ErrClosed) || ctx.Err() != nil):
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			default:
				return dbError(err, req.Arguments[0])
			}
			l := newEntryLine(a)
			if writer, err := o.IdentityOf(ctx, a.Entry.Identity); err == nil {
				l.Writer = writer.ID
			}
			if err := res.Emit(l); err != nil {
				return err
			}
			if count++; count == amount {
				return nil
			}
		}
		return nil
	},
	PostRun: untilInterrupted,
	Type:    entryLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *entryLine) error {
			_, err := io.WriteString(w, l.text())
			return err
		}),
	},
}

// entriesOf yields the entries that the options choose. Those of a range have
// no number.
func entriesOf(ctx context.Context, db *orbit.Database, req *cmds.Request) (iter.Seq2[orbit.Arrival, error], error) {
	r := orbit.Range{}
	ranged := false
	for option, bound := range map[string]*string{gtOption: &r.GT, gteOption: &r.GTE, ltOption: &r.LT, lteOption: &r.LTE} {
		var given bool
		var err error
		if *bound, given, err = hashOf(req, option); err != nil {
			return nil, err
		}
		ranged = ranged || given
	}
	since, hasSince := req.Options[sinceOption].(uint64)
	switch {
	case on(req, followOption) || hasSince:
		if ranged {
			return nil, errors.New("--gt, --gte, --lt and --lte are in the order of the log, --since and --follow in that of arrival; they exclude each other")
		}
		if !hasSince {
			s, err := db.Stats(ctx)
			if err != nil {
				return nil, err
			}
			since = s.Last
		}
		if on(req, followOption) {
			return db.Updates(ctx, since), nil
		}
		return db.Arrived(ctx, since), nil
	}
	r.Amount, _ = req.Options[amountOption].(int)
	return func(yield func(orbit.Arrival, error) bool) {
		for e, err := range db.Iterate(ctx, r) {
			if !yield(orbit.Arrival{Entry: e}, err) {
				return
			}
		}
	}, nil
}

func newEntryLine(a orbit.Arrival) *entryLine {
	e := a.Entry
	return &entryLine{
		Number:   a.Number,
		Lost:     a.Lost,
		Hash:     e.Hash(),
		Next:     notNil(e.Next),
		Refs:     notNil(e.Refs),
		Clock:    clockLine{e.Clock.ID, e.Clock.Time},
		Key:      e.Key,
		Sig:      e.Sig,
		Identity: e.Identity,
		Size:     len(e.Block.Data),
		Payload:  valueJSON(e.Payload),
	}
}

func notNil(hashes []string) []string { return append([]string{}, hashes...) }

// text is the entry on a line.
func (l *entryLine) text() string {
	number := ""
	if l.Number != 0 {
		number = fmt.Sprintf("%6d  ", l.Number)
	}
	writer := l.Writer
	if writer == "" {
		writer = "?"
	}
	var op struct {
		Op  json.RawMessage
		Key json.RawMessage
	}
	name := "?"
	if json.Unmarshal(l.Payload, &op) == nil && op.Op != nil {
		name = keyText(op.Op)
	}
	key := "-"
	if op.Key != nil && string(op.Key) != "null" {
		key = keyText(op.Key)
	}
	if l.Lost {
		key += "  (lost its effect)"
	}
	return fmt.Sprintf("%s%s  %6s  %-8.8s  %-3s  %6d  %s\n", number, printable(l.Hash), clockText(l.Clock.Time), printable(writer), name, l.Size, key)
}
