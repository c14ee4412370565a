package commands

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"

	cmds "github.com/ipfs/go-ipfs-cmds"
)

// encodeText returns the encoder of a command whose lines text prints.
func encodeText[L any](text func(l *L) string) cmds.EncoderMap {
	return encodeTextFor(func(_ *cmds.Request, l *L) string { return text(l) })
}

// encodeTextFor is encodeText for a text that depends on the request.
func encodeTextFor[L any](text func(req *cmds.Request, l *L) string) cmds.EncoderMap {
	return cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *L) error {
			_, err := io.WriteString(w, text(req, l))
			return err
		}),
	}
}

// wantsText reports whether the output of a request is text.
func wantsText(req *cmds.Request) bool {
	return cmds.GetEncoding(req, cmds.Text) == cmds.Text
}

// emitEach emits a line for each value of a sequence. At an error of the
// sequence, it returns what end makes of it; nil ends the output without an
// error.
func emitEach[T, L any](res cmds.ResponseEmitter, values iter.Seq2[T, error], line func(T) L, end func(error) error) error {
	for v, err := range values {
		if err != nil {
			return end(err)
		}
		if err := res.Emit(line(v)); err != nil {
			return err
		}
	}
	return nil
}

// emitAll is emitEach for a sequence without errors.
func emitAll[T, L any](res cmds.ResponseEmitter, values iter.Seq[T], line func(T) L) error {
	for v := range values {
		if err := res.Emit(line(v)); err != nil {
			return err
		}
	}
	return nil
}

// limited yields the first values of a sequence, or all if the limit is 0.
func limited[T any](values iter.Seq2[T, error], limit int) iter.Seq2[T, error] {
	if limit == 0 {
		return values
	}
	return func(yield func(T, error) bool) {
		n := 0
		for v, err := range values {
			if n++; !yield(v, err) || n == limit {
				return
			}
		}
	}
}

// flush returns a function that sends the header of the response, for which a
// client waits until the first line.
func flush(res cmds.ResponseEmitter) func() {
	if stream, ok := res.(http.Flusher); ok {
		return stream.Flush
	}
	return func() {}
}

// forward copies a response to the command line, without the lines that show
// takes.
func forward(res cmds.Response, re cmds.ResponseEmitter, show func(line any) (taken bool)) error {
	for {
		line, err := res.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case show(line):
			continue
		}
		if err := re.Emit(line); err != nil {
			return err
		}
	}
}

// interrupted reports whether a stream ended because its reader went away.
func interrupted(req *cmds.Request, err error) bool {
	return errors.Is(err, context.Canceled) && req.Context.Err() != nil
}

// untilInterrupted is for a command that streams. An interrupt at the command
// line ends it without an error.
var untilInterrupted = cmds.PostRunMap{
	cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		err := forward(res, re, func(any) bool { return false })
		if interrupted(res.Request(), err) {
			return nil
		}
		return err
	},
}
