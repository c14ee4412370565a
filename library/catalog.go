package library

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
)

// ByPractice is the order of pieces by practice count, highest first.
const ByPractice piece.Sort = "practice"

// maxCandidates is the maximum number of pieces in an [AmbiguousError].
const maxCandidates = 10

// Query selects pieces.
type Query struct {
	piece.Query
	All   bool // include the pieces of companions
	Sort  piece.Sort
	Limit int // maximum number of results; 0 for none
}

// CatalogPiece is a piece in the catalog.
type CatalogPiece struct {
	piece.Piece
	Practice Count
	Owners   []Owner // this daemon first, then by peer ID
}

// Owner is this daemon or a companion that has a piece.
type Owner struct {
	Peer peer.ID
	Name string // "" if unknown
	Self bool
}

// Problem says why the result of a query may lack something: a pieces or
// practice database was not read, or only in part.
type Problem struct {
	Owner
	Database string // PiecesName or PracticeName
	Err      error  // wraps [ErrIncomplete] if the entries that are here were used
}

// AmbiguousError is returned for a prefix of several hashes.
type AmbiguousError struct {
	Prefix string
	Pieces []CatalogPiece // at most 10 of them
}

func (e *AmbiguousError) Error() string {
	hashes := make([]string, len(e.Pieces))
	for i, p := range e.Pieces {
		hashes[i] = p.Hash
	}
	return fmt.Sprintf("several pieces begin with %.80q: %s", e.Prefix, strings.Join(hashes, ", "))
}

// collections returns the own collection, and then those of companions, sorted
// by peer ID.
func (l *Library) collections() []*collection {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []*collection{l.own}
	for _, c := range l.companions {
		all = append(all, c.collection)
	}
	slices.SortFunc(all[1:], func(a, b *collection) int { return cmp.Compare(a.owner, b.owner) })
	return all
}

// searchable returns the collections whose pieces are in memory, after it
// waited for them, and the problems of all collections.
func (l *Library) searchable(ctx context.Context, all bool) (found []*collection, problems []Problem, err error) {
	from := []*collection{l.own}
	if all {
		// A companions database that cannot be read has no companions.
		if _ = l.companionsLoaded.wait(ctx); ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		from = l.collections()
	}
	if _, err := l.database(ctx, piecesAt); err != nil {
		l.own.pieces.fail(err)
	}
	limited, cancel := context.WithTimeout(ctx, l.cfg.ReadTimeout)
	defer cancel()
	for _, c := range from {
		waitCtx := limited
		if c == l.own {
			waitCtx = ctx
		}
		switch err := c.pieces.wait(waitCtx); {
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case err == nil:
			found = append(found, c)
			if l.followed.IsIncomplete(c.pieces.address()) {
				problems = append(problems, Problem{l.owner(c), PiecesName, ErrIncomplete})
			}
		case c == l.own && !all:
			return nil, nil, err
		case errors.Is(err, context.DeadlineExceeded):
			problems = append(problems, Problem{l.owner(c), PiecesName, ErrBeingRead})
		default:
			problems = append(problems, Problem{l.owner(c), PiecesName, err})
		}
		if err := c.indexFull(); err != nil {
			problems = append(problems, Problem{l.owner(c), PiecesName, err})
		}
	}
	return found, problems, nil
}

// awaitCounts waits until the practice counts are in memory, and returns the
// problems with those of companions.
func (l *Library) awaitCounts(ctx context.Context) (problems []Problem, err error) {
	if err := l.awaitOwnCounts(ctx); err != nil {
		return nil, err
	}
	if _ = l.companionsLoaded.wait(ctx); ctx.Err() != nil {
		return nil, ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, l.cfg.ReadTimeout)
	defer cancel()
	for _, c := range l.byPeer() {
		err := c.awaitCounts(limited)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			problems = append(problems, Problem{l.owner(c.collection), PracticeName, err})
		}
	}
	return problems, nil
}

