package harness

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Result is what a process left behind.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; -1 after a signal
}

// String shows the result in test failures.
func (r Result) String() string {
	return fmt.Sprintf("exit status %d\nstdout:\n%s\nstderr:\n%s", r.Code, r.Stdout, r.Stderr)
}

// Process is a running ipfs. It is killed when the test ends.
type Process struct {
	Cmd *exec.Cmd

	t              testing.TB
	stdout, stderr output
	done           chan struct{} // closed at the end, with all output read
	next           int           // offset in stdout of the first line that Expect has not seen
}

// start starts the command with its output kept.
func start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, t: t, done: make(chan struct{})}
	p.stdout.grown = make(chan struct{}, 1)
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
	})
	return p
}

// Expect waits for the next line of stdout that contains text and returns it
// without its newline. The lines up to it are skipped for later calls.
func (p *Process) Expect(text string) string {
	p.t.Helper()
	timeout := time.After(Patience)
	for {
		ended := false
		select {
		case <-p.done:
			ended = true // what was written is complete: one last look
		default:
		}
		for rest := p.stdout.String()[p.next:]; ; {
			line, after, ok := strings.Cut(rest, "\n")
			if !ok {
				break
			}
			p.next += len(line) + 1
			if strings.Contains(line, text) {
				return line
			}
			rest = after
		}
		if ended {
			p.t.Fatalf("%v ended without the line %q: %v", p.Cmd.Args, text, p.result())
		}
		select {
		case <-p.stdout.grown:
		case <-p.done:
		case <-timeout:
			p.t.Fatalf("%v: no line %q after %v: %v", p.Cmd.Args, text, Patience, p.result())
		}
	}
}

// Signal sends the process a signal.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%v: %v", p.Cmd.Args, err)
	}
}

// Done is closed when the process has ended and all its output is read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process.
func (p *Process) Wait() Result {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(Patience):
		p.t.Fatalf("%v still runs after %v: %v", p.Cmd.Args, Patience, p.result())
	}
	return p.result()
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

// output is a buffer that tells when it has grown.
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
