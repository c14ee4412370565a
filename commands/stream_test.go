package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"

	cmds "github.com/ipfs/go-ipfs-cmds"
)

// numbers yields 1, 2, 3 and then, if it is not nil, an error.
func numbers(end error) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for n := 1; n <= 3; n++ {
			if !yield(n, nil) {
				return
			}
		}
		if end != nil {
			yield(0, end)
		}
	}
}

// emitted returns the lines and the error of run.
func emitted(t *testing.T, run func(cmds.ResponseEmitter) error) (lines []any, err error) {
	t.Helper()
	re, res := cmds.NewChanResponsePair(&cmds.Request{Context: t.Context(), Command: &cmds.Command{}})
	go func() { re.CloseWithError(run(re)) }()
	for {
		line, err := res.Next()
		if err != nil {
			return lines, err
		}
		lines = append(lines, line)
	}
}

func TestLinesAreEmittedUpToTheLimitOrTheError(t *testing.T) {
	failed, other := errors.New("failed"), errors.New("other")
	line := func(n int) string { return fmt.Sprint(n) }
	for _, test := range []struct {
		end   error
		limit int
		ended error // what the end of the values becomes
		lines []any
		want  error
	}{
		{nil, 0, other, []any{"1", "2", "3"}, io.EOF},
		{failed, 0, other, []any{"1", "2", "3"}, other},
		{failed, 0, nil, []any{"1", "2", "3"}, io.EOF},
		{failed, 3, other, []any{"1", "2", "3"}, io.EOF},
		{nil, 2, other, []any{"1", "2"}, io.EOF},
		{nil, 9, other, []any{"1", "2", "3"}, io.EOF},
	} {
		lines, err := emitted(t, func(res cmds.ResponseEmitter) error {
			return emitEach(res, limited(numbers(test.end), test.limit), line, func(err error) error {
				if !errors.Is(err, failed) {
					t.Errorf("the end is %v", err)
				}
				return test.ended
			})
		})
		if !slices.Equal(lines, test.lines) || !errors.Is(err, test.want) {
			t.Errorf("%+v: got %v, %v", test, lines, err)
		}
	}
	lines, err := emitted(t, func(res cmds.ResponseEmitter) error { return emitAll(res, slices.Values([]int{1, 2}), line) })
	if !slices.Equal(lines, []any{"1", "2"}) || !errors.Is(err, io.EOF) {
		t.Errorf("got %v, %v", lines, err)
	}
}

func TestForwardLeavesOutWhatIsShown(t *testing.T) {
	for _, end := range []error{io.EOF, context.DeadlineExceeded} {
		re, res := cmds.NewChanResponsePair(&cmds.Request{Context: t.Context(), Command: &cmds.Command{}})
		go func() {
			for _, line := range []string{"a", "shown", "b"} {
				re.Emit(line)
			}
			if end == io.EOF {
				re.Close()
			} else {
				re.CloseWithError(end)
			}
		}()
		lines, err := emitted(t, func(out cmds.ResponseEmitter) error {
			return forward(res, out, func(line any) bool { return line == "shown" })
		})
		if !slices.Equal(lines, []any{"a", "b"}) || !errors.Is(err, end) {
			t.Errorf("%v: got %v, %v", end, lines, err)
		}
	}
}
