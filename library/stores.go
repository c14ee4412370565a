package library

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// Names of the stores.
const (
	PiecesName     = "pieces"
	UserName       = "user"
	CompanionsName = "companions"
	PracticeName   = "practice"
)

// Places of the stores among [Library.Stores].
const (
	piecesAt = iota
	userAt
	companionsAt
	practiceAt
)

var storeKinds = [...]struct {
	name string
	opts orbit.Options
}{
	piecesAt:     {PiecesName, orbit.Options{Type: orbit.TypeDocuments, IndexBy: piece.FieldHash}},
	userAt:       {UserName, orbit.Options{Type: orbit.TypeKeyValue}},
	companionsAt: {CompanionsName, orbit.Options{Type: orbit.TypeKeyValue}},
	practiceAt:   {PracticeName, orbit.Options{Type: orbit.TypeKeyValue}},
}

// Store is one of the library's own stores.
type Store struct {
	Name string
	DB   *orbit.Database // nil if it could not be opened
	Err  error           // what is wrong with it, or nil
}

// Stores returns the stores: pieces, user, companions and practice, in this order.
// Where something was wrong before, it is tried again.
func (l *Library) Stores(ctx context.Context) []Store {
	l.opening.Lock()
	defer l.opening.Unlock()
	changed := false
	for i := range storeKinds {
		changed = l.open(ctx, i) || changed
		if err := l.stores[i].Err; err != nil {
			l.gateOf(i).fail(err)
		}
	}
	if user := &l.stores[userAt]; user.DB != nil && changed {
		if err := l.fill(ctx); err != nil {
			user.Err = fmt.Errorf("fill in: %w", err)
		}
	}
	return slices.Clone(l.stores[:])
}

// store returns one of the stores, or what is wrong with it.
func (l *Library) store(ctx context.Context, at int) (*orbit.Database, error) {
	s := l.Stores(ctx)[at]
	if s.DB == nil {
		return nil, fmt.Errorf("store %q: %w", s.Name, s.Err)
	}
	return s.DB, nil
}

// keyValue returns one of the stores that are keyvalue.
func (l *Library) keyValue(ctx context.Context, at int) (*orbit.KeyValue, error) {
	db, err := l.store(ctx, at)
	if err != nil {
		return nil, err
	}
	return db.KeyValue()
}

// documents returns the store of pieces.
func (l *Library) documents(ctx context.Context) (*orbit.Documents, error) {
	db, err := l.store(ctx, piecesAt)
	if err != nil {
		return nil, err
	}
	return db.Documents()
}

// open opens a store unless it is open and sound, and reports whether it did. The
// caller holds l.opening.
func (l *Library) open(ctx context.Context, at int) bool {
	s := &l.stores[at]
	if s.DB != nil && s.Err == nil {
		return false
	}
	kind := storeKinds[at]
	opts, err := l.optionsOf(ctx, kind.name, kind.opts)
	var db *orbit.Database
	if err == nil {
		l.addresses[at], err = l.cfg.Orbit.AddressOf(kind.name, opts)
	}
	if err == nil {
		db, err = l.cfg.Orbit.Create(ctx, kind.name, opts)
	}
	before := s.DB
	*s = Store{kind.name, db, err}
	if err == nil && db != before {
		l.begin(at)
		l.tasks.Go(func() { l.read(at, db) })
	}
	return err == nil
}

// optionsOf returns the options of a store: those of one whose writers can be
// changed, unless there is only the one whose writers cannot, which was made
// before.
func (l *Library) optionsOf(ctx context.Context, name string, fixed orbit.Options) (orbit.Options, error) {
	managed := fixed
	managed.Access.Managed = true
	isHere := make(map[string]bool)
	for d, err := range l.cfg.Orbit.Databases(ctx) {
		if err != nil {
			return fixed, err
		}
		isHere[d.Address] = !d.Access
	}
	for _, opts := range []orbit.Options{managed, fixed} {
		address, err := l.cfg.Orbit.AddressOf(name, opts)
		if err != nil || isHere[address] {
			return opts, err
		}
	}
	return managed, nil
}

// Addresses returns the addresses of the stores, whether they can be opened or not.
func (l *Library) Addresses() []string {
	l.opening.Lock()
	defer l.opening.Unlock()
	return slices.Clone(l.addresses[:])
}

// gateOf returns what is closed until a store is in memory.
func (l *Library) gateOf(at int) *gate {
	return [...]*gate{piecesAt: &l.own.pieces, userAt: &l.named, companionsAt: &l.known, practiceAt: &l.own.practice}[at]
}

// begin says that a store is about to be read.
func (l *Library) begin(at int) { l.gateOf(at).begin() }

// read keeps what is in memory of a store in step with it, until the library
// closes.
func (l *Library) read(at int, db *orbit.Database) {
	var err error
	switch at {
	case piecesAt:
		l.own.index.Clear() // it may be read anew
		err = l.own.followPieces(l.ctx, db, nil)
	case practiceAt:
		l.own.counts.clear()
		err = l.own.followPractice(l.ctx, db)
	case userAt:
		err = mirror(l.ctx, db, func(key value.Value, item *orbit.Item, _ uint64) { l.ownProfile(key, item) }, l.named.readTo)
		l.named.end(err)
	case companionsAt:
		err = mirror(l.ctx, db, l.companionChanged, l.known.readTo)
		l.known.end(err)
	}
	if l.ctx.Err() == nil && !errors.Is(err, orbit.ErrClosed) {
		log.Errorw("own store cannot be followed", "name", storeKinds[at].name, "err", err)
	}
}

// fill puts what every user store has, unless it has it. What others follow us by is
// put right where it is not so any more.
func (l *Library) fill(ctx context.Context) error {
	user, err := l.stores[userAt].DB.KeyValue()
	if err != nil {
		return err
	}
	id := l.self.String()
	facts := []orbit.Pair{
		{Key: KeyUsername, Value: "musician-" + id[max(0, len(id)-6):]},
		{Key: KeyNodeID, Value: id},
	}
	for key, at := range map[string]int{KeyPieces: piecesAt, KeyPractice: practiceAt} {
		if db := l.stores[at].DB; db != nil {
			facts = append(facts, orbit.Pair{Key: key, Value: db.Address()})
		}
	}
	var missing []orbit.Pair
	for _, fact := range facts {
		item, err := user.Get(ctx, fact.Key)
		switch {
		case errors.Is(err, orbit.ErrNotFound):
			missing = append(missing, fact)
		case err != nil:
			return err
		case fact.Key != KeyUsername && !item.Value.Equal(value.Text(fact.Value.(string))):
			missing = append(missing, fact)
		}
	}
	_, err = user.PutMany(ctx, slices.Values(missing))
	return err
}
