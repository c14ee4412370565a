package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ipfs/go-datastore"
	logging "github.com/ipfs/go-log/v2"
	"github.com/ipfs/kubo/config"
	"github.com/ipfs/kubo/core/node/helpers"
	"github.com/ipfs/kubo/core/node/libp2p"
	"github.com/ipfs/kubo/repo"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p-pubsub/timecache"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	"go.uber.org/fx"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/router"
)

// pubsubIn is the input of decoratePubsub. The nodes of offline commands lack
// the optional fields.
type pubsubIn struct {
	fx.In

	Metrics   helpers.MetricsCtx
	Lifecycle fx.Lifecycle
	Repo      repo.Repo              `optional:"true"`
	Host      host.Host              `optional:"true"`
	Routing   routing.ContentRouting `optional:"true"`
	Discovery discovery.Discovery    `optional:"true"` // set if kubo would build a router
}

// decoratePubsub replaces kubo's router with npp's, or returns nil. It builds a
// router if kubo would, and also if Pubsub.Enabled is unset. It reads the same
// keys of the configuration.
func (p *Plugin) decoratePubsub(in pubsubIn) (*pubsub.PubSub, error) {
	if in.Host == nil || in.Repo == nil {
		return nil, nil
	}
	cfg, err := in.Repo.Config()
	if err != nil {
		return nil, err
	}
	if in.Discovery == nil {
		if cfg.Pubsub.Enabled == config.False {
			return nil, nil
		}
		if in.Routing != nil {
			build := libp2p.TopicDiscovery().(func(host.Host, routing.ContentRouting) (discovery.Discovery, error))
			if in.Discovery, err = build(in.Host, in.Routing); err != nil {
				return nil, err
			}
		}
	}
	o := router.Options{
		Discovery:        in.Discovery,
		DefaultValidator: pubsub.NewBasicSeqnoValidator(seqnos{in.Repo.Datastore()}, slog.New(logging.SlogHandler()).With("logger", "pubsub")),
		Extra: []pubsub.Option{
			pubsub.WithMessageSigning(!cfg.Pubsub.DisableSigning),
			pubsub.WithSeenMessagesTTL(cfg.Pubsub.SeenMessagesTTL.WithDefault(pubsub.TimeCacheDuration)),
		},
	}
	switch strategy := cfg.Pubsub.SeenMessagesStrategy.WithDefault(config.DefaultSeenMessagesStrategy); strategy {
	case config.LastSeenMessagesStrategy:
		o.Extra = append(o.Extra, pubsub.WithSeenMessagesStrategy(timecache.Strategy_LastSeen))
	case config.FirstSeenMessagesStrategy:
		o.Extra = append(o.Extra, pubsub.WithSeenMessagesStrategy(timecache.Strategy_FirstSeen))
	default:
		return nil, fmt.Errorf("Pubsub.SeenMessagesStrategy %q is not known", strategy)
	}
	switch cfg.Pubsub.Router {
	case "", "gossipsub":
	case "floodsub":
		o.Floodsub = true
	default:
		return nil, fmt.Errorf("Pubsub.Router %q is not known", cfg.Pubsub.Router)
	}
	r, err := daemon.NewRouter(helpers.LifecycleCtx(in.Metrics, in.Lifecycle), in.Host, o)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.router = r
	return r.PubSub(), nil
}

// seqnos stores the highest sequence number of each author under the keys that
// kubo uses, so that npp and stock daemons on the same repo share them.
type seqnos struct{ ds datastore.Datastore }

var _ pubsub.PeerMetadataStore = seqnos{}

func seqnoKey(author peer.ID) datastore.Key {
	return datastore.NewKey(libp2p.SeqnoStorePrefix + author.String())
}

func (s seqnos) Get(ctx context.Context, author peer.ID) ([]byte, error) {
	v, err := s.ds.Get(ctx, seqnoKey(author))
	if errors.Is(err, datastore.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

func (s seqnos) Put(ctx context.Context, author peer.ID, seqno []byte) error {
	return s.ds.Put(ctx, seqnoKey(author), seqno)
}
