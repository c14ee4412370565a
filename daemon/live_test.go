package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/store"
)

func newHost(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// fullRouter is a router that opens no more topics.
type fullRouter struct{}

func (fullRouter) Follow(string, router.ForwardFunc) (func(), error) {
	return nil, &router.TopicLimitError{Topics: 7000}
}
func (fullRouter) Announce(context.Context, string, []byte) error        { return nil }
func (fullRouter) OnSubscription(func(p peer.ID, topic string, on bool)) {}
func (fullRouter) ListPeers(string) []peer.ID                            { return nil }
func (fullRouter) Unmeshed(string) []peer.ID                             { return nil }

func TestStatusSaysWhichDatabasesAreNotLive(t *testing.T) {
	ctx := t.Context()
	disk := dssync.MutexWrap(datastore.NewMapDatastore())
	stores := []*store.Store{store.New(disk, "/orbit"), store.New(disk, "/replicate")}
	keys := keystore.NewMemKeystore()
	for _, key := range []string{rootKey, signingKey} {
		if err := identity.Generate(keys, key); err != nil {
			t.Fatal(err)
		}
	}
	o, err := orbit.New(ctx, orbit.Config{Store: stores[0], Keystore: keys, RootKey: rootKey, SigningKey: signingKey})
	if err != nil {
		t.Fatal(err)
	}
	r, err := replicate.New(ctx, replicate.Config{Orbit: o, Store: stores[1], Host: newHost(t), Router: fullRouter{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		r.Close()
		o.Close()
		for _, s := range stores {
			s.Close()
		}
	}()
	d := &Daemon{replicator: r}
	var s Status
	if d.statusOfTopics(&s); len(s.NotLive)+len(s.Attention) != 0 {
		t.Errorf("without a database: %+v", s)
	}
	db, err := o.Create(ctx, "gigs", orbit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for tried, err := range r.Follow(ctx, db.Address()) {
		if err != nil {
			t.Fatal(err)
		}
		if tried.NotLive != nil {
			break
		}
	}
	d.statusOfTopics(&s)
	if !slices.Equal(s.NotLive, []string{db.Address()}) || len(s.Attention) != 1 {
		t.Fatalf("status: %+v", s)
	}
	a := s.Attention[0]
	if a.About != "databases" || !errors.Is(a.Err, router.ErrTooManyTopics) || !strings.Contains(a.Err.Error(), "1 database is not live") || !strings.HasPrefix(a.Advice, TopicsAdvice) {
		t.Errorf("attention: %+v", a)
	}
}
