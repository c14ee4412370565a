package keyed

import (
	"maps"
	"sync"
)

// Hints cache, in memory, which entry of a log is the newest of a key. A hint
// may be wrong; the entry to which it points shows whether it is right. A right
// hint saves the lookup of the record. Hints hold at least as many of the most
// recently used keys as a generation. Where they hold all keys of a log, they
// also tell that a key does not exist.
type Hints struct {
	mu         sync.Mutex
	young, old map[hintKey]hint
	complete   map[uint64]bool // logs of which all keys are held
	forgotten  int             // rises whenever hints are dropped
}

// generation is the number of keys in a generation. Two generations take about
// 10 MiB.
const generation = 1 << 17

// maxComplete is the number of logs that are known to be held whole.
const maxComplete = 1 << 12

type hintKey struct {
	log  uint64
	slot [16]byte // its first characters; a collision is a wrong hint
}

// NewHints returns empty hints.
func NewHints() *Hints {
	return &Hints{young: make(map[hintKey]hint), complete: make(map[uint64]bool)}
}

// hint identifies an entry by its number and the end of its hash. The number of
// an entry that was never committed may be reused.
type hint struct {
	number uint64
	hash   [8]byte
}

func newHint(number uint64, hash string) hint {
	h := hint{number: number}
	copy(h.hash[:], hash[max(0, len(hash)-len(h.hash)):])
	return h
}

func newHintKey(log uint64, slot string) hintKey {
	k := hintKey{log: log}
	copy(k.slot[:], slot)
	return k
}

// get returns the hint of a key, whose number is 0 if there is none. none
// reports that the key does not exist. forgotten is to be passed to found.
func (h *Hints) get(k hintKey) (at hint, none bool, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.young[k]
	if !ok {
		if at = h.old[k]; at.number != 0 {
			h.set(k, at)
		}
	}
	return at, at.number == 0 && h.complete[k.log], h.forgotten
}

// begin reports whether all keys of a log are held. If not, they can be loaded:
// forgotten is to be passed to found and finish.
func (h *Hints) begin(log uint64) (complete bool, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.complete[log], h.forgotten
}

// finish records that all keys of a log were passed to found or put since
// begin.
func (h *Hints) finish(log uint64, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if forgotten != h.forgotten {
		return
	}
	if len(h.complete) >= maxComplete {
		clear(h.complete)
	}
	h.complete[log] = true
}

// found stores a hint that was read since get. It does nothing if hints were
// dropped meanwhile, since a newer one may be among these.
func (h *Hints) found(k hintKey, at hint, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if forgotten == h.forgotten && at.number > max(h.young[k].number, h.old[k].number) {
		h.set(k, at)
	}
}

// put stores the hint of a new entry, unless a later entry is known. The newest
// operation on a key changes only to one that arrived later.
func (h *Hints) put(k hintKey, at hint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.number > max(h.young[k].number, h.old[k].number) {
		h.set(k, at)
	}
}

func (h *Hints) set(k hintKey, at hint) {
	if len(h.young) >= generation {
		if len(h.old) > 0 {
			h.forget()
		}
		h.young, h.old = make(map[hintKey]hint), h.young
	}
	h.young[k] = at
}

// Drop drops the hints of a log.
func (h *Hints) Drop(log uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := func(k hintKey, _ hint) bool { return k.log == log }
	maps.DeleteFunc(h.young, of)
	maps.DeleteFunc(h.old, of)
	delete(h.complete, log)
}

// Clear drops all hints.
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