func (l *Library) owner(c *collection) Owner {
	o := Owner{Peer: c.owner, Self: c == l.own}
	if o.Self {
		l.mu.Lock()
		defer l.mu.Unlock()
		o.Name = l.username
		return o
	}
	o.Name = l.nameOfCompanion(c.owner)
	return o
}

// awaitOwnCounts waits until the own practice counts are in memory.
func (l *Library) awaitOwnCounts(ctx context.Context) error {
	if _, err := l.database(ctx, practiceAt); err != nil {
		return nil
	}
	_ = l.own.practice.wait(ctx)
	return ctx.Err()
}

// Pieces returns the pieces that match a query, and the problems because of
// which pieces or counts may be missing. For a damaged document it yields an
// error, and the loop may continue.
//
// Pieces waits until the practice counts are in memory, which takes some
// seconds after the start of the daemon. The own pieces, newest first and
// without a filter, are then read from disk. Any other query also waits until
// the pieces are in memory.
func (l *Library) Pieces(ctx context.Context, q Query) (iter.Seq2[CatalogPiece, error], []Problem, error) {
	problems, err := l.awaitCounts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if q.Query == (piece.Query{}) && !q.All && (q.Sort == "" || q.Sort == piece.Newest) {
		seq, err := l.newest(ctx, q.Limit)
		return seq, problems, err
	}
	from, more, err := l.searchable(ctx, q.All)
	if err != nil {
		return nil, nil, err
	}
	problems = append(problems, more...)
	found := l.search(from, q.Query, q.Sort)
	return func(yield func(CatalogPiece, error) bool) {
		count := 0
		seen := make(map[string]bool)
		for found.Len() > 0 {
			h := heap.Pop(found).(hit)
			if seen[h.Canonical()] {
				continue
			}
			p, err := l.first(ctx, h, from)
			if errors.Is(err, orbit.ErrNotFound) {
				continue // it was removed after the search
			}
			if len(from) > 1 {
				seen[h.Canonical()] = true
			}
			if count++; !yield(p, err) || count == q.Limit {
				return
			}
		}
	}, problems, nil
}

// hit is a piece that was found in a collection.
type hit struct {
	piece.Hit
	rank int // index of the collection
}

// hits is a heap, so that the first hits are available before all are sorted.
type hits struct {
	all    []hit
	before func(a, b hit) bool
}

func (h *hits) Len() int           { return len(h.all) }
func (h *hits) Less(i, j int) bool { return h.before(h.all[i], h.all[j]) }
func (h *hits) Swap(i, j int)      { h.all[i], h.all[j] = h.all[j], h.all[i] }
func (h *hits) Push(x any)         { h.all = append(h.all, x.(hit)) }

func (h *hits) Pop() any {
	last := len(h.all) - 1
	x := h.all[last]
	h.all = h.all[:last]
	return x
}

// search returns the hits of a query in collections. In the order by age, the
// hits are grouped by collection.
func (l *Library) search(from []*collection, q piece.Query, by piece.Sort) *hits {
	found := &hits{}
	for rank, c := range from {
		if q == (piece.Query{}) {
			n, _ := c.index.Len()
			found.all = slices.Grow(found.all, n)
		}
		for h := range c.index.Search(q) {
			found.all = append(found.all, hit{h, rank})
		}
	}
	order := piece.Order(by)
	switch by {
	case ByPractice:
		order = piece.Order(piece.ByTitle)
		all := l.collections()
		counts := make(map[string]uint64, len(found.all))
		for _, h := range found.all {
			counts[h.Canonical()] = l.count(h.Canonical(), all).All
		}
		found.before = func(a, b hit) bool {
			if x, y := counts[a.Canonical()], counts[b.Canonical()]; x != y {
				return x > y
			}
			return order(a.Hit, b.Hit) < 0
		}
	case "", piece.Newest:
		found.before = func(a, b hit) bool {
			return a.rank < b.rank || a.rank == b.rank && order(a.Hit, b.Hit) < 0
		}
	default:
		found.before = func(a, b hit) bool { return order(a.Hit, b.Hit) < 0 }
	}
	heap.Init(found)
	return found
}

