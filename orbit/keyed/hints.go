package keyed

import (
	"maps"
	"sync"
)

// Hints are guesses, held in memory, at which entry of a log is the newest on a
// key. They save a look-up on disk where they are right, which the entry itself
// shows. Of the keys used last, at least as many as a generation has are
// remembered. Of a log all of whose keys are remembered, they also tell that a
// key is none of its.
type Hints struct {
	mu         sync.Mutex
	young, old map[hintKey]hint
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
	return &Hints{young: make(map[hintKey]hint), complete: make(map[uint64]bool)}
}

// hint is an entry: its number, and the end of its hash. A number whose entry was
// never stored may be given to another one.
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

// get returns a hint, which has no number if there is none, whether there is no
// such key for sure, and what [Hints.found] is to be told.
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
func (h *Hints) found(k hintKey, at hint, forgotten int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if forgotten == h.forgotten && at.number > max(h.young[k].number, h.old[k].number) {
		h.set(k, at)
	}
}

// put remembers an entry, unless a later one is known: what is newest on a key
// changes only to what came last.
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

// Drop forgets a log.
func (h *Hints) Drop(log uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := func(k hintKey, _ hint) bool { return k.log == log }
	maps.DeleteFunc(h.young, of)
	maps.DeleteFunc(h.old, of)
	delete(h.complete, log)
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
