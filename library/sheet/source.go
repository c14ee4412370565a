package sheet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// maxRead is how many bytes one step of reading a file takes at most.
const maxRead = 8 << 20

// errTooMuch ends what would take more than it may.
var errTooMuch = errors.New("too much to read")

// source is the file. It tells what goes wrong with reading it from what is
// wrong with its content: only the former is kept in err.
type source struct {
	ctx  context.Context
	r    io.ReaderAt
	size int64
	left int64 // bytes that may be read yet
	err  error // first one of ctx or r
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

// bytes returns up to n bytes at an offset, fewer at the end of the file.
func (s *source) bytes(off, n int64) []byte {
	if off < 0 || off >= s.size {
		return nil
	}
	s.left = max(s.left, n)
	p := make([]byte, min(n, s.size-off))
	n2, _ := s.ReadAt(p, off)
	return p[:n2]
}

// from starts a step that takes at most n bytes, with a reader from an offset
// on.
func (s *source) from(off, n int64) *bufio.Reader {
	s.left = n
	return s.reader(off)
}

// reader reads from an offset on, as long as the step may.
func (s *source) reader(off int64) *bufio.Reader {
	return bufio.NewReader(io.NewSectionReader(s, off, max(0, s.size-off)))
}
