package piece

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"sync"
)

const (
	// MaxIndexed is how many pieces an index holds: one of them takes some 300
	// bytes.
	MaxIndexed = 500_000

	// maxText is how much of each text of a piece is found, in bytes.
	maxText = 256

	// placeSize is what a piece takes beside its texts, about.
	placeSize = 200
)

// Index finds pieces of a database by what is in their documents. It holds no
// documents. Its methods may be called concurrently.
type Index struct {
	mu     sync.RWMutex
	places map[string]*place // by the hash as the document has it
	same   map[string]string // one such hash of each canonical hash
	first  int64             // order of the oldest place
	last   int64             // order of the newest place
	full   bool              // some pieces found no room
	rooms  Rooms
}

// place is what the index has of a piece.
type place struct {
	hash  string
	same  string // the canonical hash
	order int64  // the newest highest
	text  string // folded: title, composer, instrument and name, each behind a line break
	ends  [3]uint16
}

func (p *place) title() string      { return p.text[:p.ends[0]] }
func (p *place) composer() string   { return p.text[p.ends[0]+1 : p.ends[1]] }
func (p *place) instrument() string { return p.text[p.ends[1]+1 : p.ends[2]] }

// size is what the piece takes in memory.
func (p *place) size() int { return placeSize + len(p.hash) + len(p.same) + len(p.text) }

// NewIndex returns an empty index of pieces that find room.
func NewIndex(rooms ...*Room) *Index {
	return &Index{places: make(map[string]*place), same: make(map[string]string), rooms: rooms}
}

// Put adds a piece as the newest, or as the oldest, and replaces the one with its
// hash, which keeps its place where it is the oldest that is put. It reports
// whether the piece was not there.
func (x *Index) Put(p Piece, oldest bool) bool {
	if !x.rooms.Has(placeSize + len(p.Hash)) { // before its texts are looked at, which takes time
		x.mu.Lock()
		defer x.mu.Unlock()
		x.full = x.full || x.places[p.Hash] == nil || !oldest
		return false
	}
	n := newPlace(p)
	x.mu.Lock()
	defer x.mu.Unlock()
	known := x.places[p.Hash]
	switch {
	case oldest && known != nil: // it was put anew while the rest was read
		return false
	case known == nil && len(x.places) >= MaxIndexed, !x.rooms.Take(n.size()):
		x.full = true
		return false
	case oldest:
		x.first--
		n.order = x.first
	default:
		x.last++
		n.order = x.last
	}
	if known != nil {
		x.rooms.Give(known.size())
	}
	x.places[p.Hash] = n
	if _, ok := x.same[n.same]; !ok {
		x.same[n.same] = p.Hash
	}
	return known == nil
}

func newPlace(p Piece) *place {
	n := &place{hash: p.Hash, same: Canonical(p.Hash)}
	if n.same == n.hash {
		n.same = n.hash // one text in memory
	}
	var b strings.Builder
	for i, s := range []string{p.Title, p.Composer, p.Instrument, p.Name} {
		if i > 0 {
			n.ends[i-1] = uint16(b.Len())
			b.WriteByte('\n')
		}
		b.WriteString(fold(s[:min(len(s), maxText)], maxText))
	}
	n.text = b.String()
	return n
}

// Delete removes the piece with a hash, as its document had it.
func (x *Index) Delete(hash string) {
	canonical := Canonical(hash)
	x.mu.Lock()
	defer x.mu.Unlock()
	if p := x.places[hash]; p != nil {
		x.rooms.Give(p.size())
	}
	delete(x.places, hash)
	if x.same[canonical] != hash {
		return
	}
	delete(x.same, canonical)
	for _, other := range Spellings(hash)[1:] {
		if x.places[other] != nil {
			x.same[canonical] = other
			return
		}
	}
}

// Clear removes all pieces.
func (x *Index) Clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.places {
		x.rooms.Give(p.size())
	}
	clear(x.places)
	clear(x.same)
	x.full = false
}

// Len returns how many pieces there are, and whether others found no room.
func (x *Index) Len() (pieces int, full bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.places), x.full
}

// Find returns the hash of a piece as its document has it, given in any way.
func (x *Index) Find(hash string) (string, bool) {
	canonical := Canonical(hash)
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.places[hash] != nil {
		return hash, true
	}
	found, ok := x.same[canonical]
	return found, ok
}

// Has reports whether there is a piece with a canonical hash.
func (x *Index) Has(canonical string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, ok := x.same[canonical]
	return ok
}

// Prefixed returns the hashes that begin so, in their order, at most so many.
func (x *Index) Prefixed(prefix string, most int) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var found []string
	for hash := range x.places {
		if strings.HasPrefix(hash, prefix) {
			found = append(found, hash)
		}
	}
	slices.Sort(found)
	return found[:min(len(found), most)]
}

// Sort is an order of pieces.
type Sort string

// Orders of pieces.
const (
	Newest       Sort = "newest" // put last first
	ByTitle      Sort = "title"
	ByComposer   Sort = "composer"
	ByInstrument Sort = "instrument"
)

// Query chooses pieces. Texts are compared as [Fold] makes them.
type Query struct {
	Instrument string // the whole of it; "" for any
	Title      string // part of the title
	Composer   string // part of the composer
	// Text is words all of which are somewhere in title, composer, instrument or
	// name of the file.
	Text string
}

// Hit is a piece that a query chose.
type Hit struct{ place *place }

// Hash returns the hash of the piece as its document has it.
func (h Hit) Hash() string { return h.place.hash }

// Canonical returns the hash as [Canonical] writes it.
func (h Hit) Canonical() string { return h.place.same }

// Search yields the pieces that a query chooses, in no order; see [Order]. The loop
// must not change the index.
func (x *Index) Search(q Query) iter.Seq[Hit] {
	instrument, title, composer := Fold(q.Instrument), Fold(q.Title), Fold(q.Composer)
	words := strings.Fields(Fold(q.Text))
	return func(yield func(Hit) bool) {
		x.mu.RLock()
		defer x.mu.RUnlock()
		for _, p := range x.places {
			switch {
			case instrument != "" && p.instrument() != instrument,
				title != "" && !strings.Contains(p.title(), title),
				composer != "" && !strings.Contains(p.composer(), composer),
				!containsAll(p.text, words):
			default:
				if !yield(Hit{p}) {
					return
				}
			}
		}
	}
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// Order returns what compares hits of one index or of several in an order. What has
// no title, say, comes last by titles.
func Order(by Sort) func(a, b Hit) int {
	keys := keysOf[by]
	return func(a, b Hit) int {
		for _, of := range keys {
			x, y := of(a.place), of(b.place)
			c := strings.Compare(x, y)
			switch {
			case c == 0:
				continue
			case x == "" || y == "":
				return -c
			}
			return c
		}
		return cmp.Compare(b.place.order, a.place.order)
	}
}

// keysOf is what decides in each order, before age does.
var keysOf = map[Sort][]func(*place) string{
	ByTitle:      {(*place).title, (*place).composer},
	ByComposer:   {(*place).composer, (*place).title},
	ByInstrument: {(*place).instrument, (*place).title},
}
