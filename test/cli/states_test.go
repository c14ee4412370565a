package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

const somePeer = "12D3KooWBXu3uGPMkjjxViK6autSnFH5QaKJgTwW8CaSxYSD6yYL"

// versionCommand is the command that needs no daemon.
const versionCommand = "ipfs npp version"

// calls has for each command of `ipfs npp` the arguments with which it succeeds
// on a running daemon.
var calls = map[string][]string{
	"ipfs npp peers":         {"npp", "peers"},
	"ipfs npp connect":       {"npp", "connect", somePeer},
	"ipfs npp send":          {"npp", "send", somePeer, "a message"},
	"ipfs npp listen":        {"npp", "listen"},
	"ipfs npp messages ls":   {"npp", "messages", "ls"},
	"ipfs npp messages rm":   {"npp", "messages", "rm", "--all"},
	"ipfs npp messages stat": {"npp", "messages", "stat"},
	versionCommand:           {"npp", "version"},
}

func TestEveryCommandIsTriedInEveryState(t *testing.T) {
	t.Parallel()
	commands := slices.DeleteFunc(lines(harness.Bare(t, harness.NPP(t)).MustRun("commands")), func(c string) bool { return !isNPP(c) })
	for _, command := range commands {
		group := slices.ContainsFunc(commands, func(c string) bool { return strings.HasPrefix(c, command+" ") })
		if _, ok := calls[command]; !ok && !group {
			t.Errorf("%s is missing in calls", command)
		}
	}
	for command := range calls {
		if !slices.Contains(commands, command) {
			t.Errorf("%s is not a command", command)
		}
	}
}

// Where npp is not running, each of its commands states the reason and a
// remedy.
func TestWithoutNPPAtWorkCommandsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for _, state := range []struct {
		name  string
		setUp func(t *testing.T) *harness.Node
		want  []string // in stderr
	}{{
		name:  "no repo",
		setUp: func(t *testing.T) *harness.Node { return harness.Bare(t, harness.NPP(t)) },
		want:  []string{"daemon", "hint: ", "ipfs daemon"},
	}, {
		name:  "daemon never started",
		setUp: func(t *testing.T) *harness.Node { return harness.New(t) },
		want:  []string{"no daemon is running", "hint: ", "ipfs daemon"},
	}, {
		name: "daemon stopped",
		setUp: func(t *testing.T) *harness.Node {
			n := harness.New(t).Start()
			n.Stop()
			return n
		},
		want: []string{"no daemon is running", "hint: ", "ipfs daemon"},
	}, {
		name: "daemon killed",
		setUp: func(t *testing.T) *harness.Node {
			n := harness.New(t).Start()
			n.Kill()
			n.APIURL() // it leaves its api file
			return n
		},
		want: []string{"no daemon is running", "hint: ", "ipfs daemon"},
	}, {
		name: "daemon without npp",
		setUp: func(t *testing.T) *harness.Node {
			n := harness.NewStock(t).Start()
			n.Bin = harness.NPP(t)
			return n
		},
		want: []string{"without npp", "hint: "},
	}, {
		name: "disabled, daemon running",
		setUp: func(t *testing.T) *harness.Node {
			return harness.New(t).Set("Plugins.Plugins.npp.Disabled", true).Start()
		},
		want: []string{"Plugins.Plugins.npp.Disabled", "hint: "},
	}, {
		name: "disabled, no daemon",
		setUp: func(t *testing.T) *harness.Node {
			return harness.New(t).Set("Plugins.Plugins.npp.Disabled", true)
		},
		want: []string{"no daemon is running", "hint: ", "ipfs daemon"},
	}, {
		name: "disabled, daemon killed",
		setUp: func(t *testing.T) *harness.Node {
			n := harness.New(t).Set("Plugins.Plugins.npp.Disabled", true).Start()
			n.Kill()
			return n
		},
		want: []string{"no daemon is running", "hint: ", "ipfs daemon"},
	}, {
		name:  "daemon offline",
		setUp: func(t *testing.T) *harness.Node { return harness.New(t).Start("--offline") },
		want:  []string{"--offline", "hint: "},
	}} {
		t.Run(state.name, func(t *testing.T) {
			t.Parallel()
			n := state.setUp(t)
			for command, args := range calls {
				r := n.Run(args...)
				if command == versionCommand {
					if r.Code != 0 || !strings.HasPrefix(r.Stdout, "npp ") {
						t.Errorf("%s: %v", command, r)
					}
					continue
				}
				if r.Code != 1 || r.Stdout != "" {
					t.Errorf("%s: %v", command, r)
				}
				for _, want := range state.want {
					if !strings.Contains(r.Stderr, want) {
						t.Errorf("%s: stderr does not have %q: %s", command, want, r.Stderr)
					}
				}
				if got := strings.Count(r.Stderr, "\n"); got != 1 || strings.Contains(r.Stderr, "goroutine") {
					t.Errorf("%s: stderr is not one line: %s", command, r.Stderr)
				}
			}
		})
	}
}

// An error in the configuration stops the daemon with one sentence that names
// the key, and affects nothing else.
func TestBadConfigStopsOnlyTheDaemon(t *testing.T) {
	t.Parallel()
	const config = "Plugins.Plugins.npp.Config"
	n := harness.New(t)
	mend := func() string {
		t.Helper()
		n.MustRun("config", "--json", config, "{}")
		return readConfig(t, n)
	}
	mended := mend()
	for _, test := range []struct {
		name, key string
		value     any
	}{
		{"no object", config, 5},
		{"unknown section", config + ".Mesages", map[string]any{}},
		{"unknown key", config + ".Messages.MaxSize", 5},
		{"section of wrong type", config + ".Messages", []int{1}},
		{"value of wrong type", config + ".Messages.MaxMessageBytes", "many"},
		{"null", config + ".Messages.MaxMessageBytes", nil},
		{"fraction", config + ".Messages.StoreBytes", 1.5},
		{"zero", config + ".Messages.MaxMessageBytes", 0},
		{"out of range", config + ".Messages.MaxMessageBytes", 1 << 40},
		{"word not known", config + ".Messages.WhenPeerFull", "maybe"},
		{"negative", config + ".Messages.StoreBytes", -1},
		{"bad duration", config + ".Messages.KeepFor", "a fortnight"},
	} {
		r := n.Set(test.key, test.value).Run("daemon")
		if r.Code != 1 {
			t.Errorf("%s: daemon: %v", test.name, r)
		}
		var named []string
		for _, line := range lines(r.Stderr) {
			if strings.Contains(line, test.key) {
				named = append(named, line)
			}
		}
		if len(named) != 1 || !strings.HasPrefix(named[0], "Error: ") {
			t.Errorf("%s: stderr does not name %s in one error: %s", test.name, test.key, r.Stderr)
		}
		if strings.Contains(r.Stdout, "Daemon is ready") {
			t.Errorf("%s: daemon started: %v", test.name, r)
		}
		n.MustRun("version")
		if got := mend(); got != mended {
			t.Errorf("%s: the mended config is\n%s\nwant\n%s", test.name, got, mended)
		}
	}
	n.Start()
	n.MustRun("npp", "peers")
}
