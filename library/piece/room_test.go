package piece_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/library/piece"
)

// bloated is a piece that takes much more memory than its document: the text is of
// characters that are 18 each when they are folded.
func bloated(i int) piece.Piece {
	return piece.Piece{Hash: fmt.Sprintf("%0250d", i), Title: strings.Repeat("\uFDFA", 16)}
}

// fill puts pieces until one finds no room, and returns how many did.
func fill(t testing.TB, x *piece.Index, of func(i int) piece.Piece) (n int) {
	t.Helper()
	for n = range 20_000 {
		x.Put(of(n), n%2 == 0)
		if _, full := x.Len(); full {
			return n
		}
	}
	t.Fatal("it is never full")
	return 0
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestIndexTakesNoMoreThanItsRoom(t *testing.T) {
	const room = 1 << 20
	for name, of := range map[string]func(int) piece.Piece{
		"bloated": bloated,
		"small":   func(i int) piece.Piece { return piece.Piece{Hash: fmt.Sprint(i)} },
	} {
		before := heap()
		x := piece.NewIndex(piece.NewRoom(room))
		n := fill(t, x, of)
		if took := heap() - before; n < 500 || took > 3*room/2 {
			t.Errorf("%s: %d pieces in %d bytes, the room has %d", name, n, took, room)
		}
		if pieces, full := x.Len(); pieces != n || !full {
			t.Errorf("%s: %d pieces are said of %d, full: %v", name, pieces, n, full)
		}
		if _, ok := x.Find(of(0).Hash); !ok || x.Has(of(n).Hash) {
			t.Errorf("%s: what found room is not there, or what did not is", name)
		}
	}
}

func TestRoomIsGivenBack(t *testing.T) {
	shared := piece.NewRoom(1 << 18)
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
				if i < 10 { // where nothing is left, nothing can be replaced
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
			t.Errorf("%s: room for %d pieces, there was for %d", name, again, n)
		}
	}
}

func TestWhoFindsNoRoomHarmsNobody(t *testing.T) {
	shared := piece.NewRoom(1 << 19)
	greedy := piece.NewIndex(piece.NewRoom(1<<18), shared)
	modest := piece.NewIndex(piece.NewRoom(1<<18), shared)
	n := fill(t, greedy, bloated)
	for i := range 10 * n { // what finds no room takes none
		greedy.Put(bloated(n+i), false)
	}
	const few = 500
	for i := range few {
		modest.Put(piece.Piece{Hash: fmt.Sprint("Qm", i), Title: "Prelude"}, false)
	}
	if pieces, full := modest.Len(); pieces != few || full {
		t.Errorf("%d pieces beside a greedy one, full: %v", pieces, full)
	}
	// Those that are there are found as before, and may be changed.
	if greedy.Delete(bloated(0).Hash); !greedy.Put(bloated(n), false) {
		t.Error("there is no room in place of what went")
	}
}

func TestRoomThatOthersLeaveIsTaken(t *testing.T) {
	shared := piece.NewRoom(1 << 18)
	first := piece.NewIndex(piece.NewRoom(1<<18), shared)
	second := piece.NewIndex(piece.NewRoom(1<<18), shared)
	const few = 50
	for i := range few {
		first.Put(bloated(i), false)
	}
	n := fill(t, second, bloated)
	for i := range 10 * n { // in vain
		second.Put(bloated(n+i), false)
	}
	first.Clear()
	for i := range few {
		if !second.Put(bloated(n+i), false) {
			t.Fatalf("room for %d more, %d were cleared", i, few)
		}
	}
}
