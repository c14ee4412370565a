// Package ipfs runs ipfs processes on repos of their own, for tests and
// benchmarks.
//
// A [Node] is a repo and the binary that runs on it. Its config is kubo's test
// profile: the daemon listens on free ports of 127.0.0.1 only and knows no
// bootstrap peers. A [Process] keeps its output, which is in the error of every
// wait that fails. An [RPC] is a client of a running daemon.
//
// Every wait ends with its context. The processes and the repos belong to a
// [children.Group], so neither outlives the caller.
package ipfs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/newpieceplease/npp/test/children"
)

// Ready begins the line that a daemon prints when it is ready.
const Ready = "Daemon is ready"

// Config is a set of changes to the config of a repo. Dots separate the parts
// of a key.
type Config map[string]any

// Hidden makes a node announce no address at which it can be reached. Its peers
// connect to it only at an address that they are given, and do not reconnect by
// themselves.
var Hidden = Config{"Addresses.Announce": []string{"/ip4/127.0.0.1/tcp/1"}}

// Node is a repo and the binary that runs on it.
type Node struct {
	Bin  string   // path of the binary; may be changed while no process runs
	Repo string   // IPFS_PATH
	Env  []string // further environment variables, as in os.Environ

	home   string
	group  *children.Group
	client http.Client
}

// New returns a node whose processes run in the group, with home as their home
// and working directory. The repo is in home and does not exist yet.
func New(group *children.Group, bin, home string) *Node {
	return &Node{
		Bin:   bin,
		Repo:  filepath.Join(home, "repo"),
		home:  home,
		group: group,
		// http.DefaultTransport keeps two idle connections per host.
		client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
}

// Init creates the repo.
func (n *Node) Init(ctx context.Context) error {
	p, err := Start(n.Command(ctx, "init", "--profile=test"))
	if err != nil {
		return err
	}
	r, err := p.Wait(ctx)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("ipfs init: %v", r)
	}
	return err
}

// ConfigFile returns the path of the repo's config.
func (n *Node) ConfigFile() string { return filepath.Join(n.Repo, "config") }

// Configure changes the config file without running ipfs, as an operator's
// editor does.
func (n *Node) Configure(changes Config) error {
	config, err := n.config()
	if err != nil {
		return err
	}
	for key, value := range changes {
		parts := strings.Split(key, ".")
		section := config
		for _, part := range parts[:len(parts)-1] {
			sub, ok := section[part].(map[string]any)
			if !ok {
				sub = map[string]any{}
				section[part] = sub
			}
			section = sub
		}
		section[parts[len(parts)-1]] = value
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(n.ConfigFile(), append(text, '\n'), 0o600)
}

func (n *Node) config() (map[string]any, error) {
	text, err := os.ReadFile(n.ConfigFile())
	if err != nil {
		return nil, err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("%s: %w", n.ConfigFile(), err)
	}
	return config, nil
}

// PeerID returns the peer ID in the config.
func (n *Node) PeerID() (string, error) {
	config, err := n.config()
	if err != nil {
		return "", err
	}
	identity, _ := config["Identity"].(map[string]any)
	id, ok := identity["PeerID"].(string)
	if !ok {
		return "", fmt.Errorf("%s has no Identity.PeerID", n.ConfigFile())
	}
	return id, nil
}

// Command returns an ipfs command that is not started yet. Its environment has
// nothing of the caller's own ipfs. It is killed when ctx is done.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.Bin, args...)
	n.group.Add(cmd)
	cmd.Dir = n.home
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + n.home,
		"IPFS_PATH=" + n.Repo,
		"IPFS_TELEMETRY=off",
	}, n.Env...)
	return cmd
}
