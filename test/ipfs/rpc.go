package ipfs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// RPC is a client of the RPC server of a running daemon.
type RPC struct {
	Base   string // URL of the server, with a trailing slash
	Client *http.Client
}

// RPC returns a client of the daemon that runs on the repo. The client is for
// that daemon alone: the next one may listen on another port.
func (n *Node) RPC() (*RPC, error) {
	text, err := os.ReadFile(filepath.Join(n.Repo, "api"))
	if err != nil {
		return nil, err
	}
	addr := strings.Split(string(text), "/") // "", ip4, host, tcp, port
	if len(addr) != 5 {
		return nil, fmt.Errorf("api file: want /ip4/<host>/tcp/<port>, got %q", text)
	}
	return &RPC{"http://" + addr[2] + ":" + addr[4] + "/", &n.client}, nil
}

// Post posts to a path below /api/v0/, for example "swarm/connect". A body that
// is not nil is sent as a multipart file. The caller checks the status.
func (r *RPC) Post(ctx context.Context, path string, query url.Values, body []byte) (*http.Response, error) {
	var form bytes.Buffer
	contentType := ""
	if body != nil {
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("file", "file")
		if err != nil {
			return nil, err
		}
		part.Write(body) // a bytes.Buffer takes everything
		w.Close()
		contentType = w.FormDataContentType()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Base+"api/v0/"+path+"?"+query.Encode(), &form)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return r.Client.Do(req)
}

// Stream is [RPC.Post] that returns an error unless the status is 200.
func (r *RPC) Stream(ctx context.Context, path string, query url.Values, body []byte) (*http.Response, error) {
	resp, err := r.Post(ctx, path, query, body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("rpc %s: %s: %s", path, resp.Status, text)
	}
	return resp, nil
}

// Call is [RPC.Stream] that reads the whole answer. An error that the server
// reports after the status is returned too.
func (r *RPC) Call(ctx context.Context, path string, query url.Values, body []byte) ([]byte, error) {
	resp, err := r.Stream(ctx, path, query, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("rpc %s: %w", path, err)
	}
	if text := resp.Trailer.Get("X-Stream-Error"); text != "" {
		return nil, fmt.Errorf("rpc %s: %s", path, text)
	}
	return answer, nil
}

// Ask calls a path and decodes its answer, which is one JSON value.
func (r *RPC) Ask(ctx context.Context, answer any, path string, query url.Values, body []byte) error {
	text, err := r.Call(ctx, path, query, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("rpc %s: %w", path, err)
	}
	return nil
}

// Addrs returns the multiaddrs that the daemon announces, each with its peer
// ID.
func (r *RPC) Addrs(ctx context.Context) ([]string, error) {
	id, err := r.id(ctx)
	if err == nil && len(id.Addresses) == 0 {
		err = errors.New("the daemon announces no address")
	}
	return id.Addresses, err
}

// ListenAddr returns the first multiaddr that the daemon listens on, with its
// peer ID.
func (r *RPC) ListenAddr(ctx context.Context) (string, error) {
	id, err := r.id(ctx)
	if err != nil {
		return "", err
	}
	var listen struct{ Strings []string }
	if err := r.Ask(ctx, &listen, "swarm/addrs/listen", nil, nil); err != nil {
		return "", err
	}
	if len(listen.Strings) == 0 {
		return "", errors.New("the daemon listens on no address")
	}
	return listen.Strings[0] + "/p2p/" + id.ID, nil
}

type id struct {
	ID        string
	Addresses []string
}

func (r *RPC) id(ctx context.Context) (answer id, err error) {
	err = r.Ask(ctx, &answer, "id", nil, nil)
	return answer, err
}
