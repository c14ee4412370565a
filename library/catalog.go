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

// ByPractice is the order of pieces by how often they were practised, most often
// first.
const ByPractice piece.Sort = "practice"

// maxCandidates is how many pieces an [AmbiguousError] names.
const maxCandidates = 10

// Query chooses pieces.
type Query struct {
	piece.Query
	All    bool // those of companions, too
	Sort   piece.Sort
	Amount int // at most so many; 0 is no limit
}

// Listed is a piece in the catalog.
type Listed struct {
	piece.Piece
	Practice Count
	Owners   []Owner // oneself first, then by peer ID
}

// Owner is somebody who has a piece.
type Owner struct {
	Peer peer.ID
	Name string // "" if that is not known
	Self bool
}

// Trouble is what keeps somebody's pieces from being looked at, or practice counts from
// being counted.
type Trouble struct {
	Owner
	Store string // PiecesName or PracticeName
	Err   error  // wraps [ErrPartial] where what is here is looked at
}

// AmbiguousError says that several pieces have a hash that begins so.
type AmbiguousError struct {
	Prefix string
	Pieces []Listed // some of them
}

func (e *AmbiguousError) Error() string {
	hashes := make([]string, len(e.Pieces))
	for i, p := range e.Pieces {
		hashes[i] = p.Hash
	}
	return fmt.Sprintf("several pieces begin with %.80q: %s", e.Prefix, strings.Join(hashes, ", "))
}

// collections returns one's own pieces and those of the companions, by peer ID.
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

// readable returns the collections that can be looked at, once they are in memory,
// and what keeps the others from it.
func (l *Library) readable(ctx context.Context, all bool) (found []*collection, troubles []Trouble, err error) {
	from := []*collection{l.own}
	if all {
		// A store of companions that is broken has none.
		if _ = l.known.wait(ctx); ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		from = l.collections()
	}
	if _, err := l.store(ctx, piecesAt); err != nil {
		l.own.pieces.fail(err)
	}
	patient, cancel := context.WithTimeout(ctx, l.cfg.Patience)
	defer cancel()
	for _, c := range from {
		wait := patient
		if c == l.own {
			wait = ctx
		}
		switch err := c.pieces.wait(wait); {
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case err == nil:
			found = append(found, c)
			if l.isPartial(c.pieces.address()) {
				troubles = append(troubles, Trouble{l.owner(c), PiecesName, ErrPartial})
			}
		case c == l.own && !all:
			return nil, nil, err
		case errors.Is(err, context.DeadlineExceeded):
			troubles = append(troubles, Trouble{l.owner(c), PiecesName, ErrBeingRead})
		default:
			troubles = append(troubles, Trouble{l.owner(c), PiecesName, err})
		}
		if err := c.unsearched(); err != nil {
			troubles = append(troubles, Trouble{l.owner(c), PiecesName, err})
		}
	}
	return found, troubles, nil
}

// practiceReady waits until the counts are in memory, and returns which counts of
// companions are not all here or not read yet.
func (l *Library) practiceReady(ctx context.Context) (troubles []Trouble, err error) {
	if err := l.ownPracticeReady(ctx); err != nil {
		return nil, err
	}
	if _ = l.known.wait(ctx); ctx.Err() != nil {
		return nil, ctx.Err()
	}
	patient, cancel := context.WithTimeout(ctx, l.cfg.Patience)
	defer cancel()
	for _, c := range l.byPeer() {
		err := c.practiceReady(patient)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			troubles = append(troubles, Trouble{l.owner(c.collection), PracticeName, err})
		}
	}
	return troubles, nil
}

