// Package commands implements `ipfs npp …`, at the command line and below
// /api/v0/npp. A command parses its arguments, calls the services of the
// daemon, and prints; it decides nothing itself.
//
// kubo runs a command in the daemon's process if a daemon runs, and in the
// client's process otherwise. Every command first asks for the daemon of its
// process and, if there is none, returns an error that says why.
//
// # Cost
//
// Anybody who may call the API sends requests, with arguments as long as the
// HTTP server accepts. A peer is a text of at most 1024 bytes, a hash is
// bounded by [piece.MaxHash], an expression by [where.MaxLength], and one
// request dials at most 256 peers. The body has one part, which costs
//
//   - for `db put`, at most twice [entry.MaxSize] of JSON in memory. With
//     --many, one line of that size at a time; up to 256 entries, or 512 KiB,
//     share a transaction;
//   - for `db import`, what [orbit.Orbit.Import] says; the body is read as a
//     stream;
//   - for `send`, at most twice the largest message ([message.Limits]) in
//     memory;
//   - for `pieces add`, any size: it is read as a stream and written to the
//     node's blocks. A single file with a --title is first written to the
//     directory for temporary files. Folders nest at most 100 deep.
//
// Commands that write are refused while the disk is almost full (package
// space), but the temporary file is written even then.
package commands

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/ipfs/kubo/cmd/ipfs/kubo"
	kubocmds "github.com/ipfs/kubo/commands"
	"github.com/ipfs/kubo/core/commands"
	"github.com/ipfs/kubo/core/commands/cmdenv"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/plugin"
)

// Name is the command's name below `ipfs`.
const Name = "npp"

var nppCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Share sheet music, connect to peers, send messages.",
		ShortDescription: `
'ipfs npp' keeps a library of sheet music and shares it with companions. It
also connects to other peers, sends and receives messages, and replicates
OrbitDB databases. There is no server: the daemon does all of it, so start it
first and leave it running ('ipfs daemon'). Only 'ipfs npp version' works
without it.

  ipfs npp status                         show how the daemon is doing
  ipfs npp pieces add prelude.pdf         add a piece of sheet music
  ipfs npp pieces ls --all                list your and companions' pieces
  ipfs npp practice <piece>               record that you practised a piece
  ipfs npp companions add <peer>          follow the library of a peer
  ipfs npp peers                          list the connected peers
  ipfs npp connect <peer>                 connect to a peer
  ipfs npp send <peer> '{"hello":"you"}'  send a message and get a receipt
  ipfs npp listen                         print messages as they arrive
  ipfs npp id                             show your peer ID and addresses
  ipfs npp db ls                          list the databases on this daemon
  ipfs npp db put <db> '{"hash":"Qm…"}'   write to a database
  ipfs npp db open <address>              replicate a database of others

'--enc=json' prints one JSON object per line instead of text. Every command is
also available over HTTP, at /api/v0/npp/… of the daemon's RPC.
`,
	},
	Subcommands: map[string]*cmds.Command{
		"peers":      peersCmd,
		"connect":    connectCmd,
		"send":       sendCmd,
		"listen":     listenCmd,
		"messages":   messagesCmd,
		"id":         idCmd,
		"status":     statusCmd,
		"companions": companionsCmd,
		"pieces":     piecesCmd,
		"practice":   practiceCmd,
		"profile":    profileCmd,
		"db":         dbCmd,
		"version":    versionCmd,
	},
}

// Register adds the npp commands to kubo's command trees, the client's and the
// RPC API's, and removes `ipfs update`, which would replace this binary with a
// stock one.
func Register() {
	for _, root := range []*cmds.Command{commands.Root, kubo.Root} {
		root.Subcommands[Name] = nppCmd
		delete(root.Subcommands, "update")
		help := &root.Helptext.Subcommands // a fixed text, not generated
		*help = updateLine.ReplaceAllString(*help, "")
		*help = pubsubLine.ReplaceAllString(*help, "$0  npp           "+strings.TrimSuffix(nppCmd.Helptext.Tagline, ".")+"\n")
	}
}

var (
	updateLine = regexp.MustCompile(`(?m)^  update .*\n`)
	pubsubLine = regexp.MustCompile(`(?m)^  pubsub .*\n`)
)

// daemonOf returns the daemon of this process. An error says what to do.
func daemonOf(env cmds.Environment) (*daemon.Daemon, error) {
	d, err := plugin.Current()
	if err == nil {
		return d, nil
	}
	if errors.Is(err, plugin.ErrDisabled) && !inDaemon(env) {
		err = plugin.ErrNotRunning
	}
	switch {
	case errors.Is(err, plugin.ErrNotRunning):
		root, _ := cmdenv.GetConfigRoot(env)
		return nil, fmt.Errorf("%w for the repo %s; hint: start one and leave it running: ipfs daemon", err, root)
	case errors.Is(err, plugin.ErrDisabled):
		return nil, fmt.Errorf("%w in the daemon's config; hint: ipfs config --bool Plugins.Plugins.npp.Disabled false, and restart the daemon", err)
	case errors.Is(err, plugin.ErrOffline):
		return nil, fmt.Errorf("%w; hint: restart it without that option", err)
	}
	return nil, err
}

// inDaemon reports whether this process is a daemon whose node exists already.
func inDaemon(env cmds.Environment) bool {
	if _, ok := env.(*kubocmds.Context); !ok {
		return false
	}
	node, err := cmdenv.GetNode(env)
	return err == nil && node.IsDaemon
}
