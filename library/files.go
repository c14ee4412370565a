package library

import (
	"context"
	"io"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"
)

// PinName is the name of the pins that a library creates when it adds a piece.
const PinName = "npp"

// Files is the part of an IPFS node that a library uses.
type Files interface {
	// Add adds a file, and pins it with the name [PinName] unless it is pinned
	// already.
	Add(ctx context.Context, f files.File) (cid.Cid, error)

	// Pin fetches the DAG of a CID, and pins it with the name [PinName] unless
	// it is pinned already. If progress is not nil, it is called with the
	// number of blocks that are here.
	Pin(ctx context.Context, c cid.Cid, progress func(blocks int)) error

	// Unpin removes the pins of a CID, in both versions, that have the name
	// [PinName]. It reports whether there was one.
	Unpin(ctx context.Context, c cid.Cid) (bool, error)

	// Open returns a file, whose blocks are fetched as it is read. The error is
	// [ErrNoFile] if the CID is not that of a file.
	Open(ctx context.Context, c cid.Cid) (File, error)
}

// File is a file in IPFS.
type File interface {
	files.File
	io.Seeker
}
