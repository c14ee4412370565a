package replicate_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/store"
)

// Two peers in one process: one creates a database, the other one opens it by
// its address and reads it.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// A peer is a host, pubsub and bitswap. The blocks of the databases are
	// below its block store, so that bitswap serves them.
	newPeer := func() (host.Host, *orbit.Orbit, *replicate.Replicator) {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			log.Fatal(err)
		}
		ps, err := pubsub.NewGossipSub(ctx, h, pubsub.WithFloodPublish(true))
		if err != nil {
			log.Fatal(err)
		}
		disk := dssync.MutexWrap(datastore.NewMapDatastore())
		databases := store.New(disk, "/orbitdb")
		bs := orbit.Overlay(blockstore.NewBlockstore(disk), databases)
		swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(h), nil, bs)
		o, err := orbit.New(ctx, orbit.Config{
			Store: databases, Keystore: keystore.NewMemKeystore(), Source: bs, Announce: swap.NotifyNewBlocks,
		})
		if err != nil {
			log.Fatal(err)
		}
		r, err := replicate.New(ctx, replicate.Config{
			Orbit: o, Store: store.New(disk, "/replication"), Host: h, Router: replicate.PubSub(ps), Exchange: swap,
		})
		if err != nil {
			log.Fatal(err)
		}
		return h, o, r
	}
	aliceHost, alice, aliceReplicator := newPeer()
	bobHost, bob, bobReplicator := newPeer()

	// Alice creates a database, which is replicated from now on, and puts a
	// document.
	db, err := alice.Create(ctx, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	if err != nil {
		log.Fatal(err)
	}
	pieces, err := db.Documents()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pieces.Put(ctx, map[string]any{"_id": "bwv846", "title": "Prelude in C"}); err != nil {
		log.Fatal(err)
	}

	// Bob connects, opens the database, and waits until he is in sync with a
	// peer.
	if err := bobHost.Connect(ctx, peer.AddrInfo{ID: aliceHost.ID(), Addrs: aliceHost.Addrs()}); err != nil {
		log.Fatal(err)
	}
	begun := time.Now()
	if err := bobReplicator.Open(ctx, db.Address(), orbit.OpenOptions{}); err != nil {
		log.Fatal(err)
	}
	for status, err := range bobReplicator.Follow(ctx, db.Address()) {
		if err != nil {
			log.Fatal(err)
		}
		if status.Settled(begun) {
			break
		}
	}
	replica, err := bob.Find(ctx, db.Address())
	if err != nil {
		log.Fatal(err)
	}
	documents, err := replica.Documents()
	if err != nil {
		log.Fatal(err)
	}
	item, err := documents.Get(ctx, "bwv846")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(replica.Name(), item.Key, item.Value)

	// Each part is closed before those that it uses.
	for _, c := range []interface{ Close() error }{aliceReplicator, bobReplicator, alice, bob, aliceHost, bobHost} {
		if err := c.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// pieces "bwv846" {"_id":"bwv846","title":"Prelude in C"}
}
