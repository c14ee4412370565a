package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/swarm"
)

const (
	fileOption     = "file"
	jsonOption     = "json"
	idOption       = "id"
	privateOption  = "private"
	topicOption    = "topic"
	deadlineOption = "deadline"

	defaultDeadline = 30 * time.Second

	// bodyName names the part of the multipart body that contains the message.
	bodyName = "message"
)

var errTopicAndPeer = errors.New("--topic takes no peer; hint: ipfs npp send --topic <topic> <message>")

const publishedWarning = "there is no receipt, and anyone who subscribes to the topic can read it"

// sendLine is the output of `npp send`.
type sendLine struct {
	ID                  string    `json:"id,omitempty"` // of a direct message
	To                  string    `json:"to,omitempty"`
	Topic               string    `json:"topic,omitempty"`
	Status              string    `json:"status"` // "delivered", "published", "unknown" or "failed"
	Via                 string    `json:"via,omitempty"`
	MS                  float64   `json:"ms,omitempty"` // from sending to the receipt, not counting the time to connect
	Addr                string    `json:"addr,omitempty"`
	Relayed             bool      `json:"relayed,omitempty"`
	Subscribers         int       `json:"subscribers,omitempty"`
	RecipientSubscribed bool      `json:"recipientSubscribed,omitempty"`
	Warning             string    `json:"warning,omitempty"`
	Tried               []tryLine `json:"tried,omitempty"`
	Error               string    `json:"error,omitempty"`
}

var sendCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Send a message to a peer.",
		ShortDescription: `
Sends a message to a peer and waits for the receipt. A message is any JSON
value; what is not JSON is sent as a JSON string. If there is no connection to
the peer yet, the command connects first.

  > ipfs npp send 12D3KooWQK5Uh9… '{"piece":"Prelude in C","page":2}'
  delivered 7d0e… to 12D3KooWQK5Uh9… in 1.1 ms
  > ipfs npp send 12D3KooWQK5Uh9… --file score.json
  > echo hello | ipfs npp send 12D3KooWQK5Uh9…
  > ipfs npp send 12D3KooWQK5Uh9… -- -5

"delivered" means that the peer's daemon has stored the message. If no receipt
arrives, it is unknown whether the message was delivered, and the exit status
is 1: send it again with '--id' and the printed ID. It is stored only once.

To a peer that has never supported npp, the message is "published" on the
pubsub topic of the peer's ID, if a peer is subscribed to it. There is no
receipt, and anybody can read the message; '--private' refuses to do this.

'--topic' publishes to any pubsub topic:

  > ipfs npp send --topic rehearsals '"tuesday at eight"'
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("peer", false, false, "Peer ID, multiaddr or name of a companion; not with --topic."),
		cmds.StringArg("message", false, false, "The message; '-' or nothing for standard input."),
	},
	Options: []cmds.Option{
		cmds.StringOption(fileOption, "Read the message from this file."),
		cmds.BoolOption(jsonOption, "Refuse a message that is not JSON."),
		cmds.StringOption(idOption, "Send with this message ID, to repeat a message."),
		cmds.BoolOption(privateOption, "Never publish the message."),
		cmds.StringOption(topicOption, "Publish to this pubsub topic."),
		cmds.StringOption(deadlineOption, "Give up after this time, including the time to connect.").WithDefault(defaultDeadline.String()),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if hasBody(req) {
			return nil
		}
		body, err := messageBody(req)
		if err != nil {
			return err
		}
		delete(req.Options, fileOption)
		setBody(req, bodyName, body)
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		deadline, err := durationOption(req, deadlineOption)
		if err != nil {
			return err
		}
		if _, ok := req.Options[fileOption]; ok {
			return errCommandLineOnly(fileOption, "post the message as a multipart body")
		}
		text, err := readMessage(req, res, d.Messages.Limits().MaxMessageBytes)
		if err != nil {
			return err
		}
		data, err := message.Encode(text, isSet(req, jsonOption))
		if err != nil {
			return encodeError(err)
		}
		ctx, cancel := context.WithTimeout(req.Context, deadline)
		defer cancel()
		var line *sendLine
		if topic, ok := req.Options[topicOption].(string); ok {
			if len(req.Arguments) > 0 {
				return errTopicAndPeer
			}
			line, err = publish(ctx, d, topic, data)
		} else {
			line, err = send(ctx, d, req, data)
		}
		if line == nil {
			return err
		}
		if emitErr := res.Emit(line); emitErr != nil {
			return emitErr
		}
		return err
	},
	Type:     sendLine{},
	Encoders: encodeText((*sendLine).text),
}

func (l *sendLine) text() string {
	switch message.Status(l.Status) {
	case message.Delivered:
		relayed := ""
		if l.Relayed {
			relayed = ", relayed"
		}
		return fmt.Sprintf("delivered %s to %s in %.1f ms%s\n", l.ID, l.To, l.MS, relayed)
	case message.Published:
		return fmt.Sprintf("published to the topic %s, %s\nwarning: %s\n", printable(l.Topic), l.audience(), l.Warning)
	}
	return attemptsText(l.Tried)
}

func (l *sendLine) audience() string {
	s := quantity(l.Subscribers, "peer is subscribed", "peers are subscribed")
	switch {
	case l.To == "":
	case l.RecipientSubscribed:
		s += ", the recipient among them"
	default:
		s += ", the recipient not among them"
	}
	return s
}

// messageBody returns what the command line sends: the argument, which it
// removes from the request, a file, or standard input.
func messageBody(req *cmds.Request) (io.Reader, error) {
	before := 1
	if _, ok := req.Options[topicOption]; ok {
		before = 0
	}
	path, hasFile := req.Options[fileOption].(string)
	var arg string
	hasArg := len(req.Arguments) > before
	if hasArg {
		arg = req.Arguments[before]
	}
	switch {
	case len(req.Arguments) < before:
		return nil, errors.New("the recipient is missing; hint: ipfs npp send <peer> <message>, or --topic <topic>")
	case len(req.Arguments) > before+1:
		return nil, errTopicAndPeer
	case hasArg && hasFile:
		return nil, fmt.Errorf("the message is given twice, as an argument and as --%s; hint: leave out one of them", fileOption)
	}
	req.Arguments = req.Arguments[:before]
	switch {
	case hasFile:
		return openInput(path, "message")
	case hasArg && arg != "-":
		return strings.NewReader(arg), nil
	}
	return stdin("message"), nil
}

// readMessage returns what the daemon received: the multipart body, or the last
// argument.
func readMessage(req *cmds.Request, res cmds.ResponseEmitter, limit uint64) ([]byte, error) {
	f, err := body(req, res, "message", message.ErrEmpty)
	if err != nil {
		return nil, err
	}
	if f == nil {
		if len(req.Arguments) == 0 {
			return nil, errors.New("there is no message; hint: post it as a multipart body, or as arg= after the peer")
		}
		last := len(req.Arguments) - 1
		text := req.Arguments[last]
		req.Arguments = req.Arguments[:last]
		return []byte(text), nil
	}
	input, end := bodyReader(req.Context, f)
	defer end()
	// JSON may be longer than the message, which has no white space.
	most := int64(2*limit + 1)
	text, err := io.ReadAll(io.LimitReader(input, most))
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	if int64(len(text)) == most {
		return nil, fmt.Errorf("%w: the limit is %d bytes; hint: add it to IPFS (ipfs add) and send its CID", message.ErrTooLarge, limit)
	}
	return text, nil
}

func encodeError(err error) error {
	switch {
	case errors.Is(err, message.ErrEmpty):
		return fmt.Errorf(`%w; hint: '""' is an empty string`, err)
	case errors.Is(err, message.ErrNotText):
		return fmt.Errorf("%w; hint: add it to IPFS (ipfs add) and send its CID", err)
	case errors.Is(err, message.ErrNotJSON):
		return fmt.Errorf("%w; hint: without --json it is sent as a JSON string", err)
	}
	return err
}

func send(ctx context.Context, d *daemon.Daemon, req *cmds.Request, data []byte) (*sendLine, error) {
	if len(req.Arguments) != 1 {
		return nil, fmt.Errorf("one peer is needed besides the message, not %d; hint: pass the peer as arg=", len(req.Arguments))
	}
	to, err := resolvePeer(ctx, req, d, req.Arguments[0])
	if err != nil {
		return nil, err
	}
	id, given := req.Options[idOption].(string)
	if given && id == "" {
		return nil, message.ErrBadID
	}
	out, err := d.Messages.Send(ctx, message.Outgoing{To: to, ID: id, Data: data, DirectOnly: isSet(req, privateOption)})
	l := &sendLine{
		ID:      out.ID,
		To:      to.ID.String(),
		Status:  string(out.Status),
		Via:     string(out.Via),
		MS:      milliseconds(out.Took),
		Addr:    addrString(out.Route.Addr),
		Relayed: out.Route.Relayed,
	}
	if out.Status == message.Published {
		l.ID, l.MS = "", 0
		l.Topic = l.To
		l.Subscribers = len(out.Subscribers)
		l.RecipientSubscribed = out.RecipientSubscribed
		l.Warning = publishedWarning
	}
	if err != nil {
		var failure *swarm.ConnectError
		if errors.As(err, &failure) {
			l.Tried = tryLines(failure.Tried)
		}
		err = sendError(err, l, isSet(req, privateOption))
		l.Error = err.Error()
	}
	return l, err
}

func sendError(err error, l *sendLine, private bool) error {
	switch {
	case errors.Is(err, message.ErrUnknownFate):
		return fmt.Errorf("unknown whether %s was delivered: %w; hint: send it again with --id %s; it is stored only once", l.ID, err, l.ID)
	case errors.Is(err, message.ErrNoPubsub):
		return fmt.Errorf("%w by Pubsub.Enabled; hint: ipfs config --json Pubsub.Enabled true, and restart the daemon", err)
	case errors.Is(err, message.ErrNobody) && l.Relayed:
		return fmt.Errorf("%w; hint: connect directly; pubsub does not work over relayed connections such as this one", err)
	case errors.Is(err, message.ErrNobody):
		return fmt.Errorf("%w; hint: try again when the peer is listening", err)
	case errors.Is(err, message.ErrNoProtocol) && private:
		return fmt.Errorf("%w, so there is no private way; hint: without --private it is published by pubsub, where anybody can read it", err)
	case errors.Is(err, message.ErrNoProtocol):
		return fmt.Errorf("%w now but did before, so nothing is published; hint: to publish it anyway, use --topic %s", err, l.To)
	case errors.Is(err, message.ErrNoRoom):
		return fmt.Errorf("%w; hint: send it again when the recipient has freed space", err)
	case errors.Is(err, message.ErrTooLarge):
		return fmt.Errorf("%w; hint: add it to IPFS (ipfs add) and send its CID", err)
	}
	if len(l.Tried) > 0 {
		return fmt.Errorf("no way to %s; hint: check that it is online, or use its address: /ip4/…/p2p/%s", l.To, l.To)
	}
	return err
}

func publish(ctx context.Context, d *daemon.Daemon, topic string, data []byte) (*sendLine, error) {
	l := &sendLine{Topic: topic, Via: string(message.Pubsub), Status: string(message.Failed)}
	subscribers, err := d.Messages.Publish(ctx, topic, data)
	if err != nil {
		err = sendError(err, l, false)
		l.Error = err.Error()
		return l, err
	}
	l.Status = string(message.Published)
	l.Subscribers = len(subscribers)
	l.Warning = publishedWarning
	return l, nil
}
