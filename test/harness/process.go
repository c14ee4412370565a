package harness

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/newpieceplease/npp/test/ipfs"
)

// Result is the outcome of a process.
type Result = ipfs.Result

// Process is an [ipfs.Process] whose methods fail the test instead of returning
// an error. It is killed when the test ends.
type Process struct {
	*ipfs.Process

	t testing.TB
}

func start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p, err := ipfs.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return &Process{p, t}
}

// Expect waits for the next line of stdout that contains text, and returns it
// without its newline. Later calls start after that line.
func (p *Process) Expect(text string) string {
	p.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	line, err := p.Process.Expect(ctx, text)
	if err != nil {
		p.t.Fatal(err)
	}
	return line
}

// Signal sends the process a signal.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// Wait waits until the process has ended.
func (p *Process) Wait() Result {
	p.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	r, err := p.Process.Wait(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}
