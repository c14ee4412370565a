package sheet

import (
	"bytes"
	"context"
	"errors"
	"io"
)

const (
	// peekSize is the number of bytes that Peek buffers. It suffices to detect
	// any kind but a compressed one.
	peekSize = 8 << 20

	// peekZip is the number of bytes that Peek buffers of a zip archive, whose
	// directory is at its end.
	peekZip = 64 << 20
)

// Peek describes a stream by its beginning. The kind is the one that [Read]
// returns for the complete stream; title and composer may be missing. Peek
// buffers up to 64 MiB. It returns a reader of the complete stream. The error
// comes from r or ctx.
func Peek(ctx context.Context, r io.Reader) (Sheet, io.Reader, error) {
	var head bytes.Buffer
	ended, err := readUpTo(&head, r, peekSize)
	if err == nil && !ended && bytes.HasPrefix(head.Bytes(), []byte("PK")) {
		_, err = readUpTo(&head, r, peekZip-peekSize)
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

// readUpTo appends up to n bytes of r to a buffer, and reports whether r ended.
func readUpTo(to *bytes.Buffer, r io.Reader, n int64) (ended bool, err error) {
	_, err = io.CopyN(to, r, n)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
