package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/newpieceplease/npp/test/ipfs"
)

// connectedPeers is the number of peers that are listed.
const connectedPeers = 200

// newHost returns a libp2p host on TCP that listens on the addresses, if any.
func newHost(listen ...string) (host.Host, error) {
	options := []libp2p.Option{
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.UserAgent("npp-bench"),
	}
	if len(listen) == 0 {
		options = append(options, libp2p.NoListenAddrs)
	} else {
		options = append(options, libp2p.ListenAddrStrings(listen...))
	}
	return libp2p.New(options...)
}

// benchPeers lists the peers of one daemon, with npp and with kubo.
func benchPeers(ctx context.Context, b *bench) (*section, error) {
	n, err := startNode(ctx, b, b.npp, ipfs.Config{"Swarm.ConnMgr.Type": "none"})
	if err != nil {
		return nil, err
	}
	defer n.stop()
	hosts, err := crowd(ctx, n, connectedPeers)
	defer func() {
		for _, h := range hosts {
			h.Close()
		}
	}()
	if err != nil {
		return nil, err
	}

	// each way with a mark that its answer has once per peer
	ways := []struct {
		path  string
		query url.Values
		mark  string
	}{
		{"npp/peers", nil, `"peer":`},
		{"swarm/peers", url.Values{"verbose": {"true"}}, `"Peer":`},
	}
	p50, p90 := make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways))
	rounds, calls := b.pick(20, 5), 50
	for range rounds {
		took := make([][]time.Duration, len(ways))
		for range calls {
			for i, way := range ways {
				began := time.Now()
				answer, err := n.rpc.Call(ctx, way.path, way.query, nil)
				took[i] = append(took[i], time.Since(began))
				if err != nil {
					return nil, err
				}
				if got := bytes.Count(answer, []byte(way.mark)); got != connectedPeers {
					return nil, fmt.Errorf("%s lists %d peers, want %d", way.path, got, connectedPeers)
				}
			}
		}
		for i := range ways {
			p50[i] = append(p50[i], median(took[i]))
			p90[i] = append(p90[i], percentile(took[i], 90))
		}
	}
	s := &section{
		title: fmt.Sprintf("`npp peers` with %d peers", connectedPeers),
		how: fmt.Sprintf("%d libp2p hosts (TCP, noise, yamux) are connected to one daemon with `Swarm.ConnMgr.Type` none. "+
			"Both RPC calls go to that daemon in turns and are timed from the request to the last byte of the answer; %d rounds of %d calls each.",
			connectedPeers, rounds, calls),
	}
	quotients := ratios(p50[0], p50[1])
	s.row("", "`npp/peers`", "`swarm/peers?verbose=true`", "ratio", "middle half")
	s.row("p50", ms(median(p50[0])), ms(median(p50[1])), ratio(quotients), spread(quotients))
	s.row("p90", ms(median(p90[0])), ms(median(p90[1])), ratio(ratios(p90[0], p90[1])), spread(ratios(p90[0], p90[1])))
	s.verdict(median(quotients) <= 1, "`npp/peers` is no slower than kubo's list with the same details; the ratio of the p50s is %s.",
		ratio(quotients))
	return s, nil
}

// crowd connects new hosts to the daemon and returns when the daemon has
// identified them all. The caller closes them, even if there is an error.
func crowd(ctx context.Context, n *node, count int) ([]host.Host, error) {
	addr, err := n.addr(ctx)
	if err != nil {
		return nil, err
	}
	a, err := ma.NewMultiaddr(addr)
	if err != nil {
		return nil, err
	}
	info, err := peer.AddrInfoFromP2pAddr(a)
	if err != nil {
		return nil, err
	}
	var hosts []host.Host
	for range count {
		h, err := newHost()
		if err != nil {
			return hosts, err
		}
		hosts = append(hosts, h)
		if err := h.Connect(ctx, *info); err != nil {
			return hosts, err
		}
	}
	return hosts, await(ctx, "the daemon to identify its peers", func() (bool, error) {
		answer, err := n.rpc.Call(ctx, "npp/peers", nil, nil)
		if err != nil {
			return false, err
		}
		known := 0
		for d := json.NewDecoder(bytes.NewReader(answer)); d.More(); {
			var line struct{ Agent string }
			if err := d.Decode(&line); err != nil {
				return false, err
			}
			if line.Agent != "" {
				known++
			}
		}
		return known == count, nil
	})
}
