package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	levelds "github.com/ipfs/go-ds-leveldb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

const (
	// messageBytes is the size of a message.
	messageBytes = 200
	// messagesNamespace is the datastore namespace of a daemon's messages.
	messagesNamespace = "/npp/messages"

	sendBar = time.Millisecond
)

// payload returns a message of messageBytes bytes, a JSON string.
func payload() []byte {
	b, err := json.Marshal(string(bytes.Repeat([]byte{'x'}, messageBytes-2)))
	if err != nil {
		panic(err) // a string is JSON
	}
	return b
}

// end is a message service with a host and a datastore of its own.
type end struct {
	host    host.Host
	service *message.Service
	close   []func() error
}

// newEnd opens the datastore at path, with kubo's options or without syncing.
func newEnd(ctx context.Context, path string, sync bool, limits message.Limits) (_ *end, err error) {
	e := &end{}
	defer func() {
		if err != nil {
			e.stop()
		}
	}()
	ds, err := levelds.NewDatastore(path, &levelds.Options{Compression: opt.NoCompression, NoSync: !sync})
	if err != nil {
		return nil, fmt.Errorf("open datastore %s: %w", path, err)
	}
	e.close = append(e.close, ds.Close)
	messages, peers := store.New(ds, messagesNamespace), store.New(ds, "/npp/swarm")
	e.close = append(e.close, messages.Close, peers.Close)
	if e.host, err = newHost("/ip4/127.0.0.1/tcp/0"); err != nil {
		return nil, err
	}
	e.close = append(e.close, e.host.Close)
	sw, err := swarm.New(ctx, swarm.Config{Host: e.host, Store: peers, Protocol: message.Protocol})
	if err != nil {
		return nil, err
	}
	e.close = append(e.close, sw.Close)
	e.service, err = message.New(message.Config{Host: e.host, Swarm: sw, Store: messages, Limits: limits})
	if err != nil {
		return nil, err
	}
	e.close = append(e.close, e.service.Close)
	return e, nil
}

func (e *end) stop() {
	for i := len(e.close) - 1; i >= 0; i-- {
		e.close[i]()
	}
}

// deliver sends data to the other end and fails unless it is delivered.
func (e *end) deliver(ctx context.Context, to *end, data []byte) (id string, err error) {
	info := peer.AddrInfo{ID: to.host.ID(), Addrs: to.host.Addrs()}
	out, err := e.service.Send(ctx, message.Outgoing{To: info, Data: data})
	if err == nil && out.Status != message.Delivered {
		err = fmt.Errorf("a message is %s, not delivered", out.Status)
	}
	return out.ID, err
}

// benchSend measures Send between two services in this process.
func benchSend(ctx context.Context, b *bench) (*section, error) {
	const warmUp, messages = 100, 2000
	rounds := b.pick(7, 3)
	percentiles := []int{50, 90, 99}
	sides := []string{"synced", "not synced"}
	took := make([][][]time.Duration, len(sides)) // by side and percentile
	for i := range sides {
		took[i] = make([][]time.Duration, len(percentiles))
	}
	var syncs []time.Duration
	for range rounds {
		for i, side := range sides {
			d, err := sendRound(ctx, b.Dir, side == "synced", warmUp, messages)
			if err != nil {
				return nil, err
			}
			for k, p := range percentiles {
				took[i][k] = append(took[i][k], percentile(d, p))
			}
		}
		d, err := syncRound(b.Dir, 500)
		if err != nil {
			return nil, err
		}
		syncs = append(syncs, median(d))
	}
	s := &section{
		title: "`send`, acknowledged, inside the daemon",
		how: fmt.Sprintf("`message.Service.Send` between two libp2p hosts in one process over loopback TCP, one message of %d bytes after another, "+
			"timed until the receipt, which the recipient sends when the message is on its disk: kubo's leveldb with its settings, and the same without syncing. "+
			"%d rounds of %d messages each, each round on new repos, with the default limits.", messageBytes, rounds, messages),
	}
	s.row("", "on disk", "without the sync", "the sync's share")
	for k, p := range percentiles {
		on, off := median(took[0][k]), median(took[1][k])
		s.row(fmt.Sprintf("p%d", p), ms(on), ms(off), ms(on-off))
	}
	s.row("append 512 bytes to a file and sync, p50", ms(median(syncs)), "", "")
	on, off := median(took[0][0]), median(took[1][0])
	s.verdict(on <= sendBar, "half of the messages are acknowledged within 1 ms; the p50 is %s, of which npp and libp2p take %s and the disk the rest.", ms(on), ms(off))
	return s, nil
}

// sendRound measures sends on new datastores.
func sendRound(ctx context.Context, dir string, sync bool, warmUp, messages int) ([]time.Duration, error) {
	var ends [2]*end
	for i := range ends {
		path, err := os.MkdirTemp(dir, "datastore-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(path)
		if ends[i], err = newEnd(ctx, path, sync, message.DefaultLimits()); err != nil {
			return nil, err
		}
		defer ends[i].stop()
	}
	data := payload()
	var took []time.Duration
	for i := range warmUp + messages {
		began := time.Now()
		if _, err := ends[0].deliver(ctx, ends[1], data); err != nil {
			return nil, err
		}
		if i >= warmUp {
			took = append(took, time.Since(began))
		}
	}
	return took, nil
}

// syncRound measures how long the disk takes to make a small append durable.
func syncRound(dir string, appends int) ([]time.Duration, error) {
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 512)
	var took []time.Duration
	for range appends {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}
