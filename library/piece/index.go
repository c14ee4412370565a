package piece

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"sync"
)

const (
	// MaxIndexed is the maximum number of pieces in an index. A piece takes
	// about 300 bytes.
	MaxIndexed = 500_000

	// maxText is the indexed length of each text of a piece, in bytes.
	maxText = 256

	// indexedSize is the approximate memory of a piece besides its texts, in
	// bytes.
	indexedSize = 200
)

// Index is a search index of the pieces in a database. It does not contain the
// documents. Its methods may be called concurrently.
type Index struct {
	mu      sync.RWMutex
	byHash  map[string]*indexed // by the hash in the document
	hashOf  map[string]string   // a hash in byHash, by canonical hash
	first   int64               // order of the oldest piece
	last    int64               // order of the newest piece
	full    bool                // whether pieces were left out
	budgets Budgets
}

// indexed is a piece in the index.
type indexed struct {
	hash      string
	canonical string // canonical hash
	order     int64  // rises from the oldest to the newest
	text      string // folded title, composer, instrument and name, separated by line breaks
	ends      [3]uint16
}

func (p *indexed) title() string      { return p.text[:p.ends[0]] }
func (p *indexed) composer() string   { return p.text[p.ends[0]+1 : p.ends[1]] }
func (p *indexed) instrument() string { return p.text[p.ends[1]+1 : p.ends[2]] }

// size returns the memory that the piece uses, in bytes.
func (p *indexed) size() int { return indexedSize + len(p.hash) + len(p.canonical) + len(p.text) }

// NewIndex returns an empty index that stays within the budgets.
func NewIndex(budgets ...*Budget) *Index {
	return &Index{byHash: make(map[string]*indexed), hashOf: make(map[string]string), budgets: budgets}
}

// Put adds a piece as the newest or the oldest one. As the newest one, it
// replaces a piece with the same hash. As the oldest one, it leaves such a
// piece as it is. Put reports whether the piece was added and its hash is new.
func (x *Index) Put(p Piece, oldest bool) bool {
	if !x.budgets.Has(indexedSize + len(p.Hash)) { // checked before the texts are folded, which is slow
		x.mu.Lock()
		defer x.mu.Unlock()
		x.full = x.full || x.byHash[p.Hash] == nil || !oldest
		return false
	}
	n := newIndexed(p)
	x.mu.Lock()
	defer x.mu.Unlock()
	known := x.byHash[p.Hash]
	switch {
	case oldest && known != nil: // a newer version was put while the database was being read
		return false
	case known == nil && len(x.byHash) >= MaxIndexed, !x.budgets.Reserve(n.size()):
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
		x.budgets.Release(known.size())
	}
	x.byHash[p.Hash] = n
	if _, ok := x.hashOf[n.canonical]; !ok {
		x.hashOf[n.canonical] = p.Hash
	}
	return known == nil
}

func newIndexed(p Piece) *indexed {
	n := &indexed{hash: p.Hash, canonical: Canonical(p.Hash)}
	if n.canonical == n.hash {
		n.canonical = n.hash // share the string's memory
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

// Delete removes the piece with a hash in the spelling of its document.
func (x *Index) Delete(hash string) {
	canonical := Canonical(hash)
	x.mu.Lock()
	defer x.mu.Unlock()
	if p := x.byHash[hash]; p != nil {
		x.budgets.Release(p.size())
	}
	delete(x.byHash, hash)
	if x.hashOf[canonical] != hash {
		return
	}
	delete(x.hashOf, canonical)
	for _, other := range Spellings(hash)[1:] {
		if x.byHash[other] != nil {
			x.hashOf[canonical] = other
			return
		}
	}
}

// Clear removes all pieces.
func (x *Index) Clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.byHash {
		x.budgets.Release(p.size())
	}
	clear(x.byHash)
	clear(x.hashOf)
	x.full = false
}

// Len returns the number of pieces, and whether others were left out because
// the index or a budget was full.
func (x *Index) Len() (pieces int, full bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.byHash), x.full
}

// Find returns the hash of a piece in the spelling of its document, given any
// spelling.
func (x *Index) Find(hash string) (string, bool) {
	canonical := Canonical(hash)
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.byHash[hash] != nil {
		return hash, true
	}
	found, ok := x.hashOf[canonical]
	return found, ok
}

// Has reports whether the index has a piece with a canonical hash.
func (x *Index) Has(canonical string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, ok := x.hashOf[canonical]
	return ok
}

// Prefixed returns the first hashes with a prefix in lexical order, at most
// limit.
func (x *Index) Prefixed(prefix string, limit int) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var found []string
	for hash := range x.byHash {
		if strings.HasPrefix(hash, prefix) {
			found = append(found, hash)
		}
	}
	slices.Sort(found)
	return found[:min(len(found), limit)]
}

// Sort is an order of pieces.
type Sort string

// Orders of pieces.
const (
	Newest       Sort = "newest" // the last one put comes first
	ByTitle      Sort = "title"
	ByComposer   Sort = "composer"
	ByInstrument Sort = "instrument"
)

// Query selects pieces. Texts are compared after [Fold]. Empty fields match any
// piece.
type Query struct {
	Instrument string // complete instrument
	Title      string // part of the title
	Composer   string // part of the composer
	// Text has words. Each of them must occur in the title, composer,
	// instrument or file name.
	Text string
}

// Hit is a piece that matches a query.
type Hit struct{ piece *indexed }

// Hash returns the hash of the piece in the spelling of its document.
func (h Hit) Hash() string { return h.piece.hash }

// Canonical returns the canonical spelling of the hash.
func (h Hit) Canonical() string { return h.piece.canonical }

// Search yields the pieces that match a query, in no particular order; see
// [Order]. The loop body must not change the index.
func (x *Index) Search(q Query) iter.Seq[Hit] {
	instrument, title, composer := Fold(q.Instrument), Fold(q.Title), Fold(q.Composer)
	words := strings.Fields(Fold(q.Text))
	return func(yield func(Hit) bool) {
		x.mu.RLock()
		defer x.mu.RUnlock()
		for _, p := range x.byHash {
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

// Order returns a comparison function for an order of hits, which may come from
// several indexes. A piece without the value by which an order sorts, such as a
// title, comes last.
func Order(by Sort) func(a, b Hit) int {
	keys := keysOf[by]
	return func(a, b Hit) int {
		for _, of := range keys {
			x, y := of(a.piece), of(b.piece)
			c := strings.Compare(x, y)
			switch {
			case c == 0:
				continue
			case x == "" || y == "":
				return -c
			}
			return c
		}
		return cmp.Compare(b.piece.order, a.piece.order)
	}
}

// keysOf has the sort keys of each order. The age breaks ties.
var keysOf = map[Sort][]func(*indexed) string{
	ByTitle:      {(*indexed).title, (*indexed).composer},
	ByComposer:   {(*indexed).composer, (*indexed).title},
	ByInstrument: {(*indexed).instrument, (*indexed).title},
}
