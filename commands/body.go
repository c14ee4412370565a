package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"time"

	"github.com/ipfs/boxo/files"
	cmds "github.com/ipfs/go-ipfs-cmds"
)

// Errors of the body of a request.
var (
	errEmptyBody    = errors.New("the body is empty")
	errNotMultipart = errors.New("the body is not multipart/form-data and was not read; hint: post it as curl -F 'file=…' does")
	errManyParts    = errors.New("the body has more than one part; hint: post one part with each request")
)

// setBody makes r the body of a request that the command line sends.
func setBody(req *cmds.Request, name string, r io.Reader) {
	req.Files = files.NewMapDirectory(map[string]files.Node{name: files.NewReaderFile(r)})
}

// hasBody reports whether PreRun set the body already: kubo calls PreRun twice
// if the daemon does not answer.
func hasBody(req *cmds.Request) bool { return req.Files != nil }

// openInput opens a file that the command line sends. Errors call it what.
func openInput(path, what string) (io.Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	return f, nil
}

// stdin returns standard input. At a terminal, it says how to end the input.
func stdin(what string) io.Reader {
	if isTerminal(os.Stdin) {
		fmt.Fprintf(os.Stderr, "(type the %s, and end it with Ctrl-D)\n", what)
	}
	return os.Stdin
}

// body returns the only part of the multipart body of a request, or nil if
// there is no body. The name of the part does not matter. Errors call the body
// what; a body without a part is the error empty. If another part follows, the
// reader ends with [errManyParts].
func body(req *cmds.Request, res cmds.ResponseEmitter, what string, empty error) (io.Reader, error) {
	if err := checkBody(req, res); err != nil || req.Files == nil {
		return nil, err
	}
	it := req.Files.Entries()
	if !it.Next() {
		return nil, errors.Join(empty, it.Err())
	}
	f := files.FileFromEntry(it)
	if f == nil {
		return nil, fmt.Errorf("the %s is not a file", what)
	}
	return &onePart{f, req.Files}, nil
}

// checkBody returns [errNotMultipart] for a body that is not multipart.
//
// go-ipfs-cmds leaves such a body unread and does not tell the command about
// it. The channel bodyEOFChan of its HTTP emitter says that there is a body.
func checkBody(req *cmds.Request, res cmds.ResponseEmitter) error {
	if req.Files != nil {
		return nil
	}
	emitter := reflect.Indirect(reflect.ValueOf(res))
	if emitter.Kind() != reflect.Struct {
		return nil
	}
	if end := emitter.FieldByName("bodyEOFChan"); end.IsValid() && !end.IsNil() {
		return errNotMultipart
	}
	return nil
}

// onePart reads the first part of a multipart body. It ends with [errManyParts]
// if that is not the last part.
type onePart struct {
	io.Reader
	body files.Directory
}

func (p *onePart) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		// The first part's iterator skips parts whose names are below that
		// part's name.
		switch it := p.body.Entries(); {
		case it.Next():
			err = errManyParts
		case it.Err() != nil:
			err = it.Err()
		}
	}
	return n, err
}

// Bounds of [drain].
const (
	drainTime = 10 * time.Second // in all
	drainIdle = time.Second      // without a byte
)

// drain reads and discards what is left of r, within drainTime and drainIdle.
// A command that fails drains its body before it answers: the daemon closes a
// connection with an unread body, and a client that still sends reports that
// instead of the answer.
func drain(r io.Reader) {
	read, end := make(chan struct{}), make(chan struct{})
	defer close(end)
	go func() {
		defer close(read)
		buf := make([]byte, 64<<10)
		for {
			if _, err := r.Read(buf); err != nil {
				return
			}
			select {
			case read <- struct{}{}:
			case <-end:
				return
			}
		}
	}()
	whole := time.After(drainTime)
	for {
		select {
		case _, more := <-read:
			if !more {
				return
			}
		case <-time.After(drainIdle):
			return
		case <-whole:
			return
		}
	}
}

// allParts reads part, and then the parts of a body, one after the other. It
// passes over errors of a part.
type allParts struct {
	part  io.Reader
	parts files.DirIterator
}

func (a *allParts) Read(b []byte) (int, error) {
	if a.part != nil {
		n, err := a.part.Read(b)
		if err != nil {
			a.part, err = nil, nil
		}
		return n, err
	}
	if !a.parts.Next() {
		return 0, cmp.Or(a.parts.Err(), io.EOF)
	}
	if f := files.FileFromEntry(a.parts); f != nil {
		a.part = f
	}
	return 0, nil
}

// contextReader returns a reader whose reads fail with the context's cause when
// the context is done. The caller calls stop when it no longer reads; stopped is
// then closed once r is no longer read.
func contextReader(ctx context.Context, r io.Reader) (reader io.Reader, stop func(), stopped <-chan struct{}) {
	pr, pw := io.Pipe()
	copied := make(chan struct{})
	go func() {
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err)
		close(copied)
	}()
	unwatch := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	return pr, func() {
		unwatch()
		pr.Close()
	}, copied
}

// bodyReader is a contextReader of what [body] returned. The caller calls end
// before it answers; end drains the body.
func bodyReader(ctx context.Context, r io.Reader) (reader io.Reader, end func()) {
	reader, stop, stopped := contextReader(ctx, r)
	return reader, func() {
		stop()
		select {
		case <-stopped:
			if one, ok := r.(*onePart); ok {
				drain(&allParts{part: one, parts: one.body.Entries()})
			}
		case <-time.After(drainIdle):
		case <-ctx.Done():
		}
	}
}
