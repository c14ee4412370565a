package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

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

// entryLine is an entry of a log. The fields that OrbitDB defines have
// OrbitDB's names.
type entryLine struct {
	Number   uint64          `json:"number,omitempty"` // in the order of arrival, with --since or --follow
	Lost     bool            `json:"lost,omitempty"`   // with --follow: the entry is no longer authorized
	Hash     string          `json:"hash"`
	Next     []string        `json:"next"`
	Refs     []string        `json:"refs"`
	Clock    clockLine       `json:"clock"`
	Key      string          `json:"key"` // public key that verifies Sig
	Sig      string          `json:"sig"`
	Identity string          `json:"identity"`         // hash of the writer's identity
	Writer   string          `json:"writer,omitempty"` // ID of that identity, if it is here
	Size     int             `json:"size"`             // of the block, in bytes
	Payload  json.RawMessage `json:"payload"`
}

// clockLine is a Lamport clock. Its time counts entries, not seconds.
type clockLine struct {
	ID   string  `json:"id"`
	Time float64 `json:"time"`
}

var dbLogCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print the entries of a database, or follow them.",
		ShortDescription: `
Prints the history of a database, a line per entry, newest first: its hash,
its time (a count of entries, not a time of day), the identity that wrote it,
the operation, the size in bytes, and the key.

  > ipfs npp db log pieces --amount 2
  zdpuB2g…      12  03f5a7c2  PUT     702  QmNR2n…
  zdpuAqq…      11  03f5a7c2  DEL     644  QmX1Yz…

'--gt', '--gte', '--lt' and '--lte' take the hash of an entry and choose a
range of the history. '--lt' prints what is before that entry: its ancestors.

'--since' takes a number and prints the entries that arrived after the one
with that number, oldest first, each with its own number; '--since 0' prints
all. '--follow' prints entries as they arrive, until it is interrupted:

  > ipfs npp db log pieces --follow
  > ipfs npp db log pieces --follow --since 12
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(gtOption, "Only entries after the one with this hash."),
		cmds.StringOption(gteOption, "Only that entry and those after it."),
		cmds.StringOption(ltOption, "Only entries before the one with this hash."),
		cmds.StringOption(lteOption, "Only that entry and those before it."),
		cmds.IntOption(amountOption, "Print at most this many."),
		cmds.Uint64Option(sinceOption, "Only entries that arrived after this number, oldest first."),
		cmds.BoolOption(followOption, "Print entries as they arrive; without --since, only new ones."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		arg := req.Arguments[0]
		db, err := o.Find(ctx, arg)
		if err != nil {
			return dbError(err, arg)
		}
		limit, err := limitOption(req)
		if err != nil {
			return err
		}
		entries, err := entriesOf(ctx, db, req)
		if err != nil {
			return dbError(err, arg)
		}
		follow := isSet(req, followOption)
		if follow {
			flush(res)()
		}
		line := func(a orbit.Arrival) *entryLine {
			l := newEntryLine(a)
			if writer, err := o.IdentityOf(ctx, a.Entry.Identity); err == nil {
				l.Writer = writer.ID
			}
			return l
		}
		return emitEach(res, limited(entries, limit), line, func(err error) error {
			switch {
			case interrupted(req, err), follow && (errors.Is(err, orbit.ErrClosed) || ctx.Err() != nil):
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
			return dbError(err, arg)
		})
	},
	PostRun:  untilInterrupted,
	Type:     entryLine{},
	Encoders: encodeText((*entryLine).text),
}

// entriesOf yields the entries that the options choose. Entries of a range have
// no number.
func entriesOf(ctx context.Context, db *orbit.Database, req *cmds.Request) (iter.Seq2[orbit.Arrival, error], error) {
	r := orbit.Range{}
	ranged := false
	for option, bound := range map[string]*string{gtOption: &r.GT, gteOption: &r.GTE, ltOption: &r.LT, lteOption: &r.LTE} {
		var given bool
		var err error
		if *bound, given, err = hashOption(req, option); err != nil {
			return nil, err
		}
		ranged = ranged || given
	}
	since, hasSince := req.Options[sinceOption].(uint64)
	switch {
	case isSet(req, followOption) || hasSince:
		if ranged {
			return nil, errors.New("--since and --follow print the order of arrival, so they cannot be combined with --gt, --gte, --lt and --lte, which choose from the order of the log; hint: use either")
		}
		if !hasSince {
			s, err := db.Stats(ctx)
			if err != nil {
				return nil, err
			}
			since = s.Last
		}
		if isSet(req, followOption) {
			return db.Updates(ctx, since), nil
		}
		return db.Arrived(ctx, since), nil
	}
	r.Limit, _ = req.Options[amountOption].(int)
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
		Lost:     a.Revoked,
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

func (l *entryLine) text() string {
	number := ""
	if l.Number != 0 {
		number = fmt.Sprintf("%6d  ", l.Number)
	}
	var op struct {
		Op  json.RawMessage
		Key json.RawMessage
	}
	if json.Unmarshal(l.Payload, &op) != nil {
		op.Op, op.Key = nil, nil
	}
	key := operandText(op.Key, "-")
	if l.Lost {
		key += "  (no longer authorized)"
	}
	return fmt.Sprintf("%s%s  %6s  %s  %-3s  %6d  %s\n", number, printable(l.Hash), clockText(l.Clock.Time), writerText(l.Writer), operandText(op.Op, "?"), l.Size, key)
}

// writerText returns the first 8 characters of the ID of an identity, or "?".
func writerText(id string) string { return fmt.Sprintf("%-8.8s", printable(cmp.Or(id, "?"))) }

// operandText returns a part of an operation, or a text for null and for none.
func operandText(part json.RawMessage, none string) string {
	if part == nil || string(part) == "null" {
		return none
	}
	return keyText(part)
}
