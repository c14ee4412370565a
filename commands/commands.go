// Package commands is `ipfs npp …`, at the command line and below /api/v0/npp
// alike. A command parses, calls the daemon's services and prints; what it does is
// decided there.
//
// kubo runs a command in the daemon where there is one and in the client where
// there is none, so every command first asks for the daemon of its own process
// and says what is amiss where there is none.
//
// # Cost
//
// A request comes from whoever may call the API, with arguments as long as the HTTP
// server takes. A peer is a text of at most 1024 bytes, a hash has [piece.MaxHash], an
// expression [where.MaxLength], and 256 peers are dialled with one request. The body is
// one part, and costs
//
//   - of `db put`: at most twice [entry.MaxSize] of JSON, in memory at once. With --many,
//     one line of that size at a time; 256 entries, or 512 KiB, share a transaction;
//   - of `db import`: what [orbit.Orbit.Import] says; the body is read as a stream;
//   - of `send`: at most twice what a message may have ([message.Limits]), in memory;
//   - of `pieces add`: any size, read as a stream and written to the node's blocks. A
//     file that is in no folder and has a --title is first written to the directory for
//     temporary files. Folders nest 100 deep.
//
// Commands that write are refused while the disk is almost full (package space). The
// temporary file is written all the same.
package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/ipfs/boxo/files"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/ipfs/kubo/cmd/ipfs/kubo"
	kubocmds "github.com/ipfs/kubo/commands"
	"github.com/ipfs/kubo/core/commands"
	"github.com/ipfs/kubo/core/commands/cmdenv"

	"github.com/newpieceplease/npp/plugin"
)

// Name is the command's name below `ipfs`.
const Name = "npp"

var nppCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Share a library of sheet music, find peers, exchange messages.",
		ShortDescription: `
'ipfs npp' keeps a library of sheet music and shares it with companions, finds
the way to other peers, exchanges messages with them and keeps OrbitDB
databases: as the peer that this daemon is, without a server. All of it needs
a running daemon ('ipfs daemon').

  ipfs npp status                         how the daemon is
  ipfs npp pieces add prelude.pdf         add a piece of sheet music
  ipfs npp pieces ls --all                your pieces and those of companions
  ipfs npp practice <piece>               count that you practised it
  ipfs npp companions add <peer>          follow the library of somebody
  ipfs npp peers                          who is connected
  ipfs npp connect <peer>                 connect to somebody
  ipfs npp send <peer> '{"hello":"you"}'  send any JSON value, with a receipt
  ipfs npp listen                         print what arrives
  ipfs npp id                             who this daemon is to others
  ipfs npp db ls                          the databases that are here
  ipfs npp db put <db> '{"hash":"Qm…"}'   put a document
  ipfs npp db open <address>              replicate a database of another peer

Output is for people; '--enc=json' prints one JSON object a line. The same
commands are at /api/v0/npp/… of the daemon's RPC.
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

// Register puts the npp commands into kubo's command trees, that of the client
// and that of the RPC API, and takes `ipfs update` out of them: it would
// replace this binary with a stock one.
func Register() {
	for _, root := range []*cmds.Command{commands.Root, kubo.Root} {
		root.Subcommands[Name] = nppCmd
		delete(root.Subcommands, "update")
		help := &root.Helptext.Subcommands // a text, not made from the commands
		*help = updateLine.ReplaceAllString(*help, "")
		*help = pubsubLine.ReplaceAllString(*help, "$0  npp           "+strings.TrimSuffix(nppCmd.Helptext.Tagline, ".")+"\n")
	}
}

var (
	updateLine = regexp.MustCompile(`(?m)^  update .*\n`)
	pubsubLine = regexp.MustCompile(`(?m)^  pubsub .*\n`)
)

// BuildEnv is kubo's BuildEnv. For the commands of npp, it changes how the client
// calls a daemon, see [transport].
func BuildEnv(preload kubo.PluginPreloader) func(context.Context, *cmds.Request) (cmds.Environment, error) {
	build := kubo.BuildEnv(preload)
	return func(ctx context.Context, req *cmds.Request) (cmds.Environment, error) {
		env, err := build(ctx, req)
		if len(req.Path) > 0 && req.Path[0] == Name {
			http.DefaultTransport = newTransport()
		}
		return env, err
	}
}

// transport calls a daemon. It turns "not found", which a daemon without npp
// answers, into an error with a reason. It sends a body only when the daemon reads
// it: a daemon that answers without reading closes the connection, and the client
// would report that in place of the answer.
type transport struct{ http.RoundTripper }

// continueTimeout is how long the client waits until the daemon reads a body.
const continueTimeout = 10 * time.Second

func newTransport() transport {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return transport{http.DefaultTransport}
	}
	t = t.Clone()
	t.ExpectContinueTimeout = continueTimeout
	return transport{t}
}

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil && req.Body != http.NoBody {
		req = req.Clone(req.Context())
		req.Header.Set("Expect", "100-continue")
	}
	res, err := t.RoundTripper.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusNotFound || !strings.Contains(req.URL.Path, "/"+Name+"/") {
		return res, err
	}
	res.Body.Close()
	text := fmt.Sprintf("the daemon at %s runs without npp; hint: stop it and start the daemon of this binary: ipfs daemon", req.URL.Host)
	res.StatusCode = http.StatusInternalServerError
	res.Header.Set("Content-Type", "text/plain")
	res.Body = io.NopCloser(strings.NewReader(text))
	return res, nil
}

// daemon is the daemon of this process, or an error with the next step.
func daemon(env cmds.Environment) (*plugin.Daemon, error) {
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
		return nil, fmt.Errorf("%w on the repo %s; hint: start it and leave it running: ipfs daemon", err, root)
	case errors.Is(err, plugin.ErrDisabled):
		return nil, fmt.Errorf("%w in the daemon's config; hint: ipfs config --bool Plugins.Plugins.npp.Disabled false, and restart the daemon", err)
	case errors.Is(err, plugin.ErrOffline):
		return nil, fmt.Errorf("%w; hint: restart it without that option", err)
	}
	return nil, err
}

// inDaemon tells whether this process is a daemon, whose node exists already.
func inDaemon(env cmds.Environment) bool {
	if _, ok := env.(*kubocmds.Context); !ok {
		return false
	}
	node, err := cmdenv.GetNode(env)
	return err == nil && node.IsDaemon
}

// Errors of a request's body.
var (
	errEmptyBody    = errors.New("the body is empty")
	errNotMultipart = errors.New("the body is not multipart/form-data and was not read; hint: post it as curl -F 'file=…' does")
	errManyParts    = errors.New("the body has more than one part; hint: post one with each request")
)

// body returns the multipart body of a request: its one part, or nil if there is
// no body. The name of the part does not matter. An error calls the body what, and
// is empty where the body has no part. Where another part follows, the reader ends
// with [errManyParts].
func body(req *cmds.Request, res cmds.ResponseEmitter, what string, empty error) (io.Reader, error) {
	if err := checkBody(req, res); err != nil || req.Files == nil {
		return nil, err
	}
	it := req.Files.Entries()
	if !it.Next() {
		return nil, errors.Join(empty, it.Err())
	}
	f := files.FileFromEntry(it)
	if f == nil {
		return nil, fmt.Errorf("the %s is no file", what)
	}
	return &onePart{f, req.Files}, nil
}

// checkBody returns [errNotMultipart] for a body that is not multipart.
//
// go-ipfs-cmds leaves such a body unread and does not tell the command of it. Its
// emitter for HTTP knows whether there is a body, as it closes the connection
// where one was not read to its end.
func checkBody(req *cmds.Request, res cmds.ResponseEmitter) error {
	if req.Files != nil {
		return nil
	}
	emitter := reflect.Indirect(reflect.ValueOf(res))
	if emitter.Kind() != reflect.Struct {
		return nil
	}
	if end := emitter.FieldByName("bodyEOFChan"); end.IsValid() && !end.IsNil() {
		return errNotMultipart
	}
	return nil
}

// onePart reads the first part of a multipart body, and ends with [errManyParts]
// unless it is the last one.
type onePart struct {
	io.Reader
	body files.Directory
}

func (p *onePart) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		// The iterator of the first part would pass over parts whose names are
		// below the name of that.
		switch it := p.body.Entries(); {
		case it.Next():
			err = errManyParts
		case it.Err() != nil:
			err = it.Err()
		}
	}
	return n, err
}

// interrupted tells whether a stream ended because its reader went away.
func interrupted(req *cmds.Request, err error) bool {
	return errors.Is(err, context.Canceled) && req.Context.Err() != nil
}

// untilInterrupted makes an interrupt at the command line the normal end of a
// command that streams.
var untilInterrupted = cmds.PostRunMap{
	cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		for {
			v, err := res.Next()
			switch {
			case errors.Is(err, io.EOF) || interrupted(res.Request(), err):
				return nil
			case err != nil:
				return err
			}
			if err := re.Emit(v); err != nil {
				return err
			}
		}
	},
}
