package commands

import (
	"errors"
	"fmt"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/store"
)

const (
	allOption    = "all"
	beforeOption = "before"

	// diskHint is the next step after a write that failed.
	diskHint = "ipfs npp status says what to do"
)

var messagesCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List and remove received messages.",
		ShortDescription: `
Received messages are stored until you remove them, or until a limit in the
config is reached (Plugins.Plugins.npp.Config.Messages). When a peer has used
up its space, its messages are refused, and the peer is told.

  > ipfs npp messages ls --from 12D3KooWQK5Uh9…
  > ipfs npp messages rm 7d0e6c0b5cf55a1c1be5b0c1a0cf0f6b
  > ipfs npp messages rm --all --before 720h
  > ipfs npp messages stat
`,
	},
	Subcommands: map[string]*cmds.Command{
		"ls":   messagesLsCmd,
		"rm":   messagesRmCmd,
		"stat": messagesStatCmd,
	},
}

var messagesLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the stored messages, oldest first.",
		ShortDescription: `
Prints a line per message: its ID, when it arrived, how, from whom, and what.

  > ipfs npp messages ls --since 24h
  7d0e6c0b5cf5…  2026-05-01 20:15:03  direct  12D3KooWQK5Uh9…  "hello"
`,
	},
	Options: filterOptions,
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		f, err := storedFilterOf(d, req)
		if err != nil {
			return err
		}
		return emitEach(res, d.Messages.List(req.Context, f), newMessageLine, messageError)
	},
	Type:     messageLine{},
	Encoders: encodeText(func(l *messageLine) string { return l.ID + "  " + l.text() }),
}

// removeLine is the output of `npp messages rm`.
type removeLine struct {
	Removed int `json:"removed"`
}

var messagesRmCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Remove stored messages.",
		ShortDescription: `
Removes the messages with the given IDs; or with '--all', all messages that
'--from', '--topic', '--since' and '--before' choose.

  > ipfs npp messages rm --all --from 12D3KooWQK5Uh9…
  removed 12
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("id", false, true, "ID of the message."),
	},
	Options: append([]cmds.Option{
		cmds.BoolOption(allOption, "Remove all messages that the other options choose."),
		cmds.StringOption(beforeOption, "Only messages older than a duration (720h) or a time (RFC 3339)."),
	}, filterOptions...),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		all := isSet(req, allOption)
		if all == (len(req.Arguments) > 0) {
			return errors.New("either message IDs or --all is needed; hint: ipfs npp messages ls shows the IDs")
		}
		if !all {
			for i, id := range req.Arguments {
				if err := d.Messages.Remove(req.Context, id); err != nil {
					return removeError(err, i)
				}
			}
			return res.Emit(&removeLine{Removed: len(req.Arguments)})
		}
		f, err := storedFilterOf(d, req)
		if err != nil {
			return err
		}
		before, err := beforeOf(req)
		if err != nil {
			return err
		}
		n, err := d.Messages.RemoveAll(req.Context, f, before)
		if err != nil {
			return removeError(err, n)
		}
		return res.Emit(&removeLine{Removed: n})
	},
	Type:     removeLine{},
	Encoders: encodeText(func(l *removeLine) string { return fmt.Sprintln("removed", l.Removed) }),
}

// removeError adds to an error how many messages were removed before it, and
// the next step.
func removeError(err error, removed int) error {
	return messageError(fmt.Errorf("%w (%d removed before)", err, removed))
}

// storedFilterOf is filterOf for stored messages: without --since, it is all of
// them.
func storedFilterOf(d *daemon.Daemon, req *cmds.Request) (message.Filter, error) {
	f, err := filterOf(d, req)
	if _, ok := req.Options[sinceOption]; !ok {
		f.Since = message.SinceAll
	}
	return f, err
}

// beforeOf reads --before; without it, the time is in the future.
func beforeOf(req *cmds.Request) (time.Time, error) {
	now := time.Now()
	text, ok := req.Options[beforeOption].(string)
	if !ok {
		return now.Add(time.Hour), nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("--%s is %.40q, but must be a duration (720h) or a time (2006-01-02T15:04:05Z)", beforeOption, text)
	}
	return t, nil
}

// statLine is the output of `npp messages stat`, in bytes and messages.
type statLine struct {
	DirectBytes       uint64 `json:"directBytes"`
	DirectLimit       uint64 `json:"directLimit"`
	PeerLimit         uint64 `json:"peerLimit"`
	PubsubBytes       uint64 `json:"pubsubBytes"`
	PubsubLimit       uint64 `json:"pubsubLimit"`
	Expired           uint64 `json:"expired"`
	Refused           uint64 `json:"refused"`
	RefusedPubsub     uint64 `json:"refusedPubsub"`
	DroppedOutbound   uint64 `json:"droppedOutbound"`
	DroppedValidation uint64 `json:"droppedValidation"`
	DroppedSubscriber uint64 `json:"droppedSubscriber"`
	StreamsReset      uint64 `json:"streamsReset"` // pubsub streams, because their peers did not read
}

var messagesStatCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show the space that messages take, and what was lost.",
		ShortDescription: `
