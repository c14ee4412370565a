package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/swarm"
)

const (
	keepOption        = "keep"
	forgetOption      = "forget"
	dialTimeoutOption = "dial-timeout"

	defaultDialTimeout = 30 * time.Second

	// maxTargets bounds the peers of one command, which are dialled in
	// parallel.
	maxTargets = 256
)

// connectLine is a line of `npp connect`: how a peer was reached, or why not.
type connectLine struct {
	Peer      string    `json:"peer"`
	OK        bool      `json:"ok"`
	Way       string    `json:"way,omitempty"` // the route: "open connection", "known address", …
	Addr      string    `json:"addr,omitempty"`
	Relayed   bool      `json:"relayed"`
	MS        float64   `json:"ms"`
	Kept      bool      `json:"kept,omitempty"`
	Forgotten bool      `json:"forgot,omitempty"`
	Tried     []tryLine `json:"tried,omitempty"` // routes that failed before
	Error     string    `json:"error,omitempty"`
}

// tryLine is a route that failed.
type tryLine struct {
	Way   string  `json:"way"`
	Addr  string  `json:"addr,omitempty"`
	Error string  `json:"error"`
	MS    float64 `json:"ms"`
}

var connectCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Connect to peers.",
		ShortDescription: `
Connects to each peer and prints how it was reached or, for each attempt, why
it failed. The command tries, in this order, an open connection, the addresses
that are given or known, the addresses that routing finds (DHT or delegated),
and the relays that this peer is connected to.

  > ipfs npp connect 12D3KooW…
  connected 12D3KooW… by routing: /ip4/203.0.113.7/tcp/4001, direct, 81.3 ms

A peer is one of:

  - a peer ID, in any encoding;
  - a multiaddr that ends in /p2p/<peer ID>, or in the old /ipfs/<peer ID>;
  - /p2p-circuit/ipfs/<peer ID>, for any relay;
  - the name of a companion ('ipfs npp companions --help').

'--keep' remembers the peer and connects again whenever the connection is
lost, also after a restart; '--forget' ends that. Peers in Peering.Peers of
the config are always kept.
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("peer", true, true, "Peer ID, multiaddr or name of a companion."),
	},
	Options: []cmds.Option{
		cmds.StringOption(dialTimeoutOption, "Give up on a peer after this time.").WithDefault(defaultDialTimeout.String()),
		cmds.BoolOption(keepOption, "Keep the connection from now on, also after restarts."),
		cmds.BoolOption(forgetOption, "Stop keeping the connection, but do not disconnect."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		if isSet(req, keepOption) && isSet(req, forgetOption) {
			return errors.New("--keep and --forget cannot be combined; hint: use one of them")
		}
		timeout, err := durationOption(req, dialTimeoutOption)
		if err != nil {
			return err
		}
		if len(req.Arguments) > maxTargets {
			return fmt.Errorf("%d peers are too many at once, because the limit is %d; hint: use several commands", len(req.Arguments), maxTargets)
		}
		targets := make([]peer.AddrInfo, len(req.Arguments))
		for i, arg := range req.Arguments {
			if targets[i], err = resolvePeer(req.Context, req, d, arg); err != nil {
				return err
			}
		}
		lines := make(chan *connectLine)
		for _, t := range targets {
			go func() {
				if isSet(req, forgetOption) {
					lines <- forget(req.Context, d, t.ID)
				} else {
					lines <- connect(req.Context, d, t, timeout, isSet(req, keepOption))
				}
			}()
		}
		failed := 0
		var emitErr error
		for range targets {
			l := <-lines
			if !l.OK {
				failed++
			}
			if emitErr == nil {
				emitErr = res.Emit(l)
			}
		}
		if failed > 0 && emitErr == nil {
			return fmt.Errorf("%d of %d failed", failed, len(targets))
		}
		return emitErr
	},
	Type:     connectLine{},
	Encoders: encodeText((*connectLine).text),
}

func connect(ctx context.Context, d *daemon.Daemon, target peer.AddrInfo, timeout time.Duration, keep bool) *connectLine {
	l := &connectLine{Peer: target.ID.String()}
	if keep {
		if err := d.Swarm.Keep(ctx, target); err != nil {
			l.Error = err.Error()
			return l
		}
		if lib, err := d.Library(); err == nil {
			if err := lib.MarkPeerManual(ctx, target.ID); err != nil {
				l.Error = err.Error()
				return l
			}
		}
		l.Kept = true
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	route, err := d.Swarm.Connect(ctx, target)
	l.MS = milliseconds(time.Since(start))
	l.Tried = tryLines(route.Tried)
	if err != nil {
		l.Error = err.Error()
		var failure *swarm.ConnectError
		if errors.As(err, &failure) {
			l.Tried = tryLines(failure.Tried)
		}
		return l
	}
	l.OK, l.Way, l.Addr, l.Relayed = true, string(route.Way), addrString(route.Addr), route.Relayed
	return l
}

func forget(ctx context.Context, d *daemon.Daemon, id peer.ID) *connectLine {
	l := &connectLine{Peer: id.String()}
	err := d.Swarm.Forget(ctx, id)
	switch {
	case errors.Is(err, swarm.ErrPinned):
		l.Error = fmt.Sprintf("%s is kept because it is in Peering.Peers of the config; hint: remove it there: ipfs config edit", id)
	case err != nil:
		l.Error = err.Error()
	default:
		l.OK, l.Forgotten = true, true
	}
	return l
}

func tryLines(tried []swarm.Attempt) []tryLine {
	var out []tryLine
	for _, t := range tried {
		out = append(out, tryLine{Way: string(t.Way), Addr: addrString(t.Addr), Error: t.Err.Error(), MS: milliseconds(t.Took)})
	}
	return out
}

func (l *connectLine) text() string {
	if l.Forgotten {
		return fmt.Sprintf("forgot %s\n", l.Peer)
	}
	kept := ""
	if l.Kept {
		kept = ", kept"
	}
	if !l.OK && len(l.Tried) > 0 {
		return fmt.Sprintf("failed %s: no way there%s\n%s", l.Peer, kept, attemptsText(l.Tried))
	}
	if !l.OK {
		return fmt.Sprintf("failed %s: %s%s\n", l.Peer, printable(l.Error), kept)
	}
	way := "direct"
	if l.Relayed {
		way = "relayed"
	}
	return fmt.Sprintf("connected %s by %s: %s, %s, %.1f ms%s\n", l.Peer, l.Way, l.Addr, way, l.MS, kept) + attemptsText(l.Tried)
}

// attemptsText is a line for each route that failed.
func attemptsText(tried []tryLine) string {
	var b strings.Builder
	for _, t := range tried {
		b.WriteString("  tried " + t.Way)
		if t.Addr != "" {
			b.WriteString(" " + t.Addr)
		}
		b.WriteString(": " + printable(t.Error) + "\n")
	}
	return b.String()
}
