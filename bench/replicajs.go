package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// jsReplica is a process of bench/orbitdb/peer.mjs. Times are those that it
// prints.
type jsReplica struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	at      string // its multiaddr
	inbox   inbox
	answers chan jsLine
	ended   chan struct{}

	zero time.Time     // of its clock
	off  time.Duration // largest error of zero
}

// jsLine is a line that peer.mjs prints.
type jsLine struct {
	Addr   string
	Result json.RawMessage
	Error  string
	Hash   string
	At     time.Duration
}

func (js *javaScript) startReplica(ctx context.Context) (*jsReplica, error) {
	dir, err := os.MkdirTemp(js.Dir, "orbitdb-")
	if err != nil {
		return nil, err
	}
	r := &jsReplica{
		cmd:     exec.CommandContext(ctx, "bench/orbitdb/run", "peer.mjs", dir),
		inbox:   make(inbox, inboxSize),
		answers: make(chan jsLine, 1),
		ended:   make(chan struct{}),
	}
	js.Add(r.cmd)
	r.cmd.Stderr = os.Stderr
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	lines := json.NewDecoder(stdout)
	if err := r.begin(lines); err != nil {
		r.stdin.Close()
		r.cmd.Wait()
		return nil, fmt.Errorf("peer.mjs: %w", err)
	}
	go r.read(lines)
	return r, nil
}

// begin reads the address, and compares the clocks by the fastest answer.
func (r *jsReplica) begin(lines *json.Decoder) error {
	var first jsLine
	if err := lines.Decode(&first); err != nil {
		return err
	}
	r.at = first.Addr
	for range 200 {
		began := time.Now()
		if _, err := io.WriteString(r.stdin, `{"command":"clock"}`+"\n"); err != nil {
			return err
		}
		var l struct{ Result time.Duration }
		if err := lines.Decode(&l); err != nil {
			return err
		}
		if off := time.Since(began) / 2; r.zero.IsZero() || off < r.off {
			r.zero, r.off = began.Add(off-l.Result), off
		}
	}
	return nil
}

func (r *jsReplica) read(lines *json.Decoder) {
	defer close(r.ended)
	defer r.cmd.Wait()
	for {
		var l jsLine
		if lines.Decode(&l) != nil {
			return
		}
		if l.Hash != "" {
			r.inbox <- arrival{l.Hash, r.zero.Add(l.At)}
			continue
		}
		r.answers <- l
	}
}

func (r *jsReplica) answer(ctx context.Context) (l jsLine, err error) {
	select {
	case l = <-r.answers:
		if l.Error != "" {
			err = errors.New(l.Error)
		}
	case <-r.ended:
		err = errors.New("the process has ended")
	case <-ctx.Done():
		err = ctx.Err()
	}
	return l, err
}

// ask runs a command and decodes its answer, unless answer is nil.
func (r *jsReplica) ask(ctx context.Context, answer any, command string, args map[string]any) error {
	line := map[string]any{"command": command}
	for k, v := range args {
		line[k] = v
	}
	err := json.NewEncoder(r.stdin).Encode(line)
	var l jsLine
	if err == nil {
		l, err = r.answer(ctx)
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(l.Result, answer)
	}
	if err != nil {
		return fmt.Errorf("peer.mjs: %s: %w", command, err)
	}
	return nil
}

func (r *jsReplica) open(ctx context.Context, name string) error {
	return r.ask(ctx, nil, "open", map[string]any{"name": name})
}

func (r *jsReplica) follow(ctx context.Context, name string, _ int) error {
	return r.ask(ctx, nil, "follow", map[string]any{"name": name})
}

func (r *jsReplica) await(ctx context.Context, hash string) (time.Time, error) {
	return r.inbox.await(ctx, hash, r.ended)
}

func (r *jsReplica) put(ctx context.Context, name string, i int) (written, error) {
	var put struct {
		Hash     string
		At, Took time.Duration
	}
	err := r.ask(ctx, &put, "put", map[string]any{"name": name, "i": i})
	return written{put.Hash, r.zero.Add(put.At), put.Took}, err
}

func (r *jsReplica) fill(ctx context.Context, name string, n int) (hash string, err error) {
	err = r.ask(ctx, &hash, "fill", map[string]any{"name": name, "n": n})
	return hash, err
}

func (r *jsReplica) count(ctx context.Context, name string) (n int, err error) {
	err = r.ask(ctx, &n, "count", map[string]any{"name": name})
	return n, err
}

func (r *jsReplica) addr(context.Context) (string, error) { return r.at, nil }

func (r *jsReplica) connect(ctx context.Context, addr string) error {
	return r.ask(ctx, nil, "connect", map[string]any{"addr": addr})
}

func (r *jsReplica) connections(ctx context.Context) (addrs []string, err error) {
	err = r.ask(ctx, &addrs, "connections", nil)
	return addrs, err
}

func (r *jsReplica) pid() int { return r.cmd.Process.Pid }

func (r *jsReplica) collectGarbage(ctx context.Context) error { return r.ask(ctx, nil, "gc", nil) }

func (r *jsReplica) stop() {
	r.stdin.Close()
	select {
	case <-r.ended:
	case <-time.After(stopPatience):
		r.cmd.Process.Kill()
		<-r.ended
	}
}
