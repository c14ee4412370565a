package sheet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// maxRead is the maximum number of bytes that one step reads from a file.
const maxRead = 8 << 20

// errTooMuch is returned when a limit is exceeded.
var errTooMuch = errors.New("limit exceeded")

// source reads a file within a limit. Its field err records failures of the
// reader and the context, as opposed to errors in the content of the file.
type source struct {
	ctx  context.Context
	r    io.ReaderAt
	size int64
	left int64 // bytes that may still be read
	err  error // first error of ctx or r
}

// ReadAt implements [io.ReaderAt].
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	switch {
	case s.err != nil:
		return 0, s.err
	case off < 0 || off >= s.size:
		return 0, io.EOF
	case s.left <= 0:
		return 0, errTooMuch
	}
	var short error
	if n := s.size - off; int64(len(p)) > n {
		p, short = p[:n], io.EOF
	}
	if int64(len(p)) > s.left {
		p, short = p[:s.left], errTooMuch
	}
	n, err := s.r.ReadAt(p, off)
	s.left -= int64(n)
	if n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		s.err = fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
		return n, s.err
	}
	return n, short
}

// bytes returns n bytes at an offset, or fewer at the end of the file.
func (s *source) bytes(off, n int64) []byte {
	if off < 0 || off >= s.size {
		return nil
	}
	s.left = max(s.left, n)
	p := make([]byte, min(n, s.size-off))
	n2, _ := s.ReadAt(p, off)
	return p[:n2]
}

// from starts a step that reads at most n bytes, and returns a reader that
// begins at an offset.
func (s *source) from(off, n int64) *bufio.Reader {
	s.left = n
	return s.reader(off)
}

// reader returns a reader that begins at an offset, within the limit of the
// step.
func (s *source) reader(off int64) *bufio.Reader {
	return bufio.NewReader(io.NewSectionReader(s, off, max(0, s.size-off)))
}
