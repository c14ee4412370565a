package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// The bars for what npp may add to a daemon.
const (
	startBar  = 50 * time.Millisecond
	memoryBar = 15 // MiB
)

// startInTurns returns the durations until two daemons were ready, over the
// given number of rounds.
func startInTurns(ctx context.Context, nodes [2]*node, rounds int) (took [2][]time.Duration, err error) {
	for round := range rounds + 1 {
		for i, n := range nodes {
			if err := n.start(ctx); err != nil {
				return took, err
			}
			n.stop()
			if round > 0 { // the first start sets up the repo or reads freshly written files
				took[i] = append(took[i], n.ready)
			}
		}
	}
	return took, nil
}

// benchStart measures how long a daemon takes to be ready.
func benchStart(ctx context.Context, b *bench) (*section, error) {
	nodes, err := oneOfEach(ctx, b)
	if err != nil {
		return nil, err
	}
	rounds := b.pick(20, 6)
	took, err := startInTurns(ctx, nodes, rounds)
	if err != nil {
		return nil, err
	}
	more := median(differences(took[0], took[1]))
	s := &section{
		title: "Start to ready",
		how: fmt.Sprintf("From the start of `ipfs daemon` to its line \"Daemon is ready\", on a used repo; %d starts each, in turns. "+
			"The median difference is of neighbouring starts.", rounds),
	}
	s.row("", "npp", "stock", "difference")
	s.row("median", ms(median(took[0])), ms(median(took[1])), ms(more))
	for _, p := range []int{10, 90} {
		npp, stock := percentile(took[0], p), percentile(took[1], p)
		s.row(fmt.Sprintf("p%d", p), ms(npp), ms(stock), ms(npp-stock))
	}
	s.verdict(more <= startBar, "npp adds at most %d ms to a start; it adds %s.", startBar.Milliseconds(), ms(more))
	return s, nil
}

// oneOfEach returns a repo for each side, npp's first.
func oneOfEach(ctx context.Context, b *bench) (nodes [2]*node, err error) {
	for i, bin := range []string{b.npp, b.stock} {
		if nodes[i], err = newNode(ctx, b, bin, nil); err != nil {
			break
		}
	}
	return nodes, err
}

// The moments at which memory is read.
const (
	idleAfter   = 10 * time.Second // after the daemon is ready
	settleAfter = 3 * time.Second  // after a forced garbage collection
)

// benchMemory measures the memory of an idle daemon.
func benchMemory(ctx context.Context, b *bench) (*section, error) {
	nodes, err := oneOfEach(ctx, b)
	if err != nil {
		return nil, err
	}
	figures := []struct {
		name, field string
		settled     bool
		mib         [2][]float64
	}{
		{name: "resident (VmRSS)", field: "VmRSS"},
		{name: "anonymous part (RssAnon)", field: "RssAnon"},
		{name: "pages of the binary (RssFile)", field: "RssFile"},
		{name: "resident after a garbage collection", field: "VmRSS", settled: true},
		{name: "anonymous after a garbage collection", field: "RssAnon", settled: true},
	}
	read := func(settled bool) error {
		for f := range figures {
			if figures[f].settled != settled {
				continue
			}
			for i, n := range nodes {
				v, err := n.memory(figures[f].field)
				if err != nil {
					return err
				}
				figures[f].mib[i] = append(figures[f].mib[i], v)
			}
		}
		return nil
	}
	round := func() error {
		for _, n := range nodes {
			defer n.stop()
			if err := n.start(ctx); err != nil {
				return err
			}
		}
		if err := wait(ctx, idleAfter); err != nil {
			return err
		}
		if err := read(false); err != nil {
			return err
		}
		for _, n := range nodes {
			if err := n.collectGarbage(ctx); err != nil {
				return err
			}
		}
		if err := wait(ctx, settleAfter); err != nil {
			return err
		}
		return read(true)
	}
	rounds := b.pick(5, 2)
	for range rounds {
		if err := round(); err != nil {
			return nil, err
		}
	}
	s := &section{
		title: "Memory of an idle daemon",
		how: fmt.Sprintf("`/proc/<pid>/status`, %.0f s after both daemons are ready, side by side, and %.0f s after a garbage collection of each; %d rounds.",
			idleAfter.Seconds(), settleAfter.Seconds(), rounds),
	}
	s.row("", "npp", "stock", "difference")
	for _, f := range figures {
		s.row(f.name, fmt.Sprintf("%.1f MiB", median(f.mib[0])), fmt.Sprintf("%.1f MiB", median(f.mib[1])),
			fmt.Sprintf("%+.1f MiB", median(differences(f.mib[0], f.mib[1]))))
	}
	more := median(differences(figures[0].mib[0], figures[0].mib[1]))
	s.verdict(more <= memoryBar, "npp takes at most %d MiB more resident memory when idle; the difference is %+.1f MiB.", memoryBar, more)
	return s, nil
}

// memory returns a field of the daemon's status, in MiB.
func (n *node) memory(field string) (float64, error) { return processMemory(n.pid(), field) }

// processMemory returns a field of a process's status, in MiB.
func processMemory(pid int, field string) (float64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}

// collectGarbage forces a garbage collection in the daemon.
func (n *node) collectGarbage(ctx context.Context) error {
	_, err := n.heap(ctx)
	return err
}

// heap forces two garbage collections, since finalizers free some memory only
// in the second, and returns the size of live objects in MiB.
func (n *node) heap(ctx context.Context) (live float64, err error) {
	for range 2 {
		if live, err = n.liveHeap(ctx); err != nil {
			return 0, fmt.Errorf("heap profile: %w", err)
		}
	}
	return live, nil
}

func (n *node) liveHeap(ctx context.Context) (float64, error) {
	text, err := n.profile(ctx, "heap?gc=1&debug=1")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			bytes, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return bytes / (1 << 20), err
		}
	}
	return 0, errors.New("it has no HeapAlloc")
}

// profile returns a profile of the daemon, by its path below debug/pprof.
func (n *node) profile(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.rpc.Base+"debug/pprof/"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := n.rpc.Client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(text), err
}

// wait waits for d.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
