package replicate

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
)

// Bounds of a want list. The log knows all missing CIDs, so none is lost.
const (
	maxWanted = 1 << 16 // CIDs that are queued or requested
	maxUnsent = 1 << 14 // CIDs that were requested in vain
)

// Missing is a block that peers have not sent yet.
type Missing struct {
	Hash  string
	Since time.Time // when it was requested first
	Tries int       // requests that no peer answered
	Asked []peer.ID // peers with the database to which the last request went
	Err   error     // why the block that arrived is useless, or nil
}

// wantList has the CIDs that are requested from peers, or will be, and what is
// known of requests that failed.
//
// Each CID in fresh or stale is in wanted, and in one of the two, once. A CID
// in wanted and in neither of them is requested now. stale has the CIDs that no
// peer sent before: they are requested after all others. A CID may be missing
// and not wanted.
type wantList struct {
	random  *random
	changed func()    // is called at each change of what snapshot returns, but for the number of wanted CIDs
	wake    wait.Flag // set when there may be something to request

	mu      sync.Mutex
	wanted  map[string]bool
	fresh   []string // newest last
	stale   []string // newest last
	missing map[string]*Missing
}

func newWantList(r *random, changed func()) *wantList {
	return &wantList{
		random: r, changed: changed,
		wake:    wait.NewFlag(),
		wanted:  make(map[string]bool),
		missing: make(map[string]*Missing),
	}
}

// unwanted returns the CIDs that are not on the list.
func (w *wantList) unwanted(hashes []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(hashes), func(hash string) bool { return w.wanted[hash] })
}

// add queues CIDs, as many as the bound allows.
func (w *wantList) add(hashes ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, hash := range hashes {
		if len(w.wanted) < maxWanted {
			w.queue(hash)
		}
	}
	w.wake.Set()
}

// queue queues a CID, unless it is on the list. The caller holds w.mu.
func (w *wantList) queue(hash string) {
	if w.wanted[hash] {
		return
	}
	w.wanted[hash] = true
	if m := w.missing[hash]; m != nil && m.Tries > 0 {
		w.stale = append(w.stale, hash)
	} else {
		w.fresh = append(w.fresh, hash)
	}
}

// seed queues the CIDs that the log misses, except those that skip reports and
// those whose block is useless. It returns the number of the latter.
func (w *wantList) seed(hashes []string, skip func(hash string) bool) (skipped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, hash := range hashes {
		switch m := w.missing[hash]; {
		case skip(hash), m != nil && m.Err != nil:
			skipped++
		default:
			w.queue(hash)
		}
	}
	return skipped
}

// length returns the number of CIDs on the list.
func (w *wantList) length() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.wanted)
}

// queued returns the number of queued CIDs.
func (w *wantList) queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.fresh) + len(w.stale)
}

// next takes at most n CIDs from the queues to request them: half of them the
// newest, and half at random, so that CIDs that no peer has do not delay CIDs
// that some peer has. more reports whether others remain.
func (w *wantList) next(n int) (hashes []string, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, from := range []*[]string{&w.fresh, &w.stale} {
		for len(*from) > 0 && len(hashes) < n {
			last := len(*from) - 1
			i := last
			if len(hashes)%2 == 1 {
				i = int(w.random.below(int64(len(*from))))
			}
			hashes = append(hashes, (*from)[i])
			(*from)[i] = (*from)[last]
			*from = (*from)[:last]
		}
	}
	return hashes, len(w.fresh)+len(w.stale) > 0
}

// remove takes a CID that is requested off the list.
func (w *wantList) remove(hash string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.wanted, hash)
}

// clear empties the list. What is known of failed requests remains.
func (w *wantList) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fresh, w.stale = nil, nil
	clear(w.wanted)
	w.changed()
}

// note changes what is known of a missing block. The oldest knowledge is not
// kept beyond maxUnsent; which one goes is left to chance.
func (w *wantList) note(hash string, change func(*Missing)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.missing[hash]
	if m == nil {
		for some := range w.missing {
			if len(w.missing) < maxUnsent {
				break
			}
			delete(w.missing, some)
		}
		m = &Missing{Hash: hash, Since: time.Now()}
		w.missing[hash] = m
	}
	change(m)
	w.changed()
}

// requested notes that a block is requested from peers.
func (w *wantList) requested(hash string, from []peer.ID) {
	w.note(hash, func(m *Missing) { m.Asked = from })
}

// unanswered notes that none of the peers sent a block.
func (w *wantList) unanswered(hash string, asked []peer.ID) {
	w.note(hash, func(m *Missing) {
		m.Asked = asked
		m.Tries++
	})
}

// useless notes why the block that arrived is not an entry of the log. It is
// not requested again.
func (w *wantList) useless(hash string, why error) {
	w.note(hash, func(m *Missing) { m.Err = why })
}

// found forgets failed requests for blocks that are here or not needed any
// more.
func (w *wantList) found(hashes ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, hash := range hashes {
		if w.missing[hash] != nil {
			delete(w.missing, hash)
			w.changed()
		}
	}
}

// failed returns the CIDs that were requested in vain.
func (w *wantList) failed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.missing))
}

// snapshot returns the number of wanted CIDs, and the blocks that were
// requested in vain, by CID, maxShown at most.
func (w *wantList) snapshot() (wanted int, missing []Missing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.missing {
		missing = append(missing, *m)
	}
	slices.SortFunc(missing, func(a, b Missing) int { return strings.Compare(a.Hash, b.Hash) })
	return len(w.wanted), missing[:min(len(missing), maxShown)]
}
