package daemon

import (
	"context"
	"fmt"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/space"
)

// Files are the files of an IPFS node, in UnixFS. They are pinned under the
// name [library.PinName].
type Files interface {
	// Add stores a file and pins it, unless it is pinned.
	Add(ctx context.Context, f files.File) (cid.Cid, error)

	// Pin fetches all blocks of a CID and pins it, unless it is pinned. It
	// passes the number of blocks that arrived to progress, which may be nil,
	// from time to time.
	Pin(ctx context.Context, c cid.Cid, progress func(blocks int)) error

	// Unpin removes the pins of a CID, in either version, that have the name
	// [library.PinName], and reports whether there was one.
	Unpin(ctx context.Context, c cid.Cid) (unpinned bool, err error)

	// Open returns a file, or [library.ErrNoFile]. Its blocks are fetched as it
	// is read. If fetch is false, a read that needs a block which is not stored
	// here fails with an [ipld.ErrNotFound].
	Open(ctx context.Context, c cid.Cid, fetch bool) (library.File, error)
}

// diskFiles fetches no block of a file while the disk is full: each fetched
// block is stored.
type diskFiles struct {
	Files
	disk *space.Disk
}

var _ library.Files = diskFiles{}

// Open implements [library.Files].
func (f diskFiles) Open(ctx context.Context, c cid.Cid) (library.File, error) {
	full := f.disk.CheckWrite(0)
	file, err := f.Files.Open(ctx, c, full == nil)
	if err != nil {
		return nil, notFetched(err, full)
	}
	return diskFile{file, f.disk, full}, nil
}

// diskFile is a file of which no more is fetched once the disk is full.
type diskFile struct {
	library.File
	disk *space.Disk
	full error // why nothing is fetched, or nil
}

// Read implements [io.Reader].
func (f diskFile) Read(b []byte) (int, error) {
	if f.full == nil {
		if err := f.disk.CheckWrite(0); err != nil {
			return 0, err
		}
	}
	n, err := f.File.Read(b)
	return n, notFetched(err, f.full)
}

// notFetched explains err if it means that a block is missing, and full is why
// the block was not fetched.
func notFetched(err, full error) error {
	if full != nil && ipld.IsNotFound(err) {
		return fmt.Errorf("not all of the file is here, and nothing is fetched: %w", full)
	}
	return err
}
