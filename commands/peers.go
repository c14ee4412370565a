package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/swarm"
)

const (
	countOption = "count"
	watchOption = "watch"
	keptOption  = "kept"

	adviceOption = "advice"

	// latencyWait is how long the list waits for the latencies of its peers.
	latencyWait = 500 * time.Millisecond
)

// peersLine is a line of `npp peers`: a peer, with or without an event; or else
// the count or advice alone.
type peersLine struct {
	*PeerLine
	Count  *int   `json:"count,omitempty"`
	Advice string `json:"advice,omitempty"`
}

// PeerLine is a peer in a line of `npp peers`. Its name is exported because
// encoding/json sets no embedded pointer otherwise.
type PeerLine struct {
	Event        string     `json:"event,omitempty"` // "connect" or "disconnect", with --watch
	At           *time.Time `json:"at,omitempty"`    // of the event
	Peer         string     `json:"peer,omitempty"`
	Addr         string     `json:"addr,omitempty"`
	LatencyMS    float64    `json:"latencyMs,omitempty"`
	LatencyAgeMS *float64   `json:"latencyAgeMs,omitempty"` // time since LatencyMS was measured
	Direction    string     `json:"direction,omitempty"`    // "inbound" or "outbound"
	Agent        string     `json:"agent,omitempty"`
	Since        *time.Time `json:"since,omitempty"`
	Connected    bool       `json:"connected"`
	Relayed      bool       `json:"relayed"`
	Kept         string     `json:"kept,omitempty"` // by "npp" (connect --keep) or "config" (Peering.Peers)
	NPP          bool       `json:"npp"`
	Topics       []string   `json:"topics,omitempty"` // pubsub topics that both peers are subscribed to
}

var peersCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the connected peers.",
		ShortDescription: `
Prints a line per connected peer:

  > ipfs npp peers
  12D3KooW…  0.4ms  out  direct  -  npp  1 topic  5m12s  kubo/0.43.1/…  /ip4/…

The columns are the peer ID; the latency, or '?' while it is unknown; "in" or
"out", by who opened the connection; "direct" or "relayed"; "kept:…" if the
connection is kept ('ipfs npp connect --keep', or Peering.Peers of the
config); "npp" if the peer supports npp; the pubsub topics that both peers are
subscribed to; the time since the peer connected; its software; and its
address. Latencies are at most 30 seconds old.

  > ipfs npp peers --count
  1

'--watch' continues with a line for each connect (+) and disconnect (-), until
it is interrupted or the daemon stops.

A note says what in the config keeps peers away. In JSON and over HTTP there
are no notes, unless '--advice' asks for a line {"advice":"…"} for each. In
JSON, the latency is "latencyMs", and its age is "latencyAgeMs".
`,
	},
	Options: []cmds.Option{
		cmds.BoolOption(countOption, "Print only the number of connected peers."),
		cmds.BoolOption(watchOption, "w", "Continue with connects and disconnects."),
		cmds.BoolOption(keptOption, "List the kept peers, connected or not."),
		cmds.BoolOption(adviceOption, "Print what in the config keeps peers away; default: in text."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if _, ok := req.Options[adviceOption]; !ok && wantsText(req) {
			req.SetOption(adviceOption, true)
		}
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		if isSet(req, countOption) {
			n := d.Swarm.Count()
			return res.Emit(&peersLine{Count: &n})
		}
		if isSet(req, keptOption) {
			return emitAll(res, slices.Values(d.Swarm.Kept()), func(k swarm.KeptPeer) *peersLine {
				return &peersLine{PeerLine: &PeerLine{Peer: k.ID.String(), Kept: string(k.By), Connected: k.Connected}}
			})
		}
		if isSet(req, adviceOption) {
			advice, err := d.Advice()
			if err != nil {
				return err
			}
			err = emitAll(res, slices.Values(advice), func(a string) *peersLine { return &peersLine{Advice: a} })
			if err != nil {
				return err
			}
		}
		measuring, cancel := context.WithTimeout(req.Context, latencyWait)
		defer cancel()
		d.Swarm.Measure(measuring)
		peerLine := func(p swarm.Peer) *peersLine { return &peersLine{PeerLine: newPeerLine(p)} }
		if !isSet(req, watchOption) {
			return emitAll(res, slices.Values(d.Swarm.Peers()), peerLine)
		}
		peers, events := d.Swarm.Watch(req.Context)
		if err := emitAll(res, slices.Values(peers), peerLine); err != nil {
			return err
		}
		return emitEach(res, events, newPeerEventLine, func(err error) error {
			if interrupted(req, err) {
				return nil
			}
			return err
		})
	},
	PostRun: untilInterrupted,
	Type:    peersLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *peersLine) error {
			var err error
			switch {
			case l.Count != nil:
				_, err = fmt.Fprintln(w, *l.Count)
			case l.Advice != "":
				_, err = fmt.Fprintln(w, "note:", printable(l.Advice))
			case l.PeerLine == nil:
				err = errors.New("the daemon answered with a line without a peer")
			case l.Event == "disconnect":
				_, err = fmt.Fprintf(w, "- %s\n", l.Peer)
			case isSet(req, keptOption):
				state := "not connected"
				if l.Connected {
					state = "connected"
				}
				_, err = fmt.Fprintf(w, "%-52s  kept by %-6s  %s\n", l.Peer, l.Kept, state)
			case l.Event == "connect":
				_, err = fmt.Fprintf(w, "+ %s\n", l.row())
			case isSet(req, watchOption):
				_, err = fmt.Fprintf(w, "  %s\n", l.row())
			default:
				_, err = fmt.Fprintln(w, l.row())
			}
			return err
		}),
	},
}