Prints how much space the stored messages take, and counts of lost messages:

  > ipfs npp messages stat
  direct   1.0 MiB of 1.0 GiB, at most 64.0 MiB from one peer
  pubsub   0 bytes of 64.0 MiB
  removed by retention 0, refused 0, pubsub refused 0
  dropped by pubsub: outbound 0, validation 0, subscriber 0; streams reset 0

"retention" removed old messages, as the config says. Direct messages are
"refused" when there is no space; their senders are told. The pubsub router
drops messages when a queue is full, and resets the stream to a peer that does
not read. Refused and dropped messages are counted since the daemon started.
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		s, err := d.Messages.Stats(req.Context)
		if err != nil {
			return err
		}
		return res.Emit(&statLine{
			DirectBytes:       s.DirectBytes,
			DirectLimit:       s.Limits.StoreBytes,
			PeerLimit:         s.Limits.PeerBytes,
			PubsubBytes:       s.PubsubBytes,
			PubsubLimit:       s.Limits.PubsubBytes,
			Expired:           s.Expired,
			Refused:           s.Refused,
			RefusedPubsub:     s.RefusedPubsub,
			DroppedOutbound:   s.Dropped.Outbound,
			DroppedValidation: s.Dropped.Validation,
			DroppedSubscriber: s.Dropped.Subscriber,
			StreamsReset:      s.Dropped.Streams,
		})
	},
	Type: statLine{},
	Encoders: encodeText(func(l *statLine) string {
		return fmt.Sprintf("direct   %s of %s, at most %s from one peer\npubsub   %s of %s\n"+
			"removed by retention %d, refused %d, pubsub refused %d\n"+
			"dropped by pubsub: outbound %d, validation %d, subscriber %d; streams reset %d\n",
			size(l.DirectBytes), size(l.DirectLimit), size(l.PeerLimit), size(l.PubsubBytes), size(l.PubsubLimit),
			l.Expired, l.Refused, l.RefusedPubsub,
			l.DroppedOutbound, l.DroppedValidation, l.DroppedSubscriber, l.StreamsReset)
	}),
}

// messageError adds the next step to an error of reading messages.
func messageError(err error) error {
	switch {
	case errors.Is(err, message.ErrNoPubsub):
		return fmt.Errorf("%w by Pubsub.Enabled; hint: ipfs config --json Pubsub.Enabled true, and restart the daemon", err)
	case errors.Is(err, message.ErrNotFound):
		return fmt.Errorf("%w; hint: ipfs npp messages ls shows the IDs", err)
	case errors.Is(err, store.ErrNotDurable):
		return fmt.Errorf("%w; hint: %s", err, diskHint)
	}
	return err
}
