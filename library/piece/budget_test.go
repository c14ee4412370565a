package piece_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/library/piece"
)

// bloated returns a piece whose index entry is much larger than its document:
// each character of its title becomes 18 characters when it is folded.
func bloated(i int) piece.Piece {
	return piece.Piece{Hash: fmt.Sprintf("%0250d", i), Title: strings.Repeat("\uFDFA", 16)}
}

// fill puts pieces until one is left out, and returns the number of the others.
func fill(t testing.TB, x *piece.Index, of func(i int) piece.Piece) (n int) {
	t.Helper()
	for n = range 20_000 {
		x.Put(of(n), n%2 == 0)
		if _, full := x.Len(); full {
			return n
		}
	}
	t.Fatal("the index never becomes full")
	return 0
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestIndexStaysWithinItsBudget(t *testing.T) {
	const budget = 1 << 20
	for name, of := range map[string]func(int) piece.Piece{
		"bloated": bloated,
		"small":   func(i int) piece.Piece { return piece.Piece{Hash: fmt.Sprint(i)} },
	} {
		before := heap()
		x := piece.NewIndex(piece.NewBudget(budget))
		n := fill(t, x, of)
		if took := heap() - before; n < 500 || took > 3*budget/2 {
			t.Errorf("%s: %d pieces in %d bytes, the budget has %d", name, n, took, budget)
		}
		if pieces, full := x.Len(); pieces != n || !full {
			t.Errorf("%s: Len returns %d of %d pieces, full: %v", name, pieces, n, full)
		}
		if _, ok := x.Find(of(0).Hash); !ok || x.Has(of(n).Hash) {
			t.Errorf("%s: an indexed piece is missing, or one that was left out is not", name)
		}
	}
}

func TestMemoryIsReleased(t *testing.T) {
	shared := piece.NewBudget(1 << 18)
	x := piece.NewIndex(shared)
	n := fill(t, x, bloated)
	for name, leave := range map[string]func(){
		"cleared": x.Clear,
		"deleted": func() {
			for i := range n {
				x.Delete(bloated(i).Hash)
			}
		},
		"replaced": func() {
			for i := range n {
				if i < 10 { // A full budget has no memory for a replacement.
					x.Delete(bloated(i).Hash)
				} else {
					x.Put(piece.Piece{Hash: bloated(i).Hash}, false)
				}
			}
		},
	} {
		leave()
		x.Clear()
		if again := fill(t, x, bloated); again != n {
			t.Errorf("%s: space for %d pieces, was for %d", name, again, n)
		}
	}
}

func TestFullIndexLeavesOthersTheirBudget(t *testing.T) {
	shared := piece.NewBudget(1 << 19)
	greedy := piece.NewIndex(piece.NewBudget(1<<18), shared)
	modest := piece.NewIndex(piece.NewBudget(1<<18), shared)
	n := fill(t, greedy, bloated)
	for i := range 10 * n { // A piece that is left out must not use memory.
		greedy.Put(bloated(n+i), false)
	}
	const few = 500
	for i := range few {
		modest.Put(piece.Piece{Hash: fmt.Sprint("Qm", i), Title: "Prelude"}, false)
	}
	if pieces, full := modest.Len(); pieces != few || full {
		t.Errorf("%d pieces beside a full index, full: %v", pieces, full)
	}
	// Pieces in a full index can still be found and replaced.
	if greedy.Delete(bloated(0).Hash); !greedy.Put(bloated(n), false) {
		t.Error("no piece can be put in place of a deleted one")
	}
}

func TestReleasedMemoryIsAvailableToOthers(t *testing.T) {
	shared := piece.NewBudget(1 << 18)
	first := piece.NewIndex(piece.NewBudget(1<<18), shared)
	second := piece.NewIndex(piece.NewBudget(1<<18), shared)
	const few = 50
	for i := range few {
		first.Put(bloated(i), false)
	}
	n := fill(t, second, bloated)
	for i := range 10 * n { // These pieces are left out.
		second.Put(bloated(n+i), false)
	}
	first.Clear()
	for i := range few {
		if !second.Put(bloated(n+i), false) {
			t.Fatalf("space for %d more pieces, %d were cleared", i, few)
		}
	}
}
