package plugin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/path"
	pin "github.com/ipfs/boxo/pinning/pinner"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/kubo/config"
	"github.com/ipfs/kubo/core"
	"github.com/ipfs/kubo/core/coreapi"
	"github.com/ipfs/kubo/core/coreiface/options"
	mh "github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
)

// pinProgress is the interval at which Pin reports progress.
const pinProgress = 500 * time.Millisecond

// nodeFiles are the files of a node.
type nodeFiles struct{ node *core.IpfsNode }

var _ daemon.Files = nodeFiles{}

// Add implements [daemon.Files]. The file gets the same CID as from `ipfs add`
// with the node's configuration.
func (f nodeFiles) Add(ctx context.Context, file files.File) (cid.Cid, error) {
	api, err := coreapi.NewCoreAPI(f.node)
	if err != nil {
		return cid.Undef, err
	}
	cfg, err := f.node.Repo.Config()
	if err != nil {
		return cid.Undef, err
	}
	opts, err := addOptions(cfg.Import)
	if err != nil {
		return cid.Undef, err
	}
	// The lock keeps the blocks from garbage collection until they are pinned.
	defer f.node.Blockstore.PinLock(ctx).Unlock(ctx)
	p, err := api.Unixfs().Add(ctx, file, opts...)
	if err != nil {
		return cid.Undef, err
	}
	return p.RootCid(), f.pin(ctx, p.RootCid())
}

// addOptions returns the options that `ipfs add` takes from a configuration.
func addOptions(cfg config.Import) ([]options.UnixfsAddOption, error) {
	hash := strings.ToLower(cfg.HashFunction.WithDefault(config.DefaultHashFunction))
	code, ok := mh.Names[hash]
	if !ok {
		return nil, fmt.Errorf("Import.HashFunction %q is not known", hash)
	}
	opts := []options.UnixfsAddOption{
		options.Unixfs.Pin(false, ""),
		options.Unixfs.Hash(code),
		options.Unixfs.Chunker(cfg.UnixFSChunker.WithDefault(config.DefaultUnixFSChunker)),
	}
	if !cfg.CidVersion.IsDefault() {
		opts = append(opts, options.Unixfs.CidVersion(int(cfg.CidVersion.WithDefault(config.DefaultCidVersion))))
	}
	if cfg.UnixFSRawLeaves != config.Default {
		opts = append(opts, options.Unixfs.RawLeaves(cfg.UnixFSRawLeaves.WithDefault(config.DefaultUnixFSRawLeaves)))
	}
	if !cfg.UnixFSFileMaxLinks.IsDefault() {
		opts = append(opts, options.Unixfs.MaxFileLinks(int(cfg.UnixFSFileMaxLinks.WithDefault(config.DefaultUnixFSFileMaxLinks))))
	}
	if cfg.UnixFSDAGLayout.WithDefault(config.DefaultUnixFSDAGLayout) == config.DAGLayoutTrickle {
		opts = append(opts, options.Unixfs.Layout(options.TrickleLayout))
	}
	return opts, nil
}

// pin pins a CID recursively, unless that is done already. The new pin replaces
// a direct one, whose name it takes over, because another program made that
// pin. The caller holds the pin lock.
func (f nodeFiles) pin(ctx context.Context, c cid.Cid) error {
	name := library.PinName
	for _, mode := range []pin.Mode{pin.Recursive, pin.Direct} {
		found, err := f.node.Pinning.CheckIfPinnedWithType(ctx, mode, true, c)
		if err != nil {
			return err
		}
		for _, p := range found {
			switch p.Mode {
			case pin.Recursive:
				return nil
			case pin.Direct:
				name = p.Name
			}
		}
	}
	n, err := f.node.DAG.Get(ctx, c)
	if err != nil {
		return err
	}
	if err := f.node.Pinning.Pin(ctx, n, true, name); err != nil {
		return err
	}
	return f.node.Pinning.Flush(ctx)
}

// Pin implements [daemon.Files].
func (f nodeFiles) Pin(ctx context.Context, c cid.Cid, progress func(blocks int)) error {
	tracker := new(merkledag.ProgressTracker)
	ctx, cancel := context.WithCancel(tracker.DeriveContext(ctx))
	defer cancel()
	if progress != nil {
		ended := make(chan struct{})
		defer func() { cancel(); <-ended }()
		go func() {
			defer close(ended)
			tick := time.NewTicker(pinProgress)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					progress(tracker.Value())
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	defer f.node.Blockstore.PinLock(ctx).Unlock(ctx)
	return f.pin(ctx, c)
}

// Unpin implements [daemon.Files].
func (f nodeFiles) Unpin(ctx context.Context, c cid.Cid) (unpinned bool, err error) {
	defer f.node.Blockstore.PinLock(ctx).Unlock(ctx)
	pins, err := f.node.Pinning.CheckIfPinnedWithType(ctx, pin.Recursive, true, piece.Versions(c)...)
	if err != nil {
		return false, err
	}
	for _, p := range pins {
		if p.Mode != pin.Recursive || p.Name != library.PinName {
			continue
		}
		if err := f.node.Pinning.Unpin(ctx, p.Key, true); err != nil {
			return unpinned, err
		}
		unpinned = true
	}
	if !unpinned {
		return false, nil
	}
	return true, f.node.Pinning.Flush(ctx)
}

// Open implements [daemon.Files].
func (f nodeFiles) Open(ctx context.Context, c cid.Cid, fetch bool) (library.File, error) {
	api, err := coreapi.NewCoreAPI(f.node, options.Api.Offline(!fetch))
	if err != nil {
		return nil, err
	}
	n, err := api.Unixfs().Get(ctx, path.FromCid(c))
	if err != nil {
		return nil, err
	}
	file, ok := files.ToFile(n).(library.File)
	if !ok {
		n.Close()
		return nil, fmt.Errorf("%w: %s", library.ErrNoFile, c)
	}
	return file, nil
}
