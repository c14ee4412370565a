package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/ipfs/kubo/client/rpc"
	"github.com/ipfs/kubo/cmd/ipfs/kubo"
	"github.com/ipfs/kubo/config"
	"github.com/ipfs/kubo/core/commands"
	"github.com/ipfs/kubo/core/commands/cmdenv"
	ma "github.com/multiformats/go-multiaddr"
)

// BuildEnv is kubo's BuildEnv. For the npp commands, the client calls the
// daemon through a [transport].
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

// transport calls a daemon. A daemon without npp answers "not found", which
// transport turns into an error that says so. It sends the body only once the
// daemon reads it: a daemon that answers without reading the body closes the
// connection, and the client would report that instead of the answer.
type transport struct{ http.RoundTripper }

// continueTimeout bounds how long the client waits for the daemon to read the
// body.
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
	text := fmt.Sprintf("the daemon at %s runs without npp; hint: stop it, and start the daemon of this binary: ipfs daemon", req.URL.Host)
	res.StatusCode = http.StatusInternalServerError
	res.Header.Set("Content-Type", "text/plain")
	res.Body = io.NopCloser(strings.NewReader(text))
	return res, nil
}

// apiOf returns the RPC that the command line calls, or nil if no daemon runs.
func apiOf(req *cmds.Request, env cmds.Environment) (*rpc.HttpApi, error) {
	var api *rpc.HttpApi
	var err error
	if text, ok := req.Options[commands.ApiOption].(string); ok {
		var addr ma.Multiaddr
		if addr, err = ma.NewMultiaddr(text); err != nil {
			return nil, err
		}
		api, err = rpc.NewApi(addr)
	} else {
		var root string
		if root, err = cmdenv.GetConfigRoot(env); err != nil {
			return nil, err
		}
		api, err = rpc.NewPathApi(root)
		if errors.Is(err, rpc.ErrApiNotFound) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if secret, ok := req.Options[commands.ApiAuthOption].(string); ok {
		api.Headers.Set("Authorization", config.ConvertAuthSecret(secret))
	}
	return api, nil
}
