package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/ipld/merkledag"
	unixfile "github.com/ipfs/boxo/ipld/unixfs/file"
	"github.com/ipfs/boxo/ipld/unixfs/importer"
	"github.com/ipfs/boxo/keystore"
	pin "github.com/ipfs/boxo/pinning/pinner"
	"github.com/ipfs/boxo/pinning/pinner/dspinner"
	"github.com/ipfs/go-cid"
	leveldb "github.com/ipfs/go-ds-leveldb"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/router"
)

// Two nodes in one process: each has a host, a datastore, a block store,
// bitswap and pins of its own, and a daemon on top. One sends the other a
// message.
func Example() {
	dir, err := os.MkdirTemp("", "npp")
	check(err)
	defer os.RemoveAll(dir)
	ctx := context.Background()

	alice, err := startNode(ctx, filepath.Join(dir, "alice"))
	check(err)
	defer alice.Close()
	bob, err := startNode(ctx, filepath.Join(dir, "bob"))
	check(err)
	defer bob.Close()

	outcome, err := alice.Messages.Send(ctx, message.Outgoing{To: bob.addrs, Data: []byte(`"Rehearsal at seven"`)})
	check(err)
	fmt.Println(outcome.Status)
	for m, err := range bob.Messages.List(ctx, message.Filter{Since: message.SinceAll, From: alice.ID()}) {
		check(err)
		fmt.Printf("%s\n", m.Data)
	}
	// Output:
	// delivered
	// "Rehearsal at seven"
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// node is an IPFS node with npp.
type node struct {
	*daemon.Daemon
	npp     *daemon.Blocks
	addrs   peer.AddrInfo
	closers []func() error // in the order of the start
}

// startNode starts the node whose data is in dir, which is created if there is
// none. The node listens on loopback.
func startNode(ctx context.Context, dir string) (_ *node, err error) {
	n := &node{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	directory := filepath.Join(dir, "datastore")
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	ds, err := leveldb.NewDatastore(directory, nil)
	if err != nil {
		return nil, err
	}
	n.onClose(ds.Close)
	keys, err := keystore.NewFSKeystore(filepath.Join(dir, "keystore"))
	if err != nil {
		return nil, err
	}
	identity, err := identityOf(keys)
	if err != nil {
		return nil, err
	}
	host, err := libp2p.New(libp2p.Identity(identity), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		return nil, err
	}
	n.onClose(host.Close)
	n.addrs = peer.AddrInfo{ID: host.ID(), Addrs: host.Addrs()}

	// The router runs until its context ends.
	running, end := context.WithCancel(context.Background())
	n.onClose(func() error { end(); return nil })
	pubsub, err := daemon.NewRouter(running, host, router.Options{})
	if err != nil {
		return nil, err
	}

	// Bitswap serves the blocks of databases, and asks the peers that the
	// daemon knows to have a block. This node has no other content routing.
	n.npp = daemon.NewBlocks(ds)
	blocks := n.npp.Overlay(blockstore.NewBlockstore(ds))
	swap := bitswap.New(running, bsnet.NewFromIpfsHost(host), n.npp.Discovery(noDiscovery{}), blocks)
	n.onClose(swap.Close)

	dag := merkledag.NewDAGService(blockservice.New(blocks, swap))
	pins, err := dspinner.New(ctx, ds, dag)
	if err != nil {
		return nil, err
	}
	n.onClose(pins.Close)

	n.Daemon, err = daemon.New(ctx, daemon.Config{
		Host:       host,
		Router:     pubsub,
		Datastore:  ds,
		Directory:  directory,
		Keystore:   keys,
		Blocks:     n.npp,
		Blockstore: blocks,
		Exchange:   swap,
		Files: unixFiles{
			dag:   dag,
			local: merkledag.NewDAGService(blockservice.New(blocks, offline.Exchange(blocks))),
			pins:  pins,
		},
	})
	if err != nil {
		return nil, err
	}
	n.onClose(n.Daemon.Close)
	return n, nil
}

func (n *node) onClose(f func() error) { n.closers = append(n.closers, f) }

// Close closes what was started, the last first.
func (n *node) Close() error {
	var errs []error
	for len(n.closers) > 0 {
		last := len(n.closers) - 1
		errs = append(errs, n.closers[last]())
		n.closers = n.closers[:last]
	}
	return errors.Join(errs...)
}

// identityOf returns the host's key, which it generates at the first start.
func identityOf(keys keystore.Keystore) (crypto.PrivKey, error) {
	const name = "host"
	key, err := keys.Get(name)
	if !errors.Is(err, keystore.ErrNoSuchKey) {
		return key, err
	}
	if key, _, err = crypto.GenerateEd25519Key(nil); err != nil {
		return nil, err
	}
	return key, keys.Put(name, key)
}

// noDiscovery finds no peers.
type noDiscovery struct{}

var _ routing.ContentDiscovery = noDiscovery{}

func (noDiscovery) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	none := make(chan peer.AddrInfo)
	close(none)
	return none
}

// unixFiles are the files of a node. As the node does not collect garbage,
// blocks need no protection before they are pinned.
type unixFiles struct {
	dag   ipld.DAGService // fetches missing blocks
	local ipld.DAGService // does not
	pins  pin.Pinner
}

var _ daemon.Files = unixFiles{}

// Add implements [daemon.Files].
func (f unixFiles) Add(ctx context.Context, file files.File) (cid.Cid, error) {
	root, err := importer.BuildDagFromReader(f.dag, chunk.DefaultSplitter(file))
	if err != nil {
		return cid.Undef, err
	}
	return root.Cid(), f.pin(ctx, root)
}

// Pin implements [daemon.Files].
func (f unixFiles) Pin(ctx context.Context, c cid.Cid, _ func(blocks int)) error {
	root, err := f.dag.Get(ctx, c)
	if err != nil {
		return err
	}
	return f.pin(ctx, root)
}

func (f unixFiles) pin(ctx context.Context, root ipld.Node) error {
	_, pinned, err := f.pins.IsPinnedWithType(ctx, root.Cid(), pin.Recursive)
	if err != nil || pinned {
		return err
	}
	return f.pins.Pin(ctx, root, true, library.PinName)
}

// Unpin implements [daemon.Files].
func (f unixFiles) Unpin(ctx context.Context, c cid.Cid) (unpinned bool, err error) {
	pins, err := f.pins.CheckIfPinnedWithType(ctx, pin.Recursive, true, piece.Versions(c)...)
	if err != nil {
		return false, err
	}
	for _, p := range pins {
		if p.Mode != pin.Recursive || p.Name != library.PinName {
			continue
		}
		if err := f.pins.Unpin(ctx, p.Key, true); err != nil {
			return unpinned, err
		}
		unpinned = true
	}
	return unpinned, nil
}

// Open implements [daemon.Files].
func (f unixFiles) Open(ctx context.Context, c cid.Cid, fetch bool) (library.File, error) {
	dag := f.local
	if fetch {
		dag = f.dag
	}
	root, err := dag.Get(ctx, c)
	if err != nil {
		return nil, err
	}
	opened, err := unixfile.NewUnixfsFile(ctx, dag, root)
	if err != nil {
		return nil, err
	}
	file, ok := files.ToFile(opened).(library.File)
	if !ok {
		return nil, errors.Join(library.ErrNoFile, opened.Close())
	}
	return file, nil
}
