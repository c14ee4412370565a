package oplog_test

import (
	"bytes"
	"crypto/sha256"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// pathOf returns the path of a single time.
func pathOf(time uint64) oplog.Path {
	digits := strconv.FormatUint(time, 16)
	path := []byte{byte(len(digits) - 1)}
	for _, d := range digits {
		n, _ := strconv.ParseUint(string(d), 16, 8)
		path = append(path, byte(n))
	}
	return oplog.Path(path)
}

func timeOf(p entry.Position) uint64 {
	if p.Time >= 1<<64 {
		return 1<<64 - 1
	}
	return uint64(p.Time)
}

// auditTree checks each node of the tree, and that there are no others.
func (r replica) auditTree(t testing.TB, newestFirst []*entry.Entry, positions map[string]entry.Position) {
	t.Helper()
	counts, sums := make(map[oplog.Path]uint64), make(map[oplog.Path]*big.Int)
	subtrees := make(map[oplog.Path][]string) // oldest first
	for i := len(newestFirst) - 1; i >= 0; i-- {
		e := newestFirst[i]
		digest := sha256.Sum256(e.Block.Data)
		path := pathOf(timeOf(positions[e.Hash()]))
		for n := range path {
			p := path[:n]
			if sums[p] == nil {
				sums[p] = new(big.Int)
			}
			counts[p]++
			sums[p].Add(sums[p], new(big.Int).SetBytes(digest[:16]))
			subtrees[p] = append(subtrees[p], e.Hash())
		}
	}
	equal(t, "nodes", len(r.records(t, "tree")), len(counts))
	for p, count := range counts {
		n, err := r.Node(t.Context(), p)
		must(t, err)
		var sum oplog.Sum
		new(big.Int).Mod(sums[p], new(big.Int).Lsh(big.NewInt(1), 128)).FillBytes(sum[:])
		if n.Count != count || n.Sum != sum || n.Path != p {
			t.Errorf("node %x: %d of %x, want %d of %x", p, n.Count, n.Sum, count, sum)
		}
		var hashes []string
		for _, ref := range all(t, r.Subtree(t.Context(), p, nil)) {
			hashes = append(hashes, ref.Hash)
		}
		same(t, "entries subtrees a path", hashes, subtrees[p])
		if p.IsLeaf() {
			continue
		}
		children, err := r.Children(t.Context(), p)
		must(t, err)
		total := uint64(0)
		for _, c := range children {
			total += c.Count
			if counts[c.Path] != c.Count || !strings.HasPrefix(string(c.Path), string(p)) {
				t.Errorf("child %x of %x", c.Path, p)
			}
		}
		equal(t, "entries subtrees the children", total, count)
	}
}

// An earlier version without a tree may have written all or a part of a log.
func TestTreeIsMadeOfALogThatHasNone(t *testing.T) {
	seeds(t, 20, func(t *testing.T, rng *rand.Rand) {
		r := sample(t, rng)
		before := r.snapshot(t)
		if rng.IntN(2) == 0 {
			before = nil
		}
		r.auditAppend(t, verify)
		for key := range r.snapshot(t) {
			if !strings.HasPrefix(key, blocks.LogPrefix(logNumber)+"/tree/") {
				continue
			}
			if old, ok := before[key]; ok {
				r.put(t, key, old)
			} else {
				remove(t, r, key)
			}
		}
		r, err := open(t.Context(), r.disk)
		must(t, err)
		r.audit(t, verify)
		r.auditAppend(t, verify)
		r.audit(t, verify)
	})
}

func TestSubtreeContinuesAfterAPosition(t *testing.T) {
	seeds(t, 20, func(t *testing.T, rng *rand.Rand) {
		r := sample(t, rng)
		whole := all(t, r.Subtree(t.Context(), "", nil))
		for i := range whole {
			same(t, "subtrees a place", all(t, r.Subtree(t.Context(), "", &whole[i])), whole[i+1:])
		}
	})
}

func TestPathsThatLeadNowhereAreNotValid(t *testing.T) {
	for _, p := range [][]byte{{16}, {0, 1}, {1, 0}, {1, 1, 1}, {15, 1, 16}, bytes.Repeat([]byte{1}, 100)} {
		if oplog.Path(p).Valid() {
			t.Errorf("%x is valid", p)
		}
	}
	for _, p := range [][]byte{nil, {0}, {15}, {1, 1}, {2, 1, 0}} {
		if !oplog.Path(p).Valid() {
			t.Errorf("%x is not valid", p)
		}
	}
}
