package library

import (
	"context"
	"io"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"
)

// PinName is the name of the pins that a library makes: whatever has it was pinned
// by adding a piece.
const PinName = "npp"

// Files is what a library needs of an IPFS node.
type Files interface {
	// Add adds a file and pins it under [PinName], unless it is pinned.
	Add(ctx context.Context, f files.File) (cid.Cid, error)

	// Pin fetches all of what a CID is of, and pins it under [PinName] unless it is
	// pinned. progress, if not nil, is told how many blocks are here.
	Pin(ctx context.Context, c cid.Cid, progress func(blocks int)) error

	// Unpin removes the pins of a CID, in either version, that have the name
	// [PinName], and reports whether there was one.
	Unpin(ctx context.Context, c cid.Cid) (bool, error)

	// Open returns a file, which is fetched as it is read, or [ErrNoFile].
	Open(ctx context.Context, c cid.Cid) (File, error)
}

// File is a file in IPFS.
type File interface {
	files.File
	io.Seeker
}
