package commands

import (
	"errors"
	"fmt"
	"io"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/plugin"
	"github.com/newpieceplease/npp/router"
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
		Tagline: "Show and free the store of received messages.",
		ShortDescription: `
What arrives is kept on disk until it is removed, or the rules of retention in
the config do so (Plugins.Plugins.npp.Config.Messages). A peer whose share of
the store is full is told so, and its messages are refused.

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
  > ipfs npp messages ls --since 24h
  7d0e6c0b5cf5…  2026-05-01 20:15:03  direct  12D3KooWQK5Uh9…  "hello"
`,
	},
	Options: filterOptions,
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemon(env)
		if err != nil {
			return err
		}
		f, err := storedFilterOf(d, req)
		if err != nil {
			return err
		}
		for m, err := range d.Messages.List(req.Context, f) {
			if err != nil {
				return messageError(err)
			}
			if err := res.Emit(newMessageLine(m)); err != nil {
				return err
			}
		}
		return nil
	},
	Type: messageLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *messageLine) error {
			_, err := fmt.Fprintf(w, "%s  %s", l.ID, l.text())
			return err
		}),
	},
}

// removeLine is the output of `npp messages rm`.
type removeLine struct {
	Removed int `json:"removed"`
}

var messagesRmCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Remove stored messages.",
		ShortDescription: `
Removes the messages with these IDs, or all that '--from', '--topic',
'--since' and '--before' choose.

  > ipfs npp messages rm --all --from 12D3KooWQK5Uh9…
  removed 12
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("id", false, true, "Message ID."),
	},
	Options: append([]cmds.Option{
		cmds.BoolOption(allOption, "All that the other options choose."),
		cmds.StringOption(beforeOption, "Only what was received before: a duration (720h) or a time (RFC 3339)."),
	}, filterOptions...),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemon(env)
		if err != nil {
			return err
		}
		all := isSet(req, allOption)
		if all == (len(req.Arguments) > 0) {
			return errors.New("either message IDs or --all; hint: ipfs npp messages ls shows the IDs")
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
	Type: removeLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *removeLine) error {
			_, err := fmt.Fprintln(w, "removed", l.Removed)
			return err
		}),
	},
}

// removeError adds to an error how many messages were removed before it, and the
// next step.
func removeError(err error, removed int) error {
	return messageError(fmt.Errorf("%w (%d removed before)", err, removed))
}

// storedFilterOf is filterOf for what is stored: without --since, all of it.
func storedFilterOf(d *plugin.Daemon, req *cmds.Request) (message.Filter, error) {
	f, err := filterOf(d, req)
	if _, ok := req.Options[sinceOption]; !ok {
		f.Since = message.SinceAll
	}
	return f, err
}

// beforeOf reads --before; without it, everything is before.
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
		return t, fmt.Errorf("--%s is %.40q, must be a duration (720h) or a time (2006-01-02T15:04:05Z)", beforeOption, text)
	}
	return t, nil
}

// statLine is the output of `npp messages stat`: bytes and counts.
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
	StreamsReset      uint64 `json:"streamsReset"` // of pubsub, because their peers did not read
}

var messagesStatCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show how full the store is, and what was refused or dropped.",
		ShortDescription: `
"refused" counts direct messages that were not taken, their senders told, and
"dropped" what the pubsub router lost; both since the daemon started. The
stream to a peer that does not read is reset, and what waits for it is lost.

  > ipfs npp messages stat
  direct   1048576 of 1073741824 bytes, a peer has 67108864
  pubsub   0 of 67108864 bytes
  removed by retention 0, refused 0, pubsub refused 0
  dropped by pubsub: outbound 0, validation 0, subscriber 0; streams reset 0
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemon(env)
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
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *statLine) error {
			_, err := fmt.Fprintf(w, "direct   %d of %d bytes, a peer has %d\npubsub   %d of %d bytes\n"+
				"removed by retention %d, refused %d, pubsub refused %d\n"+
				"dropped by pubsub: outbound %d, validation %d, subscriber %d; streams reset %d\n",
				l.DirectBytes, l.DirectLimit, l.PeerLimit, l.PubsubBytes, l.PubsubLimit,
				l.Expired, l.Refused, l.RefusedPubsub,
				l.DroppedOutbound, l.DroppedValidation, l.DroppedSubscriber, l.StreamsReset)
			return err
		}),
	},
}

// messageError adds the next step to an error of reading messages.
func messageError(err error) error {
	switch {
	case errors.Is(err, message.ErrNoPubsub):
		return fmt.Errorf("%w by Pubsub.Enabled; hint: ipfs config --json Pubsub.Enabled true, and restart the daemon", err)
	case errors.Is(err, message.ErrNotFound):
		return fmt.Errorf("%w; hint: ipfs npp messages ls shows the IDs", err)
	case errors.Is(err, router.ErrTooManyTopics):
		return fmt.Errorf("%w; hint: %s", err, replicate.FreeTopics)
	case errors.Is(err, store.ErrNotDurable):
		return fmt.Errorf("%w; hint: %s", err, diskHint)
	}
	return err
}
