package sheet

import (
	"bytes"
	"context"
	"errors"
	"io"
)

const (
	// peekSize is how much of a stream is looked at, in bytes: more than it takes to
	// tell what it is, but for a zip.
	peekSize = 8 << 20

	// peekZip is how much of a zip is, in bytes: what it has is told at its end.
	peekZip = 64 << 20
)

// Peek tells what a stream has, as [Read] does by its beginning: the kind is that of
// the whole, title and composer may be missing. It takes up to 64 MiB of memory, and
// returns a stream of all that r had. The error is one of reading r or ctx's.
func Peek(ctx context.Context, r io.Reader) (Sheet, io.Reader, error) {
	var head bytes.Buffer
	whole, err := more(&head, r, peekSize)
	if err == nil && !whole && bytes.HasPrefix(head.Bytes(), []byte("PK")) {
		_, err = more(&head, r, peekZip-peekSize)
	}
	if err != nil {
		return Sheet{}, nil, err
	}
	s, err := Read(ctx, bytes.NewReader(head.Bytes()), int64(head.Len()))
	if err != nil {
		return Sheet{}, nil, err
	}
	return s, io.MultiReader(bytes.NewReader(head.Bytes()), r), nil
}

// more reads up to n bytes, and reports whether r ended.
func more(to *bytes.Buffer, r io.Reader, n int64) (ended bool, err error) {
	_, err = io.CopyN(to, r, n)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
