package replicate

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

func newWants() (w *wantList, changed *int) {
	changed = new(int)
	return newWantList(new(random), func() { *changed++ }), changed
}

func cids(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint("cid", i))
	}
	return list
}

// A CID is on the list from add until remove, and is handed out once.
func TestEachWantedCIDIsRequestedOnce(t *testing.T) {
	w, _ := newWants()
	w.add(cids(0, 10)...)
	w.add(cids(5, 15)...)
	if len(w.wake) == 0 || w.queued() != 15 || len(w.unwanted(cids(10, 20))) != 5 {
		t.Errorf("%d CIDs are queued", w.queued())
	}
	first, more := w.next(10)
	if len(first) != 10 || !more {
		t.Errorf("%d, %v", len(first), more)
	}
	w.add(cids(0, 15)...) // they are requested, or queued
	rest, more := w.next(100)
	if all := slices.Sorted(slices.Values(slices.Concat(first, rest))); more || !slices.Equal(all, slices.Sorted(slices.Values(cids(0, 15)))) {
		t.Errorf("requested %v", all)
	}
	w.remove("cid3")
	if n, _ := w.snapshot(); n != 14 || len(w.unwanted(cids(0, 15))) != 1 {
		t.Errorf("%d are wanted", n)
	}
	w.clear()
	if n, _ := w.snapshot(); n != 0 || w.queued() != 0 {
		t.Errorf("%d are wanted", n)
	}
}

func TestWantListIsBounded(t *testing.T) {
	w, _ := newWants()
	w.add(cids(0, maxWanted+10)...)
	if n, _ := w.snapshot(); n != maxWanted {
		t.Errorf("%d CIDs are wanted", n)
	}
	for _, hash := range cids(0, maxUnsent+10) {
		w.unanswered(hash, nil)
	}
	if n := len(w.failed()); n != maxUnsent {
		t.Errorf("%d failed requests are remembered", n)
	}
	if _, missing := w.snapshot(); len(missing) != maxShown || !slices.IsSortedFunc(missing, func(a, b Missing) int {
		if a.Hash < b.Hash {
			return -1
		}
		return 1
	}) {
		t.Errorf("%d are shown", len(missing))
	}
}

// Half of what is requested is the newest, and CIDs that no peer sent come
// last.
func TestNewCIDsAreRequestedFirst(t *testing.T) {
	w, _ := newWants()
	for _, hash := range cids(0, 5) {
		w.unanswered(hash, nil)
	}
	w.seed(cids(0, 105), func(string) bool { return false })
	got, _ := w.next(10)
	if got[0] != "cid104" {
		t.Errorf("%s is requested first", got[0])
	}
	if slices.ContainsFunc(got, func(hash string) bool { return slices.Contains(cids(0, 5), hash) }) {
		t.Errorf("%v are requested: nobody sent one of them", got)
	}
	rest, _ := w.next(1000)
	if last := rest[len(rest)-5:]; !slices.Equal(slices.Sorted(slices.Values(last)), cids(0, 5)) {
		t.Errorf("%v are requested last", last)
	}
}

// Requests that failed are counted, with the peers that were asked, until the
// block is found. A useless block is not requested again.
func TestFailedRequestsAreRemembered(t *testing.T) {
	w, changed := newWants()
	w.requested("a", []peer.ID{alice})
	w.unanswered("a", []peer.ID{bob})
	w.unanswered("a", []peer.ID{alice, bob})
	useless := errors.New("useless")
	w.useless("b", useless)
	_, missing := w.snapshot()
	if len(missing) != 2 || missing[0].Tries != 2 || len(missing[0].Asked) != 2 || missing[0].Since.IsZero() || missing[1].Err != useless {
		t.Errorf("%+v", missing)
	}
	w.clear()
	if skipped := w.seed([]string{"a", "b", "c"}, func(hash string) bool { return hash == "c" }); skipped != 2 || w.queued() != 1 {
		t.Errorf("%d are skipped, %d queued", skipped, w.queued())
	}
	before := *changed
	if w.found("a", "c"); *changed != before+1 || len(w.failed()) != 1 {
		t.Errorf("%v failed", w.failed())
	}
}

func TestPausesDoubleUpToTheirMaximum(t *testing.T) {
	for times, want := range []time.Duration{retryMin, 2 * retryMin, 4 * retryMin} {
		if d := doubled(retryMin, times, retryMax); d != want {
			t.Errorf("%v after %d times", d, times)
		}
	}
	for _, times := range []int{10, 1000} {
		if d := doubled(retryMin, times, retryMax); d != retryMax {
			t.Errorf("%v after %d times", d, times)
		}
	}
}