// first returns the piece of a hit, from the first collection that has it.
func (l *Library) first(ctx context.Context, h hit, from []*collection) (CatalogPiece, error) {
	for _, c := range from[:h.rank] {
		if hash, ok := c.index.Find(h.Hash()); ok {
			if p, err := l.listed(ctx, c, hash, from); err == nil {
				return p, nil
			}
		}
	}
	return l.listed(ctx, from[h.rank], h.Hash(), from)
}

// listed returns the piece with a hash in a collection.
func (l *Library) listed(ctx context.Context, in *collection, hash string, among []*collection) (CatalogPiece, error) {
	docs := in.documents()
	if docs == nil {
		return CatalogPiece{}, fmt.Errorf("piece %s: %w", hash, orbit.ErrNotFound)
	}
	item, err := docs.Get(ctx, hash)
	if err != nil {
		return CatalogPiece{}, err
	}
	p, ok := piece.Of(item.Value)
	if !ok {
		return CatalogPiece{}, fmt.Errorf("piece %s: %w", hash, orbit.ErrNotFound)
	}
	return l.list(p, in, among), nil
}

func (l *Library) list(p piece.Piece, in *collection, among []*collection) CatalogPiece {
	canonical := piece.Canonical(p.Hash)
	listed := CatalogPiece{Piece: p, Practice: l.count(canonical, l.collections())}
	for _, c := range among {
		if c == in || c.index.Has(canonical) {
			listed.Owners = append(listed.Owners, l.owner(c))
		}
	}
	return listed
}

// WithOwners returns a piece with all its owners and its complete practice
// count. It waits until the collections of companions are in memory.
func (l *Library) WithOwners(ctx context.Context, p CatalogPiece) (CatalogPiece, error) {
	from, _, err := l.searchable(ctx, true)
	if err != nil {
		return p, err
	}
	before := p.Owners
	p.Owners = nil
	for _, c := range from {
		if c.index.Has(piece.Canonical(p.Hash)) || slices.ContainsFunc(before, func(o Owner) bool { return o.Peer == c.owner }) {
			p.Owners = append(p.Owners, l.owner(c))
		}
	}
	p.Practice, err = l.Practised(ctx, p.Hash)
	return p, err
}

// newest yields the own pieces from disk, newest first.
func (l *Library) newest(ctx context.Context, limit int) (iter.Seq2[CatalogPiece, error], error) {
	docs, err := l.documents(ctx)
	if err != nil {
		return nil, err
	}
	return func(yield func(CatalogPiece, error) bool) {
		count := 0
		for item, err := range docs.Iterate(ctx, orbit.Page{}) {
			p, ok := piece.Of(item.Value)
			if err == nil && !ok {
				continue
			}
			var listed CatalogPiece
			if err == nil {
				listed = l.list(p, l.own, []*collection{l.own})
			}
			if count++; !yield(listed, err) || count == limit {
				return
			}
		}
	}, nil
}

// Random returns a random piece among those that match a query, with uniform
// probability. The error wraps [orbit.ErrNotFound] if there is none.
func (l *Library) Random(ctx context.Context, q Query) (CatalogPiece, []Problem, error) {
	problems, err := l.awaitCounts(ctx)
	if err != nil {
		return CatalogPiece{}, nil, err
	}
	from, more, err := l.searchable(ctx, q.All)
	if err != nil {
		return CatalogPiece{}, nil, err
	}
	problems = append(problems, more...)
	var found []hit
	seen := make(map[string]bool)
	for rank, c := range from {
		for h := range c.index.Search(q.Query) {
			if !seen[h.Canonical()] {
				seen[h.Canonical()] = true
				found = append(found, hit{h, rank})
			}
		}
	}
	for len(found) > 0 && ctx.Err() == nil {
		i, last := rand.N(len(found)), len(found)-1
		p, err := l.first(ctx, found[i], from)
		if !errors.Is(err, orbit.ErrNotFound) {
			return p, problems, err
		}
		found[i], found = found[last], found[:last]
	}
	if ctx.Err() != nil {
		return CatalogPiece{}, problems, ctx.Err()
	}
	return CatalogPiece{}, problems, fmt.Errorf("no such piece: %w", orbit.ErrNotFound)
}

