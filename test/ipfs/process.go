package ipfs

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// Result is the outcome of a process.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; -1 after a signal
}

// String returns the result in the form that failure messages show.
func (r Result) String() string {
	return fmt.Sprintf("exit status %d\nstdout:\n%s\nstderr:\n%s", r.Code, r.Stdout, r.Stderr)
}

// Process is a started command.
type Process struct {
	Cmd *exec.Cmd

	stdout, stderr output
	done           chan struct{} // closed when the process has ended and its output is read
	next           int           // offset in stdout of the first line that Expect has not read
}

// Start starts a command and keeps its output.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	p.stdout.grown = make(chan struct{}, 1)
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Expect waits for the next line of stdout that contains text, and returns it
// without its newline. Later calls start after that line.
func (p *Process) Expect(ctx context.Context, text string) (string, error) {
	for {
		ended := false
		select {
		case <-p.done:
			ended = true // the output is complete and is searched once more
		default:
		}
		for rest := p.stdout.String()[p.next:]; ; {
			line, after, ok := strings.Cut(rest, "\n")
			if !ok {
				break
			}
			p.next += len(line) + 1
			if strings.Contains(line, text) {
				return line, nil
			}
			rest = after
		}
		if ended {
			return "", fmt.Errorf("%v ended without the line %q: %v", p.Cmd.Args, text, p.result())
		}
		select {
		case <-p.stdout.grown:
		case <-p.done:
		case <-ctx.Done():
			return "", fmt.Errorf("%v has not printed the line %q: %w: %v", p.Cmd.Args, text, context.Cause(ctx), p.result())
		}
	}
}

// Done returns a channel that is closed when the process has ended and all its
// output is read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the process has ended.
func (p *Process) Wait(ctx context.Context) (Result, error) {
	select {
	case <-p.done:
		return p.result(), nil
	case <-ctx.Done():
		return p.result(), fmt.Errorf("%v still runs: %w: %v", p.Cmd.Args, context.Cause(ctx), p.result())
	}
}

// Signal sends the process a signal.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.Cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("%v: %w", p.Cmd.Args, err)
	}
	return nil
}

// Kill kills the process, if it still runs, and returns when it has ended.
func (p *Process) Kill() {
	p.Cmd.Process.Kill()
	<-p.done
}

func (p *Process) result() Result {
	r := Result{Stdout: p.stdout.String(), Stderr: p.stderr.String(), Code: -1}
	select {
	case <-p.done:
		r.Code = p.Cmd.ProcessState.ExitCode()
	default:
	}
	return r
}

// output is a buffer that signals its growth.
type output struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	grown chan struct{} // may be nil
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.grown <- struct{}{}:
	default:
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
