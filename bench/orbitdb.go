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
	*children.Group        // of its processes, and the directory of its databases
	missing         string // why it cannot be run, or ""
}

// installJavaScript installs what bench/orbitdb needs, unless it is there.
func installJavaScript(ctx context.Context, b *bench) (*javaScript, error) {
	js := &javaScript{Group: b.Group}
	if _, err := exec.LookPath("npm"); err != nil {
		js.missing = "npm, which comes with Node.js, is not installed"
		return js, nil
	}
	progress("install @orbitdb/core")
	_, err := js.run(ctx, 1, "nothing")
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		js.missing = "it could not be installed"
		progress("%v", err)
	}
	return js, nil
}

// without says that JavaScript is missing, where it is.
func (js *javaScript) without() string {
	if js.missing == "" {
		return ""
	}
	return " @orbitdb/core was not measured: " + js.missing + "."
}

// figure is what bench.mjs prints of a measure.
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

// run measures with n documents, in processes that start for it.
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
			return nil, fmt.Errorf("bench/orbitdb/run has not measured %s", name)
		}
	}
	return figures, nil
}