func newPeerEventLine(e swarm.Event) *peersLine {
	l := newPeerLine(e.Peer)
	l.At, l.Connected, l.Event = &e.At, e.Connected, "connect"
	if !e.Connected {
		l.Event = "disconnect"
	}
	return &peersLine{PeerLine: l}
}

func newPeerLine(p swarm.Peer) *PeerLine {
	l := &PeerLine{
		Peer:      p.ID.String(),
		Addr:      addrString(p.Addr),
		LatencyMS: milliseconds(p.Latency),
		Agent:     p.Agent,
		Connected: true,
		Relayed:   p.Relayed,
		Kept:      string(p.Kept),
		NPP:       p.NPP,
		Topics:    p.Topics,
	}
	if !p.Measured.IsZero() {
		age := milliseconds(time.Since(p.Measured))
		l.LatencyAgeMS = &age
	}
	if p.Direction != network.DirUnknown {
		l.Direction = strings.ToLower(p.Direction.String())
	}
	if !p.Since.IsZero() {
		l.Since = &p.Since
	}
	return l
}

// row is the line for a connected peer.
func (l *PeerLine) row() string {
	latency, connection, kept, npp, age := "?", "direct", "-", "-", "?"
	if l.LatencyMS > 0 {
		latency = fmt.Sprintf("%.1fms", l.LatencyMS)
	}
	direction := cmp.Or(strings.TrimSuffix(l.Direction, "bound"), "?")
	if l.Relayed {
		connection = "relayed"
	}
	if l.Kept != "" {
		kept = "kept:" + l.Kept
	}
	if l.NPP {
		npp = "npp"
	}
	if l.Since != nil {
		age = since(*l.Since)
	}
	return fmt.Sprintf("%-52s  %8s  %-3s  %-7s  %-11s  %-3s  %-8s  %8s  %s  %s",
		l.Peer, latency, direction, connection, kept, npp, quantity(len(l.Topics), "topic", "topics"), age, printable(l.Agent), l.Addr)
}

func addrString(a ma.Multiaddr) string {
	if len(a) == 0 {
		return ""
	}
	return a.String()
}
