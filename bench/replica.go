package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/newpieceplease/npp/test/ipfs"
)

// joinPatience is how long an entry may take to arrive with its ancestors.
const joinPatience = 5 * time.Minute

// replica is a process that replicates databases of documents. Each database is
// identified by its name.
type replica interface {
	// open creates or opens a database that anybody may write.
	open(ctx context.Context, name string) error
	// follow makes await see new entries of a database, except the first ones,
	// whose number is after.
	follow(ctx context.Context, name string, after int) error
	// await returns the time at which an entry and its ancestors were there.
	await(ctx context.Context, hash string) (time.Time, error)
	// put puts the i-th document.
	put(ctx context.Context, name string, i int) (written, error)
	// fill puts n documents and returns the hash of the last entry.
	fill(ctx context.Context, name string, n int) (string, error)
	count(ctx context.Context, name string) (int, error)
	addr(ctx context.Context) (string, error)
	connect(ctx context.Context, addr string) error
	// connections returns the multiaddrs of the connected peers.
	connections(ctx context.Context) ([]string, error)
	pid() int
	collectGarbage(ctx context.Context) error
	stop()
}

// written is an entry that was put.
type written struct {
	hash  string
	began time.Time     // just before
	took  time.Duration // until the writer was told that it is done
}

// inbox receives the entries of followed databases.
type inbox chan arrival

// inboxSize is more than the entries that arrive while nobody awaits one.
const inboxSize = 1024

type arrival struct {
	hash string
	at   time.Time
}

func (in inbox) await(ctx context.Context, hash string, ended <-chan struct{}) (time.Time, error) {
	late := time.After(joinPatience)
	for {
		select {
		case a := <-in:
			if a.hash == hash {
				return a.at, nil
			}
		case <-ended:
			return time.Time{}, errors.New("the process has ended")
		case <-late:
			return time.Time{}, fmt.Errorf("the entry %s has not arrived within %s", hash, joinPatience)
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// daemonReplica is a daemon. Times are those of its client.
type daemonReplica struct {
	*node
	addresses map[string]string
	inbox     inbox
}

func startDaemonReplica(ctx context.Context, b *bench) (*daemonReplica, error) {
	n, err := startNode(ctx, b, b.npp, ipfs.Hidden)
	if err != nil {
		return nil, err
	}
	return &daemonReplica{n, make(map[string]string), make(inbox, inboxSize)}, nil
}

func (d *daemonReplica) open(ctx context.Context, name string) error {
	var made struct{ Address string }
	err := d.rpc.Ask(ctx, &made, "npp/db/create", url.Values{"arg": {name}, "type": {"documents"}, "write": {"*"}}, nil)
	d.addresses[name] = made.Address
	return err
}

func (d *daemonReplica) follow(ctx context.Context, name string, after int) error {
	resp, err := d.rpc.Stream(ctx, "npp/db/log", url.Values{"arg": {d.addresses[name]}, "follow": {"true"}, "since": {strconv.Itoa(after)}}, nil)
	if err != nil {
		return err
	}
	go func() { // until the daemon stops
		defer resp.Body.Close()
		for lines := bufio.NewReader(resp.Body); ; {
			text, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			at := time.Now()
			var line struct{ Hash string }
			if json.Unmarshal(text, &line) == nil {
				d.inbox <- arrival{line.Hash, at}
			}
		}
	}()
	return nil
}

func (d *daemonReplica) await(ctx context.Context, hash string) (time.Time, error) {
	return d.inbox.await(ctx, hash, d.daemon.Done())
}

func (d *daemonReplica) put(ctx context.Context, name string, i int) (w written, err error) {
	text, err := json.Marshal(document(i))
	if err != nil {
		return w, err
	}
	var put struct{ Hash string }
	w.began = time.Now()
	err = d.rpc.Ask(ctx, &put, "npp/db/put", url.Values{"arg": {d.addresses[name]}}, text)
	w.took = time.Since(w.began)
	w.hash = put.Hash
	return w, err
}

func (d *daemonReplica) fill(ctx context.Context, name string, n int) (string, error) {
	var lines bytes.Buffer
	for i := range n {
		text, err := json.Marshal(document(i))
		if err != nil {
			return "", err
		}
		lines.Write(append(text, '\n'))
	}
	if _, err := d.rpc.Call(ctx, "npp/db/put", url.Values{"arg": {d.addresses[name]}, "many": {"true"}}, lines.Bytes()); err != nil {
		return "", err
	}
	info, err := d.info(ctx, name)
	if err == nil && len(info.Heads) != 1 {
		err = fmt.Errorf("%s has %d heads", name, len(info.Heads))
	}
	if err != nil {
		return "", err
	}
	return info.Heads[0], nil
}

type databaseInfo struct {
	Entries int
	Heads   []string
}

func (d *daemonReplica) info(ctx context.Context, name string) (info databaseInfo, err error) {
	err = d.rpc.Ask(ctx, &info, "npp/db/info", url.Values{"arg": {d.addresses[name]}}, nil)
	return info, err
}

func (d *daemonReplica) count(ctx context.Context, name string) (int, error) {
	info, err := d.info(ctx, name)
	return info.Entries, err
}

// addr is the multiaddr that the daemon listens on, with its peer ID.
func (d *daemonReplica) addr(ctx context.Context) (string, error) { return d.rpc.ListenAddr(ctx) }

func (d *daemonReplica) connections(ctx context.Context) ([]string, error) {
	var swarm struct{ Peers []struct{ Addr string } }
	err := d.rpc.Ask(ctx, &swarm, "swarm/peers", nil, nil)
	var addrs []string
	for _, p := range swarm.Peers {
		addrs = append(addrs, p.Addr)
	}
	return addrs, err
}
