package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/ipfs/boxo/files"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/plugin"
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

	// bodyName is the name of the message in the multipart body.
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
	MS                  float64   `json:"ms,omitempty"` // from sending to the receipt, without connecting
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
'ipfs npp send' sends any JSON value to a peer. What is no JSON is sent as a
JSON string. It connects by itself, see 'ipfs npp connect --help'.

  > ipfs npp send 12D3KooWQK5Uh9… '{"piece":"Prelude in C","page":2}'
  delivered 7d0e… to 12D3KooWQK5Uh9… in 1.1 ms

  > ipfs npp send 12D3KooWQK5Uh9… --file score.json
  > echo hello | ipfs npp send 12D3KooWQK5Uh9…
  > ipfs npp send 12D3KooWQK5Uh9… -- -5

"delivered" means that the peer's daemon has stored it. Where no receipt comes
back the status is "unknown" (exit status 1): send it again with '--id' and
the ID that was printed, it is stored once.

A peer that does not speak npp's protocol, and never did, gets the message on
the pubsub topic named after its peer ID, if somebody is subscribed to that:
"published". There is no receipt for that, and anyone can read it; '--private'
refuses it. '--topic' publishes to any topic, to whoever is subscribed:

  > ipfs npp send --topic rehearsals '"tuesday at eight"'
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("peer", false, false, "Peer ID, multiaddr or name of a companion; not with --topic."),
		cmds.StringArg("message", false, false, "The message; '-' or nothing: from standard input."),
	},
	Options: []cmds.Option{
		cmds.StringOption(fileOption, "Read the message from this file."),
		cmds.BoolOption(jsonOption, "Refuse a message that is no JSON."),
		cmds.StringOption(idOption, "Send again under this message ID."),
		cmds.BoolOption(privateOption, "Never by pubsub."),
		cmds.StringOption(topicOption, "Publish to this pubsub topic."),
		cmds.StringOption(deadlineOption, "Give up after this time, connecting included.").WithDefault(defaultDeadline.String()),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if req.Files != nil {
			return nil // kubo runs this twice where the daemon does not answer
		}
		body, err := messageBody(req)
		if err != nil {
			return err
		}
		delete(req.Options, fileOption)
		req.Files = files.NewMapDirectory(map[string]files.Node{bodyName: files.NewReaderFile(body)})
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemon(env)
		if err != nil {
			return err
		}
		deadline, err := durationOption(req, deadlineOption)
		if err != nil {
			return err
		}
		if _, ok := req.Options[fileOption]; ok {
			return fmt.Errorf("--%s is for the command line; hint: post the message as a multipart body", fileOption)
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
	Type: sendLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *sendLine) error {
			var err error
			switch message.Status(l.Status) {
			case message.Delivered:
				relayed := ""
				if l.Relayed {
					relayed = ", relayed"
				}
				_, err = fmt.Fprintf(w, "delivered %s to %s in %.1f ms%s\n", l.ID, l.To, l.MS, relayed)
			case message.Published:
				_, err = fmt.Fprintf(w, "published to the topic %s, %s\nwarning: %s\n", printable(l.Topic), l.audience(), l.Warning)
			default:
				_, err = io.WriteString(w, attemptsText(l.Tried))
			}
			return err
		}),
	},
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

// messageBody is the message at the command line: the argument, a file, or
// standard input. The argument is taken out of the request.
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
		return nil, errors.New("to whom? hint: ipfs npp send <peer> <message>, or --topic <topic>")
	case len(req.Arguments) > before+1:
		return nil, errTopicAndPeer
	case hasArg && hasFile:
		return nil, fmt.Errorf("the message is given twice, as an argument and as --%s", fileOption)
	}
	req.Arguments = req.Arguments[:before]
	switch {
	case hasFile:
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the message: %w", err)
		}
		return f, nil
	case hasArg && arg != "-":
		return strings.NewReader(arg), nil
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprintln(os.Stderr, "(the message comes from the terminal; end it with Ctrl-D)")
	}
	return os.Stdin, nil
}

// readMessage is the message in the daemon: the multipart body, or the last argument.
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
	// JSON may be longer before white space is taken out of it
	most := int64(2*limit + 1)
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	if int64(len(text)) == most {
		return nil, fmt.Errorf("%w: the limit is %d bytes; hint: add it to IPFS and send its CID", message.ErrTooLarge, limit)
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

func send(ctx context.Context, d *plugin.Daemon, req *cmds.Request, data []byte) (*sendLine, error) {
	if len(req.Arguments) != 1 {
		return nil, fmt.Errorf("one peer is needed beside the message, not %d", len(req.Arguments))
	}
	to, err := resolvePeer(ctx, req, d, req.Arguments[0])
	if err != nil {
		return nil, err
	}
	id, given := req.Options[idOption].(string)
	if given && id == "" {
		return nil, message.ErrBadID
	}
	out, err := d.Messages.Send(ctx, message.Letter{To: to, ID: id, Data: data, Private: isSet(req, privateOption)})
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
		return fmt.Errorf("unknown whether %s was delivered: %w; hint: send it again with --id %s, it is stored once", l.ID, err, l.ID)
	case errors.Is(err, message.ErrNoPubsub):
		return fmt.Errorf("%w by Pubsub.Enabled; hint: ipfs config --json Pubsub.Enabled true, and restart the daemon", err)
	case errors.Is(err, message.ErrNobody) && l.Relayed:
		return fmt.Errorf("%w; hint: pubsub does not run over relayed connections such as this one, connect directly", err)
	case errors.Is(err, message.ErrNobody):
		return fmt.Errorf("%w; hint: try again when the peer is listening", err)
	case errors.Is(err, message.ErrNoProtocol) && private:
		return fmt.Errorf("%w, so there is no private way; hint: without --private it goes by pubsub, which anyone can read", err)
	case errors.Is(err, message.ErrNoProtocol):
		return fmt.Errorf("%w now but did before, so it gets nothing by pubsub; hint: to publish all the same, --topic %s", err, l.To)
	case errors.Is(err, message.ErrNoRoom):
		return fmt.Errorf("%w; hint: send it again when the recipient has made room", err)
	case errors.Is(err, message.ErrTooLarge):
		return fmt.Errorf("%w; hint: add it to IPFS and send its CID", err)
	}
	if len(l.Tried) > 0 {
		return fmt.Errorf("no way to %s; hint: is it online? give an address of it, /ip4/…/p2p/%s", l.To, l.To)
	}
	return err
}

func publish(ctx context.Context, d *plugin.Daemon, topic string, data []byte) (*sendLine, error) {
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