// practiceReady waits until the counts of a companion are in memory, and returns why
// they are not all there, or nil. A companion whose user store names none has none.
func (c *companion) practiceReady(ctx context.Context) error {
	err := c.practice.wait(ctx)
	said, _ := c.wanted()
	isRead := err == nil && c.practice.address() == said.Practice
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return ErrBeingRead
	case said.Practice == "", isRead && !c.lib.isPartial(said.Practice):
		return nil
	case isRead:
		return ErrPartial
	case err != nil && !errors.Is(err, ErrNotHere):
		return err
	}
	return c.lib.incomplete(ctx, &c.practice, said.Practice)
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

// ownPracticeReady waits until one's own counts are in memory.
func (l *Library) ownPracticeReady(ctx context.Context) error {
	if _, err := l.store(ctx, practiceAt); err != nil {
		return nil
	}
	_ = l.own.practice.wait(ctx)
	return ctx.Err()
}

// Pieces returns the pieces that a query chooses, and whose pieces and practice counts
// cannot be looked at, which keeps no others from being found. A piece whose document
// is damaged is yielded as its error, and the loop may go on.
//
// One's own pieces, the newest first and without a choice, come from the disk as they
// are read, once the counts are in memory; all else waits until what is searched is in
// memory, too, some seconds after the start of the daemon.
func (l *Library) Pieces(ctx context.Context, q Query) (iter.Seq2[Listed, error], []Trouble, error) {
	troubles, err := l.practiceReady(ctx)
	if err != nil {
		return nil, nil, err
	}
	if q.Query == (piece.Query{}) && !q.All && (q.Sort == "" || q.Sort == piece.Newest) {
		seq, err := l.newest(ctx, q.Amount)
		return seq, troubles, err
	}
	from, more, err := l.readable(ctx, q.All)
	if err != nil {
		return nil, nil, err
	}
	troubles = append(troubles, more...)
	found := l.search(from, q.Query, q.Sort)
	return func(yield func(Listed, error) bool) {
		count := 0
		seen := make(map[string]bool)
		for found.Len() > 0 {
			h := heap.Pop(found).(hit)
			if seen[h.Canonical()] {
				continue
			}
			p, err := l.first(ctx, h, from)
			if errors.Is(err, orbit.ErrNotFound) {
				continue // it was removed meanwhile
			}
			if len(from) > 1 {
				seen[h.Canonical()] = true
			}
			if count++; !yield(p, err) || count == q.Amount {
				return
			}
		}
	}, troubles, nil
}

// hit is a piece that was found in a collection.
type hit struct {
	piece.Hit
	rank int // of the collection
}

// hits are to be had in an order, the first of them soon. They are a heap.
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

// search returns what a query finds in collections. By age, what one of them has
// comes after what one before it has.
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

// first returns the piece that a hit is, from the first collection that has it.
func (l *Library) first(ctx context.Context, h hit, from []*collection) (Listed, error) {
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
func (l *Library) listed(ctx context.Context, in *collection, hash string, among []*collection) (Listed, error) {
	docs := in.documents()
	if docs == nil {
		return Listed{}, fmt.Errorf("piece %s: %w", hash, orbit.ErrNotFound)
	}
	item, err := docs.Get(ctx, hash)
	if err != nil {
		return Listed{}, err
	}
	p, ok := piece.Of(item.Value)
	if !ok {
		return Listed{}, fmt.Errorf("piece %s: %w", hash, orbit.ErrNotFound)
	}
	return l.list(p, in, among), nil
}

func (l *Library) list(p piece.Piece, in *collection, among []*collection) Listed {
	canonical := piece.Canonical(p.Hash)
	listed := Listed{Piece: p, Practice: l.count(canonical, l.collections())}
	for _, c := range among {
		if c == in || c.index.Has(canonical) {
			listed.Owners = append(listed.Owners, l.owner(c))
		}
	}
	return listed
}

// WithOwners returns a piece with all its owners, and with all that was counted, once
// what companions have is in memory.
func (l *Library) WithOwners(ctx context.Context, p Listed) (Listed, error) {
	from, _, err := l.readable(ctx, true)
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

// newest yields one's own pieces as they are read from the disk.
func (l *Library) newest(ctx context.Context, amount int) (iter.Seq2[Listed, error], error) {
	docs, err := l.documents(ctx)
	if err != nil {
		return nil, err
	}
	return func(yield func(Listed, error) bool) {
		count := 0
		for item, err := range docs.Iterate(ctx, orbit.Page{}) {
			p, ok := piece.Of(item.Value)
			if err == nil && !ok {
				continue
			}
			var listed Listed
			if err == nil {
				listed = l.list(p, l.own, []*collection{l.own})
			}
			if count++; !yield(listed, err) || count == amount {
				return
			}
		}
	}, nil
}

// Random returns a piece by chance among those that a query chooses, each as likely
// as any other. The error wraps [orbit.ErrNotFound] where there is none.
func (l *Library) Random(ctx context.Context, q Query) (Listed, []Trouble, error) {
	troubles, err := l.practiceReady(ctx)
	if err != nil {
		return Listed{}, nil, err
	}
	from, more, err := l.readable(ctx, q.All)
	if err != nil {
		return Listed{}, nil, err
	}
	troubles = append(troubles, more...)
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
			return p, troubles, err
		}
		found[i], found = found[last], found[:last]
	}
	if ctx.Err() != nil {
		return Listed{}, troubles, ctx.Err()
	}
	return Listed{}, troubles, fmt.Errorf("no such piece: %w", orbit.ErrNotFound)
}

