package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// peersLine is one line of `npp peers`: a peer, with or without an event, or else
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
	LatencyAgeMS *float64   `json:"latencyAgeMs,omitempty"` // since LatencyMS was measured
	Direction    string     `json:"direction,omitempty"`    // "inbound" or "outbound"
	Agent        string     `json:"agent,omitempty"`
	Since        *time.Time `json:"since,omitempty"`
	Connected    bool       `json:"connected"`
	Relayed      bool       `json:"relayed"`
	Kept         string     `json:"kept,omitempty"` // "npp" (connect --keep) or "config" (Peering.Peers)
	NPP          bool       `json:"npp"`
	Topics       []string   `json:"topics,omitempty"` // pubsub topics that both of us are subscribed to
}

var peersCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the connected peers.",
		ShortDescription: `
'ipfs npp peers' prints a line for each connected peer: its peer ID, latency,
direction, how it is connected, whether the connection is kept ('connect
--keep', or Peering.Peers of the config), whether it speaks npp's protocol,
how many pubsub topics it shares with us, since when, its agent, and its
address.

  > ipfs npp peers
  12D3KooW…  0.4ms  out  direct  -  npp  1 topic  5m12s  kubo/0.43.1/…  /ip4/…

  > ipfs npp peers --count
  1

'--watch' goes on with a line for each connect (+) and disconnect (-) until it
is interrupted, or the daemon stops.

A latency is measured for the list, at most 30 seconds before it; '?' stands
for that of a peer that has not answered. In JSON it is "latencyMs", and how
old it is "latencyAgeMs".

A note says what in the config keeps peers away; 'ipfs npp status' does, too.
In JSON and over the RPC there are peers alone, unless '--advice' asks for a
line {"advice":"…"} for each note.
`,
	},
	Options: []cmds.Option{
		cmds.BoolOption(countOption, "Print the number of connected peers only."),
		cmds.BoolOption(watchOption, "w", "Go on printing connects and disconnects."),
		cmds.BoolOption(keptOption, "List the peers that are kept, connected or not."),
		cmds.BoolOption(adviceOption, "Say what in the config keeps peers away; in text, if not given."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if _, ok := req.Options[adviceOption]; !ok && wantsText(req) {
			req.SetOption(adviceOption, true)
		}
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemon(env)
		if err != nil {
			return err
		}
		if isSet(req, countOption) {
			n := d.Swarm.Count()
			return res.Emit(&peersLine{Count: &n})
		}
		if isSet(req, keptOption) {
			for _, k := range d.Swarm.Kept() {
				line := &PeerLine{Peer: k.ID.String(), Kept: string(k.By), Connected: k.Connected}
				if err := res.Emit(&peersLine{PeerLine: line}); err != nil {
					return err
				}
			}
			return nil
		}
		if isSet(req, adviceOption) {
			advice, err := d.Advice()
			if err != nil {
				return err
			}
			for _, a := range advice {
				if err := res.Emit(&peersLine{Advice: a}); err != nil {
					return err
				}
			}
		}
		measuring, cancel := context.WithTimeout(req.Context, latencyWait)
		defer cancel()
		d.Swarm.Measure(measuring)
		if !isSet(req, watchOption) {
			for _, p := range d.Swarm.Peers() {
				if err := res.Emit(&peersLine{PeerLine: newPeerLine(p)}); err != nil {
					return err
				}
			}
			return nil
		}
		peers, events := d.Swarm.Watch(req.Context)
		for _, p := range peers {
			if err := res.Emit(&peersLine{PeerLine: newPeerLine(p)}); err != nil {
				return err
			}
		}
		for e, err := range events {
			if err != nil {
				if interrupted(req, err) {
					return nil
				}
				return err
			}
			line := newPeerLine(e.Peer)
			line.At, line.Connected, line.Event = &e.At, e.Connected, "connect"
			if !e.Connected {
				line.Event = "disconnect"
			}
			if err := res.Emit(&peersLine{PeerLine: line}); err != nil {
				return err
			}
		}
		return nil
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
				err = errors.New("the daemon answered with a line that is of no peer")
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
	latency, direction, way, kept, npp, since := "?", "?", "direct", "-", "-", "?"
	if l.LatencyMS > 0 {
		latency = fmt.Sprintf("%.1fms", l.LatencyMS)
	}
	if l.Direction != "" {
		direction = strings.TrimSuffix(l.Direction, "bound")
	}
	if l.Relayed {
		way = "relayed"
	}
	if l.Kept != "" {
		kept = "kept:" + l.Kept
	}
	if l.NPP {
		npp = "npp"
	}
	topics := quantity(len(l.Topics), "topic", "topics")
	if l.Since != nil {
		since = time.Since(*l.Since).Round(time.Second).String()
	}
	return fmt.Sprintf("%-52s  %8s  %-3s  %-7s  %-11s  %-3s  %-8s  %8s  %s  %s",
		l.Peer, latency, direction, way, kept, npp, topics, since, printable(l.Agent), l.Addr)
}

func isSet(req *cmds.Request, option string) bool {
	v, _ := req.Options[option].(bool)
	return v
}

func addrString(a ma.Multiaddr) string {
	if len(a) == 0 {
		return ""
	}
	return a.String()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