// Resolve returns the piece with a hash in any spelling, or else the only piece
// whose hash has the given prefix. It searches the own pieces and, with all,
// those of companions. If only a companion has a hash and it is not a CID, it
// also counts as a prefix of other hashes. The error wraps [orbit.ErrNotFound],
// is an [*AmbiguousError], or wraps [ErrBeingRead] if a database that is being
// read may have a match.
func (l *Library) Resolve(ctx context.Context, given string, all bool) (CatalogPiece, error) {
	hash := strings.TrimPrefix(strings.TrimSpace(given), "/ipfs/")
	if hash == "" || len(given) > piece.MaxHash {
		return CatalogPiece{}, fmt.Errorf("%w: a hash has 1 to %d bytes", ErrInvalid, piece.MaxHash)
	}
	if err := l.awaitOwnCounts(ctx); err != nil {
		return CatalogPiece{}, err
	}
	// The look-up of an own piece by its complete hash does not wait for
	// companions.
	docs, err := l.documents(ctx)
	if err != nil && !all {
		return CatalogPiece{}, err
	}
	for _, h := range []string{given, hash} {
		if docs == nil {
			break
		}
		switch item, err := getAny(ctx, docs, h); {
		case err == nil:
			p, _ := piece.Of(item.Value)
			return l.list(p, l.own, l.collections()), nil
		case !errors.Is(err, orbit.ErrNotFound):
			return CatalogPiece{}, err
		}
	}
	from, problems, err := l.searchable(ctx, all)
	if err != nil {
		return CatalogPiece{}, err
	}
	if _, err := piece.Decode(hash); err == nil {
		if p, err := l.find(ctx, hash, from); !errors.Is(err, orbit.ErrNotFound) {
			return p, err
		}
	}
	for _, p := range problems {
		if errors.Is(p.Err, ErrBeingRead) {
			return CatalogPiece{}, fmt.Errorf("the pieces of %s may match %.80q and are %w", cmp.Or(p.Name, p.Peer.String()), hash, p.Err)
		}
	}
	var found []CatalogPiece
	seen := make(map[string]bool)
	for _, c := range from {
		keys := c.index.Prefixed(hash, maxCandidates+1)
		if given != hash { // hashes of other apps may have spaces or a prefix
			keys = append(keys, c.index.Prefixed(given, maxCandidates+1)...)
		}
		for _, key := range keys {
			canonical := piece.Canonical(key)
			if seen[canonical] {
				continue
			}
			p, err := l.listed(ctx, c, key, from)
			if errors.Is(err, orbit.ErrNotFound) {
				continue
			}
			if err != nil {
				return CatalogPiece{}, err
			}
			seen[canonical] = true
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return CatalogPiece{}, fmt.Errorf("no piece has a hash that is or begins with %.80q: %w", hash, orbit.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return CatalogPiece{}, &AmbiguousError{Prefix: hash, Pieces: found[:min(len(found), maxCandidates)]}
}

// find returns the piece with a hash, from the first collection that has it.
func (l *Library) find(ctx context.Context, hash string, from []*collection) (CatalogPiece, error) {
	for _, c := range from {
		if key, ok := c.index.Find(hash); ok {
			if p, err := l.listed(ctx, c, key, from); !errors.Is(err, orbit.ErrNotFound) {
				return p, err
			}
		}
	}
	return CatalogPiece{}, orbit.ErrNotFound
}
