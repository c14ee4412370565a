package replicate_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/probe"
)

// decodes counts how often each block is decoded as an entry, at all nodes, but
// for reads of entries that are part of a log.
type decodes struct {
	mu sync.Mutex
	of map[string]int
}

func watchDecodes(t *testing.T) *decodes {
	d := &decodes{of: make(map[string]int)}
	t.Cleanup(probe.WatchDecodes(func(hash string) {
		if readsLog() {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.of[hash]++
	}))
	return d
}

// readsLog reports whether an entry that is part of a log is being read.
func readsLog() bool {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "oplog.(*Log).Get") || strings.Contains(f.Function, "(*Log).Stored") {
			return true
		}
		if !more {
			return false
		}
	}
}

func (d *decodes) count(hash string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.of[hash]
}

// On its way from a stream, from pubsub or from bitswap to the log, a block is
// decoded once. A pending entry is decoded once more, when it is read from the
// disk.
func TestBlocksAreDecodedOnceOnTheirWayIn(t *testing.T) {
	to, from := newNode(t), newEarlierNode(t)
	address := to.create("gigs", orbit.TypeEvents).Address()
	listener, err := from.router.Subscribe(address, nil)
	must(t, err)
	defer listener.Cancel()
	from.connect(to)
	must(t, from.PutBlocks(t.Context(), from.signer().Block()))
	eventually(t, "the topic is known", func() bool { return slices.Contains(from.router.ListPeers(address), to.host.ID()) })
	arrives := func(entries int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d entries arrived", entries), func() bool { return to.count(address) == entries })
	}
	d := watchDecodes(t)
	want := func(how string, times int, e *entry.Entry) {
		t.Helper()
		if n := d.count(e.Hash()); n != times {
			t.Errorf("%s: decoded %d times, not %d", how, n, times)
		}
	}

	one := written(t, from.signer(), address, "by a stream", nil)
	from.offered(to, address, one.Block)
	arrives(1)
	two := written(t, from.signer(), address, "by pubsub", []entry.Position{plainPosition(one)})
	must(t, from.router.Announce(t.Context(), address, two.Block.Data))
	arrives(2)
	three := written(t, from.signer(), address, "by bitswap", []entry.Position{plainPosition(two)})
	must(t, from.PutBlocks(t.Context(), three.Block))
	four := written(t, from.signer(), address, "pending", []entry.Position{plainPosition(three)})
	from.offered(to, address, four.Block)
	arrives(4)

	want("heads exchange", 1, one)
	want("pubsub", 1, two)
	want("bitswap", 1, three)
	want("pending", 2, four)
}

// The same holds for a transfer, but for the few entries that were heads
// meanwhile: they arrive by exchanges as well.
func TestTransferredBlocksAreDecodedOnce(t *testing.T) {
	const entries = 600
	a, b := newNodeAs(t, bare), newNodeAs(t, bare)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, numbered("a%d", entries)...)
	all := a.hashes(address)
	d := watchDecodes(t)
	b.open(address)
	b.connect(a)
	eventually(t, "all arrived", func() bool { return b.stats(address).Entries == entries })
	again := 0
	for _, hash := range all {
		switch n := d.count(hash); {
		case n == 0:
			t.Errorf("%s was not decoded", hash)
		case n > 1:
			again++
		}
	}
	if again > entries/20 {
		t.Errorf("%d of %d entries were decoded again", again, entries)
	}
}
