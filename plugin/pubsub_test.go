package plugin

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/ipfs/kubo/config"
	"github.com/ipfs/kubo/core"
	"github.com/ipfs/kubo/core/node/helpers"
	"github.com/ipfs/kubo/repo"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"

	"github.com/newpieceplease/npp/daemon"
)

// noDiscovery is the discovery service that kubo provides if it would build a
// router itself.
type noDiscovery struct{ discovery.Discovery }

func newHost(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// decorate runs decoratePubsub as a node with that configuration does.
func decorate(t *testing.T, p *Plugin, edit func(*config.PubsubConfig)) (*pubsub.PubSub, error) {
	t.Helper()
	r := &repo.Mock{D: dssync.MutexWrap(datastore.NewMapDatastore())}
	edit(&r.C.Pubsub)
	in := pubsubIn{Metrics: t.Context(), Lifecycle: fxtest.NewLifecycle(t), Repo: r, Host: newHost(t)}
	if r.C.Pubsub.Enabled == config.True {
		in.Discovery = noDiscovery{}
	}
	return p.decoratePubsub(in)
}

func TestPubsubWorksUnlessSwitchedOff(t *testing.T) {
	for flag, want := range map[config.Flag]bool{config.Default: true, config.True: true, config.False: false} {
		p := &Plugin{}
		ps, err := decorate(t, p, func(c *config.PubsubConfig) { c.Enabled = flag })
		if err != nil || (ps != nil) != want || (p.router != nil) != want {
			t.Errorf("Pubsub.Enabled %v: %v, %v", flag, ps, err)
		}
		if ps != nil && p.router.PubSub() != ps {
			t.Errorf("Pubsub.Enabled %v: npp's router is not the node's", flag)
		}
	}
}

func TestPubsubKeysKeepTheirMeaning(t *testing.T) {
	for _, test := range []struct {
		name     string
		edit     func(*config.PubsubConfig)
		protocol string // of the router
		says     string // part of the error, if one is expected
	}{
		{"defaults", func(c *config.PubsubConfig) {}, "/meshsub/1.2.0", ""},
		{"gossipsub", func(c *config.PubsubConfig) { c.Router = "gossipsub" }, "/meshsub/1.2.0", ""},
		{"floodsub", func(c *config.PubsubConfig) { c.Router = "floodsub" }, "/floodsub/1.0.0", ""},
		{"other router", func(c *config.PubsubConfig) { c.Router = "loudsub" }, "", `Pubsub.Router "loudsub" is not known`},
		{"last-seen", func(c *config.PubsubConfig) { c.SeenMessagesStrategy = config.NewOptionalString("last-seen") }, "/meshsub/1.2.0", ""},
		{"first-seen", func(c *config.PubsubConfig) { c.SeenMessagesStrategy = config.NewOptionalString("first-seen") }, "/meshsub/1.2.0", ""},
		{"other strategy", func(c *config.PubsubConfig) { c.SeenMessagesStrategy = config.NewOptionalString("never-seen") }, "", `Pubsub.SeenMessagesStrategy "never-seen" is not known`},
		{"no signing", func(c *config.PubsubConfig) { c.DisableSigning = true }, "/meshsub/1.2.0", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &repo.Mock{D: dssync.MutexWrap(datastore.NewMapDatastore())}
			test.edit(&r.C.Pubsub)
			h := newHost(t)
			ps, err := (&Plugin{}).decoratePubsub(pubsubIn{Metrics: t.Context(), Lifecycle: fxtest.NewLifecycle(t), Repo: r, Host: h})
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("got %v, want %s", err, test.says)
				}
				return
			}
			if err != nil || ps == nil {
				t.Fatalf("%v, %v", ps, err)
			}
			spoken := make(map[string]bool)
			for _, p := range h.Mux().Protocols() {
				spoken[string(p)] = true
			}
			if !spoken[test.protocol] || test.protocol == "/floodsub/1.0.0" && spoken["/meshsub/1.2.0"] {
				t.Errorf("want %s: %v", test.protocol, spoken)
			}
			published := make(chan *pubsub.Message, 1)
			sub, err := ps.Subscribe("a topic")
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				m, err := sub.Next(t.Context())
				if err == nil {
					published <- m
				}
				close(published)
			}()
			if err := ps.Publish("a topic", []byte("hello")); err != nil {
				t.Fatal(err)
			}
			m := <-published
			if m == nil || (m.Signature == nil) != (test.name == "no signing") {
				t.Errorf("published %v", m)
			}
		})
	}
}

// offlineNode builds a node without a host, as kubo does for an offline
// command.
func offlineNode(t *testing.T, p *Plugin) *fxtest.App {
	t.Helper()
	options, err := p.Options(core.FXNodeInfo{FXOptions: []fx.Option{
		fx.NopLogger,
		fx.Provide(
			func() helpers.MetricsCtx { return t.Context() },
			func() repo.Repo { return &repo.Mock{} },
			func() *pubsub.PubSub { return nil },
		),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return fxtest.New(t, options...)
}

func TestOptionsDoNothingWithoutAHost(t *testing.T) {
	p := &Plugin{}
	offlineNode(t, p).RequireStart().RequireStop()
	if p.router != nil || p.daemon != nil || p.state != nil {
		t.Errorf("something was done: %+v", p)
	}
}

func TestNodeStopsNPPByItsHook(t *testing.T) {
	p := &Plugin{daemon: newDaemon(t), loaded: true}
	app := offlineNode(t, p).RequireStart()
	if _, err := p.current(); err != nil {
		t.Fatalf("after the start: %v", err)
	}
	app.RequireStop()
	if _, err := p.current(); !errors.Is(err, daemon.ErrStopping) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestSequenceNumbersAreWhereKuboKeepsThem(t *testing.T) {
	ds := dssync.MutexWrap(datastore.NewMapDatastore())
	author := newHost(t).ID()
	s := seqnos{ds}
	if v, err := s.Get(t.Context(), author); v != nil || err != nil {
		t.Errorf("of an unknown author: %v, %v", v, err)
	}
	if err := s.Put(t.Context(), author, []byte{7}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get(t.Context(), author); !bytes.Equal(v, []byte{7}) || err != nil {
		t.Errorf("put 7, got %v, %v", v, err)
	}
	if v, err := ds.Get(t.Context(), datastore.NewKey("/pubsub/seqno/"+author.String())); !bytes.Equal(v, []byte{7}) || err != nil {
		t.Errorf("at kubo's key: %v, %v", v, err)
	}
}
