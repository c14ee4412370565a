package message_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

// node is a peer that sends and receives messages.
type node struct {
	host     host.Host
	store    *store.Store
	swarm    *swarm.Swarm
	messages *message.Service
}

func newNode(ctx context.Context) *node {
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	ds := dssync.MutexWrap(datastore.NewMapDatastore())
	s, err := swarm.New(ctx, swarm.Config{Host: h, Store: store.New(ds, "/swarm"), Protocol: message.Protocol})
	if err != nil {
		log.Fatal(err)
	}
	mailbox := store.New(ds, "/messages")
	m, err := message.New(message.Config{Host: h, Swarm: s, Store: mailbox, Limits: message.DefaultLimits()})
	if err != nil {
		log.Fatal(err)
	}
	return &node{h, mailbox, s, m}
}

func (n *node) close() {
	n.messages.Close()
	n.swarm.Close()
	n.store.Close()
	n.host.Close()
}

// Alice sends a message to Bob. The receipt proves that it is on Bob's disk.
func Example() {
	ctx := context.Background()
	alice, bob := newNode(ctx), newNode(ctx)
	defer alice.close()
	defer bob.close()

	data, err := message.Encode([]byte("rehearsal at eight"), false)
	if err != nil {
		log.Fatal(err)
	}
	outcome, err := alice.messages.Send(ctx, message.Outgoing{
		To:   peer.AddrInfo{ID: bob.host.ID(), Addrs: bob.host.Addrs()},
		Data: data,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(outcome.Status, "by way of a", outcome.Via, "stream")

	for m, err := range bob.messages.List(ctx, message.Filter{Since: message.SinceAll}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, from alice: %t\n", m.Data, m.From == alice.host.ID())
	}

	// Output:
	// delivered by way of a direct stream
	// "rehearsal at eight", from alice: true
}
