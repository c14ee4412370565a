// Package children starts processes that do not outlive this one.
//
// An operating system does not end the children of a process with it, and a
// process that is killed or that panics cannot end them itself. So each [Group]
// has a guard: a shell that reads from a pipe whose other end only this process
// holds. When this process ends, in whatever way, the guard reads the end of
// its input. It then kills the process group of the children, which their own
// children belong to as well, and removes the directory of the group.
//
// Children that leave their process group (setsid, a shell with job control)
// are not killed. The package needs process groups, so it does not work on
// Windows.
package children

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// Group is a process group and a directory that do not outlive this process.
type Group struct {
	// Dir is a directory for the files of the children and of this process.
	Dir string

	leader *exec.Cmd // the first process of the group; its process ID is the group ID
	guard  *exec.Cmd
	held   io.Closer // this process's end of the guard's input
}

// guard waits for the end of its input. A killed process may still be in a
// system call that creates a file, so a failed removal of the directory is
// repeated. The guard ignores the signals that a terminal sends to all its
// programs.
const guard = `trap '' HUP INT TERM
cat
kill -s KILL -- "-$1"
rm -rf -- "$2" || { sleep 1; rm -rf -- "$2"; }`

// New creates a group. The name of its directory, in [os.TempDir], begins with
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

// start starts the leader and the guard. The leader reads from a pipe whose
// other end only the guard holds. It lives as long as the guard, so the group
// ID is not reused before the guard has killed the group.
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

// Add makes a command that is not started yet run in the group.
func (g *Group) Add(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: g.leader.Process.Pid}
}

// End kills all processes of the group, removes its directory, and returns when
// both are done.
func (g *Group) End() {
	g.held.Close()
	g.guard.Wait()
	g.leader.Wait()
}
