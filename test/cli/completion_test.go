package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/newpieceplease/npp/test/harness"
)

// shells are the shells that have completions. Each starts with a prompt, loads
// the completions as an installed package has it load them, and has a function
// ipfs that prints its arguments.
var shells = map[string]struct {
	args []string          // of the shell, in the directory of its files
	rc   map[string]string // files of the user
	file string            // where the shell looks for the completions
}{
	"bash": {
		args: []string{"--noprofile", "--rcfile", "rc", "-i"},
		rc: map[string]string{"rc": `
			PS1='ready> '
			ipfs() { echo "got:$*;"; }
			source ./completions/ipfs.bash
		`},
		file: "completions/ipfs.bash",
	},
	"zsh": {
		args: []string{"-i"},
		rc: map[string]string{".zshrc": `
			PROMPT='ready> '
			ipfs() { echo "got:$*;"; }
			fpath=(./completions $fpath)
			autoload -Uz compinit
			compinit -u -D
		`},
		file: "completions/_ipfs",
	},
	"fish": {
		args: []string{"-i"},
		rc: map[string]string{
			"fish/config.fish": `
				function fish_prompt; echo -n 'ready> '; end
				function ipfs; echo "got:$argv;"; end
			`,
			// Without its folder, fish fills it in the background, for longer than
			// the test runs.
			".local/share/fish/generated_completions/none.fish": "",
		},
		file: "fish/completions/ipfs.fish",
	},
}

func TestShellsCompleteNPP(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := harness.Adopt(exec.Command("../../scripts/completions", harness.NPP(t), dir))
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(shell); err != nil {
				t.Skipf("%s is not installed", shell)
			}
			s := startShell(t, shell, dir)
			for typed, want := range map[string]string{
				"ipfs np\t":                           "npp",
				"ipfs npp mess\tst\t":                 "npp messages stat",
				"ipfs npp comp\tad\t--prev\t":         "npp companions add --preview",
				"ipfs npp db cr\t--man\t":             "npp db create --managed",
				"ipfs npp vers\t":                     "npp version",
				"ipfs npp peers --stream\t":           "npp peers --stream-channels", // an option of every command
				"ipfs npp db ls --head\t":             "npp db ls --head",            // an option of ipfs ls
				"ipfs swarm peeri\tl\t":               "swarm peering ls",
				"ipfs --offl\tnpp listen --from\tbob": "--offline npp listen --from bob",
			} {
				s.expect("ready> ")
				s.typeLine(typed)
				s.expect("got:")
				got := strings.TrimSuffix(s.expect(";"), ";")
				if got = strings.ReplaceAll(got, "=", " "); got != want { // fish writes a space
					t.Errorf("%q became %q, want %q", typed, got, want)
				}
			}
		})
	}
}

// interactive is a shell in a terminal.
type interactive struct {
	t    *testing.T
	user *os.File
	out  string // not looked at yet
}

// startShell starts a shell that has the completions in dir.
func startShell(t *testing.T, name, dir string) *interactive {
	t.Helper()
	home, shell := t.TempDir(), shells[name]
	for file, text := range shell.rc {
		writeFile(t, filepath.Join(home, file), text)
	}
	text, err := os.ReadFile(filepath.Join(dir, filepath.Base(shell.file)))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(home, shell.file), string(text))

	terminal, user := openTerminal(t)
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 200}); err != nil {
		t.Fatal(err)
	}
	cmd := harness.Adopt(exec.Command(name, shell.args...))
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "ZDOTDIR=" + home, "XDG_CONFIG_HOME=" + home, "PATH=" + os.Getenv("PATH"), "TERM=xterm"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &interactive{t: t, user: user}
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func (s *interactive) typeLine(text string) {
	s.t.Helper()
	if _, err := s.user.WriteString(text + "\r"); err != nil {
		s.t.Fatal(err)
	}
}

// expect waits until the shell prints a text, and returns what it printed since
// the call before, up to the end of the text.
func (s *interactive) expect(text string) string {
	s.t.Helper()
	if err := s.user.SetReadDeadline(time.Now().Add(harness.Patience)); err != nil {
		s.t.Fatal(err)
	}
	for b := make([]byte, 4096); ; {
		if before, after, ok := strings.Cut(s.out, text); ok {
			s.out = after
			return before + text
		}
		n, err := s.user.Read(b)
		if err != nil {
			s.t.Fatalf("%v; the shell printed %q and not %q", err, s.out, text)
		}
		s.out += string(b[:n])
	}
}
