package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/newpieceplease/npp/test/children"
)

// javaScript is @orbitdb/core as bench/orbitdb measures it.
type javaScript struct {
	*children.Group        // of its processes; its directory holds their databases
	missing         string // why it cannot run, or ""
}

// installJavaScript installs the packages of bench/orbitdb, unless they are
// installed.
func installJavaScript(ctx context.Context, b *bench) (*javaScript, error) {
	js := &javaScript{Group: b.Group}
	if _, err := exec.LookPath("npm"); err != nil {
		js.missing = "npm (part of Node.js) is not installed"
		return js, nil
	}
	progress("install @orbitdb/core")
	_, err := js.run(ctx, 1, "nothing")
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		js.missing = "the installation failed"
		progress("%v", err)
	}
	return js, nil
}

// without returns a sentence on why JavaScript is missing, or "".
func (js *javaScript) without() string {
	if js.missing == "" {
		return ""
	}
	return " @orbitdb/core was not measured: " + js.missing + "."
}

// figure is one measure that bench.mjs prints.
type figure struct {
	Name      string
	N         int
	Ops       int
	Ms        float64
	PerSecond float64
	P50Us     float64
}

func (f figure) took() time.Duration { return time.Duration(f.Ms * float64(time.Millisecond)) }
func (f figure) p50() time.Duration  { return time.Duration(f.P50Us * float64(time.Microsecond)) }

// run measures with n documents, in new processes.
func (js *javaScript) run(ctx context.Context, n int, names ...string) (map[string]figure, error) {
	cmd := exec.CommandContext(ctx, "bench/orbitdb/run", "bench.mjs", "--n", strconv.Itoa(n), "--only", strings.Join(names, ","), "--dir", js.Dir)
	js.Add(cmd)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("bench/orbitdb/run: %w\n%s", err, stderr.Bytes())
	}
	figures := make(map[string]figure)
	for line := range bytes.Lines(out) {
		var f figure
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, fmt.Errorf("bench/orbitdb/run: %w: %q", err, line)
		}
		figures[f.Name] = f
	}
	for _, name := range names {
		if _, ok := figures[name]; !ok && name != "nothing" {
			return nil, fmt.Errorf("bench/orbitdb/run did not measure %s", name)
		}
	}
	return figures, nil
}
