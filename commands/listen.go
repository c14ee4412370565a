package commands

import (
	"encoding/json"
	"fmt"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multibase"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/message"
)

const (
	sinceOption = "since"
	fromOption  = "from"
)

// messageLine is a message in the format of `ipfs pubsub sub`, whose data and
// seqno are multibase (base64url), with further fields.
type messageLine struct {
	From     string          `json:"from"`
	Data     string          `json:"data"`
	Seqno    string          `json:"seqno"`
	TopicIDs []string        `json:"topicIDs"`
	ID       string          `json:"id"`
	Message  json.RawMessage `json:"message,omitempty"` // the data, if it is JSON
	Sent     *time.Time      `json:"sent,omitempty"`    // by the sender's clock, if known
	Received time.Time       `json:"received"`
	Via      string          `json:"via"`             // "direct" or "pubsub"
	Offer    *offerLine      `json:"offer,omitempty"` // the user database that the message offers
}

func newMessageLine(m *message.Message) *messageLine {
	l := &messageLine{
		From:     m.From.String(),
		Data:     encodeBytes(m.Data),
		Seqno:    encodeBytes(m.Seqno),
		TopicIDs: m.Topics,
		ID:       m.ID,
		Message:  m.JSON(),
		Received: m.Received,
		Via:      string(m.Via),
	}
	if !m.Sent.IsZero() {
		l.Sent = &m.Sent
	}
	if address, ok := library.OfferIn(m.Data); ok {
		l.Offer = newOfferLine(library.Offer{Address: address})
	}
	return l
}

func encodeBytes(b []byte) string {
	s, err := multibase.Encode(multibase.Base64url, b)
	if err != nil {
		panic(err) // unreachable: multibase has base64url
	}
	return s
}

// text is the message on a line, and the offer in it on another.
func (l *messageLine) text() string {
	body := l.Data
	if l.Message != nil {
		body = printable(string(l.Message))
	}
	text := fmt.Sprintf("%s  %-6s  %s  %s\n", localTime(l.Received), l.Via, l.From, body)
	switch {
	case l.Offer == nil:
	case l.Offer.Error == "":
		text += fmt.Sprintf("  offers its library: ipfs npp companions add %s\n", l.From)
	default:
		text += fmt.Sprintf("  offers its library: %s\n", printable(l.Offer.Error))
	}
	return text
}

var messageEncoders = encodeText((*messageLine).text)

// filterOptions choose messages.
var filterOptions = []cmds.Option{
	cmds.StringOption(sinceOption, "Where to start: how long ago (15m), a time (RFC 3339), a message ID, or all."),
	cmds.StringOption(fromOption, "Only messages from this peer: a peer ID, or the name of a companion."),
	cmds.StringOption(topicOption, "Only messages of this pubsub topic."),
}

func filterOf(d *daemon.Daemon, req *cmds.Request) (message.Filter, error) {
	var f message.Filter
	since, _ := req.Options[sinceOption].(string)
	var err error
	if f.Since, err = message.ParseSince(since, time.Now()); err != nil {
		return f, fmt.Errorf("--%s: %w", sinceOption, err)
	}
	if from, ok := req.Options[fromOption].(string); ok {
		var info peer.AddrInfo
		if info, err = resolvePeer(req.Context, req, d, from); err != nil {
			return f, fmt.Errorf("--%s: %w", fromOption, err)
		}
		f.From = info.ID
	}
	f.Topic, _ = req.Options[topicOption].(string)
	return f, nil
}

var listenCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print messages as they arrive.",
		ShortDescription: `
Prints each message as it arrives, whether it was sent directly or published
to the pubsub topic of this peer's ID, until it is interrupted or the daemon
stops.

  > ipfs npp listen
  2026-05-01 20:15:03  direct  12D3KooWQK5Uh9…  {"piece":"Prelude in C"}

The daemon stores messages even if no command listens. '--since' starts with
stored ones; 'ipfs npp messages --help' says more.

  > ipfs npp listen --since 15m
  > ipfs npp listen --since all --from 12D3KooWQK5Uh9…

'--topic' subscribes to a pubsub topic while the command runs, and prints what
is published there. A message that is not JSON is printed in multibase.
`,
	},
	Options: filterOptions,
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		f, err := filterOf(d, req)
		if err != nil {
			return err
		}
		f.Ready = flush(res)
		return emitEach(res, d.Messages.Listen(req.Context, f), newMessageLine, func(err error) error {
			if interrupted(req, err) {
				return nil
			}
			return messageError(err)
		})
	},
	PostRun:  untilInterrupted,
	Type:     messageLine{},
	Encoders: messageEncoders,
}
