package keyed

import "sync"

// Hints are guesses, held in memory, at which entry of a log is the newest on a
// key. They save a look-up on disk where they are right, which the entry itself
// shows. Of the keys used last, at least as many as a generation has are
// remembered. Of a log all of whose keys are remembered, they also tell that a
// key is none of its.
type Hints struct {
	mu         sync.Mutex
	young, old map[hintKey]uint64
	complete   map[uint64]bool // the logs all of whose keys are there
	forgotten  int             // how many times hints were
}

// generation is how many keys a generation has. Two take some 10 MiB.
const generation = 1 << 17

type hintKey struct {
	log  uint64
	slot [16]byte // the first of its characters: one that is mixed up is a wrong guess
}

// NewHints returns no hints.
func NewHints() *Hints {
	return &Hints{young: make(map[hintKey]uint64), complete: make(map[uint64]bool)}
}

func newHintKey(log uint64, slot string) hintKey {
	k := hintKey{log: log}
	copy(k.slot[:], slot)
	return k
}

// get returns the number of an entry, 0 for none, whether there is none for sure,
// and what [Hints.found] is to be told.
func (h *Hints) get(k hintKey) (number uint64, none bool, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	number, ok := h.young[k]
	if !ok {
		if number = h.old[k]; number != 0 {
			h.set(k, number)
		}
	}
	return number, number == 0 && h.complete[k.log], h.forgotten
}

// begin returns what [Hints.found] and [Hints.finish] are to be told about all
// keys of a log.
func (h *Hints) begin() (forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.forgotten
}

// finish says that all keys of a log were found since begin, or put.
func (h *Hints) finish(log uint64, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if forgotten == h.forgotten {
		h.complete[log] = true
	}
}

// found is put of what was read since a get, unless a later one may have been
// forgotten meanwhile.
func (h *Hints) found(k hintKey, number uint64, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if forgotten == h.forgotten && number > max(h.young[k], h.old[k]) {
		h.set(k, number)
	}
}

// put remembers an entry, unless a later one is known: what is newest on a key
// changes only to what came last.
func (h *Hints) put(k hintKey, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if number > max(h.young[k], h.old[k]) {
		h.set(k, number)
	}
}

func (h *Hints) set(k hintKey, number uint64) {
	if len(h.young) >= generation {
		if len(h.old) > 0 {
			h.forget()
		}
		h.young, h.old = make(map[hintKey]uint64), h.young
	}
	h.young[k] = number
}

// Clear forgets all.
func (h *Hints) Clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.young)
	h.old = nil
	h.forget()
}

func (h *Hints) forget() {
	clear(h.complete)
	h.forgotten++
}
