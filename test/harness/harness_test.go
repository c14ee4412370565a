package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// endEnv is how the test binary that runs [TestVictim] ends.
const endEnv = "NPP_HARNESS_END"

// A test binary that is killed, or that panics as at its time limit, leaves no
// daemon and no file behind.
func TestNothingOutlivesTheTestBinary(t *testing.T) {
	for _, end := range []string{"killed", "panic", "exit"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			// The test binary and its daemon hold the write end of a pipe,
			// which is closed once neither runs.
			alive, held, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer alive.Close()
			victim := Adopt(exec.Command(os.Args[0], "-test.run=^TestVictim$", "-test.v"))
			victim.Env = append(os.Environ(), endEnv+"="+end)
			victim.ExtraFiles = []*os.File{held}
			out, err := victim.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			err = victim.Start()
			held.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer victim.Wait()
			dir, running := "", false
			for lines := bufio.NewScanner(out); !running && lines.Scan(); {
				dir, running = strings.CutPrefix(lines.Text(), "its daemon runs in ")
			}
			if !running {
				t.Fatal("the test binary ended before its daemon ran")
			}
			if end == "killed" {
				victim.Process.Signal(syscall.SIGKILL)
			}

			alive.SetReadDeadline(time.Now().Add(Patience))
			if _, err := alive.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("the daemon still runs: %v", err)
			}
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for end := time.Now().Add(Patience); ; <-tick.C {
				if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%s still exists", dir)
				}
			}
		})
	}
}

// TestVictim is the test binary of [TestNothingOutlivesTheTestBinary]. It
// starts a daemon and ends before its test does.
func TestVictim(t *testing.T) {
	end := os.Getenv(endEnv)
	if end == "" {
		t.Skip("only for TestNothingOutlivesTheTestBinary")
	}
	cmd := New(t).Command("daemon")
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "pipe")} // the first inherited file
	start(t, cmd).Expect("Daemon is ready")
	fmt.Println("its daemon runs in", group.Dir)
	switch end {
	case "panic":
		go panic("as at the time limit")
	case "exit":
		os.Exit(1)
	}
	select {}
}
