// Package children starts processes that do not outlive this one.
//
// An operating system leaves the children of a process alone when the process
// ends, and a process that is killed, or that ends with a panic, cannot end them
// itself. So each [Group] has a guard: a shell that reads from a pipe. Only this
// process has the other end of the pipe, so the guard reads the end of the input
// when this process ends, however it ends. The guard then kills the process group
// that the children are in, which their own children are in as well, and removes
// the directory of the group.
//
// Children that leave their process group (setsid, a shell with job control) are
// not killed. It works where there are process groups: not on Windows.
package children

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// Group is a process group and a directory that end with this process.
type Group struct {
	// Dir is a directory for what the children and this process write.
	Dir string

	leader *exec.Cmd // the first process of the group, which gives it its ID
	guard  *exec.Cmd
	held   io.Closer // the end of the guard's input that this process has
}

// guard waits for the end of its input. What it kills may be in a system call that
// still makes a file, so it removes the directory again where that failed. It
// ignores the signals that end all programs of a terminal.
const guard = `trap '' HUP INT TERM
cat
kill -s KILL -- "-$1"
rm -rf -- "$2" || { sleep 1; rm -rf -- "$2"; }`

// New makes a group. The name of its directory, in [os.TempDir], begins with
// prefix.
func New(prefix string) (*Group, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	g := &Group{Dir: dir}
	if err := g.start(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("guard of child processes: %w", err)
	}
	return g, nil
}

// start starts the leader and the guard. The leader reads from a pipe of which
// only the guard has the other end: it is there as long as the guard is, so the ID of
// the group is not given to other processes before the guard has killed it.
func (g *Group) start() error {
	end, held, err := os.Pipe()
	if err != nil {
		return err
	}
	defer end.Close()
	defer held.Close()
	g.leader = exec.Command("cat")
	g.leader.Stdin = end
	g.leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := g.leader.Start(); err != nil {
		return err
	}
	g.guard = exec.Command("sh", "-c", guard, "sh", strconv.Itoa(g.leader.Process.Pid), g.Dir)
	g.guard.ExtraFiles = []*os.File{held}
	g.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if g.held, err = g.guard.StdinPipe(); err != nil {
		return err
	}
	return g.guard.Start()
}

// Add has a command that is not started yet run in the group.
func (g *Group) Add(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: g.leader.Process.Pid}
}

// End kills all processes of the group, removes its directory, and returns when
// that is done.
func (g *Group) End() {
	g.held.Close()
	g.guard.Wait()
	g.leader.Wait()
}