// Resolve returns the piece with a hash, written in any way, or else the only one
// whose hash begins so: among one's own or, with all, among those of companions,
// too. A hash that is no CID, such as other apps put, is taken for the beginning of
// others where only a companion has it. The error wraps [orbit.ErrNotFound], or is an
// [*AmbiguousError], or wraps [ErrBeingRead] where pieces that are being read may be
// meant, too.
func (l *Library) Resolve(ctx context.Context, given string, all bool) (Listed, error) {
	hash := strings.TrimPrefix(strings.TrimSpace(given), "/ipfs/")
	if hash == "" || len(given) > piece.MaxHash {
		return Listed{}, fmt.Errorf("%w: a hash has 1 to %d bytes", ErrInvalid, piece.MaxHash)
	}
	if err := l.ownPracticeReady(ctx); err != nil {
		return Listed{}, err
	}
	// One's own by its whole hash waits for nothing of others.
	docs, err := l.documents(ctx)
	if err != nil && !all {
		return Listed{}, err
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
			return Listed{}, err
		}
	}
	from, troubles, err := l.readable(ctx, all)
	if err != nil {
		return Listed{}, err
	}
	if _, err := piece.Decode(hash); err == nil {
		if p, err := l.find(ctx, hash, from); !errors.Is(err, orbit.ErrNotFound) {
			return p, err
		}
	}
	for _, t := range troubles {
		if errors.Is(t.Err, ErrBeingRead) {
			return Listed{}, fmt.Errorf("the pieces of %s may be meant by %.80q and are %w", cmp.Or(t.Name, t.Peer.String()), hash, t.Err)
		}
	}
	var found []Listed
	seen := make(map[string]bool)
	for _, c := range from {
		keys := c.index.Prefixed(hash, maxCandidates+1)
		if given != hash { // other apps put what they like
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
				return Listed{}, err
			}
			seen[canonical] = true
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return Listed{}, fmt.Errorf("no piece has the hash %.80q, or one that begins so: %w", hash, orbit.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Listed{}, &AmbiguousError{Prefix: hash, Pieces: found[:min(len(found), maxCandidates)]}
}

// find returns the piece with a hash, from the first collection that has it.
func (l *Library) find(ctx context.Context, hash string, from []*collection) (Listed, error) {
	for _, c := range from {
		if key, ok := c.index.Find(hash); ok {
			if p, err := l.listed(ctx, c, key, from); !errors.Is(err, orbit.ErrNotFound) {
				return p, err
			}
		}
	}
	return Listed{}, orbit.ErrNotFound
}
