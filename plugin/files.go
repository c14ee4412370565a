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
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/ipfs/kubo/config"
	"github.com/ipfs/kubo/core"
	"github.com/ipfs/kubo/core/coreapi"
	"github.com/ipfs/kubo/core/coreiface/options"
	mh "github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/space"
)

// pinProgress is how often the progress of a pin is told.
const pinProgress = 500 * time.Millisecond

// nodeFiles is the files of a node, as a library needs them.
type nodeFiles struct {
	node *core.IpfsNode
	disk *space.Disk
}

var _ library.Files = nodeFiles{}

// Add adds a file as `ipfs add` does by the node's config, so that it has the same
// CID.
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
	// Until it is pinned, nothing else keeps it from garbage collection.
	defer f.node.Blockstore.PinLock(ctx).Unlock(ctx)
	p, err := api.Unixfs().Add(ctx, file, opts...)
	if err != nil {
		return cid.Undef, err
	}
	return p.RootCid(), f.pin(ctx, p.RootCid())
}

// addOptions are what a config says about how files are added.
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

// pin pins what is here, unless it is pinned. What was pinned without what it links to
// keeps its name: that pin is somebody else's. The caller holds the pin lock.
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

// Pin fetches and pins what a CID is of.
func (f nodeFiles) Pin(ctx context.Context, c cid.Cid, progress func(blocks int)) error {
	tracker := new(merkledag.ProgressTracker)
	ctx, cancel := context.WithCancel(tracker.DeriveContext(ctx))
	defer cancel()
	if progress != nil {
		told := make(chan struct{})
		defer func() { cancel(); <-told }()
		go func() {
			defer close(told)
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

// Unpin removes the pins that have the library's name.
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

// Open returns a file of UnixFS. While the disk is almost full, nothing of it is
// fetched: what is fetched is stored.
func (f nodeFiles) Open(ctx context.Context, c cid.Cid) (library.File, error) {
	full := f.disk.CheckWrite(0)
	api, err := coreapi.NewCoreAPI(f.node, options.Api.Offline(full != nil))
	if err != nil {
		return nil, err
	}
	n, err := api.Unixfs().Get(ctx, path.FromCid(c))
	if err != nil {
		return nil, notHere(err, full)
	}
	file, ok := files.ToFile(n).(library.File)
	if !ok {
		n.Close()
		return nil, fmt.Errorf("%w: %s", library.ErrNoFile, c)
	}
	return sparing{file, f.disk, full}, nil
}

// notHere returns an error about a block that is not here and, where the disk is full,
// not fetched.
func notHere(err, full error) error {
	if full != nil && ipld.IsNotFound(err) {
		return fmt.Errorf("not all of the file is here, and nothing is fetched: %w", full)
	}
	return err
}

// sparing is a file that is not fetched to its end when the disk gets full meanwhile.
type sparing struct {
	library.File
	disk *space.Disk
	full error // why nothing of it is fetched from the beginning, or nil
}

func (s sparing) Read(b []byte) (int, error) {
	if s.full == nil {
		if err := s.disk.CheckWrite(0); err != nil {
			return 0, err
		}
	}
	n, err := s.File.Read(b)
	return n, notHere(err, s.full)
}
