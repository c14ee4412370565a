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

// Names of the library databases.
const (
	PiecesName     = "pieces"
	UserName       = "user"
	CompanionsName = "companions"
	PracticeName   = "practice"
)

// Indexes of the library databases in the result of [Library.Databases].
const (
	piecesAt = iota
	userAt
	companionsAt
	practiceAt
)

var databaseKinds = [...]struct {
	name string
	opts orbit.Options
}{
	piecesAt:     {PiecesName, orbit.Options{Type: orbit.TypeDocuments, IndexBy: piece.FieldHash}},
	userAt:       {UserName, orbit.Options{Type: orbit.TypeKeyValue}},
	companionsAt: {CompanionsName, orbit.Options{Type: orbit.TypeKeyValue}},
	practiceAt:   {PracticeName, orbit.Options{Type: orbit.TypeKeyValue}},
}

// Database is one of the library databases.
type Database struct {
	Name string
	DB   *orbit.Database // nil if it could not be opened
	Err  error           // the database cannot be used, or only in part; or nil
}

// Databases returns the library databases: pieces, user, companions and
// practice, in this order. It opens again those that failed before.
func (l *Library) Databases(ctx context.Context) []Database {
	l.opening.Lock()
	defer l.opening.Unlock()
	changed := false
	for i := range databaseKinds {
		changed = l.open(ctx, i) || changed
		if err := l.databases[i].Err; err != nil {
			l.latchOf(i).fail(err)
		}
	}
	if user := &l.databases[userAt]; user.DB != nil && changed {
		if err := l.fillProfile(ctx); err != nil {
			user.Err = fmt.Errorf("fill in the profile: %w", err)
		}
	}
	return slices.Clone(l.databases[:])
}

// database returns one of the library databases.
func (l *Library) database(ctx context.Context, at int) (*orbit.Database, error) {
	s := l.Databases(ctx)[at]
	if s.DB == nil {
		return nil, fmt.Errorf("database %q: %w", s.Name, s.Err)
	}
	return s.DB, nil
}

// keyValue returns one of the library databases of type keyvalue.
func (l *Library) keyValue(ctx context.Context, at int) (*orbit.KeyValue, error) {
	db, err := l.database(ctx, at)
	if err != nil {
		return nil, err
	}
	return db.KeyValue()
}

// documents returns the pieces database.
func (l *Library) documents(ctx context.Context) (*orbit.Documents, error) {
	db, err := l.database(ctx, piecesAt)
	if err != nil {
		return nil, err
	}
	return db.Documents()
}

// open opens or creates a database, unless it is open without an error. It
// reports whether it succeeded. The caller holds l.opening.
func (l *Library) open(ctx context.Context, at int) bool {
	s := &l.databases[at]
	if s.DB != nil && s.Err == nil {
		return false
	}
	kind := databaseKinds[at]
	opts, err := l.optionsOf(ctx, kind.name, kind.opts)
	var db *orbit.Database
	if err == nil {
		l.addresses[at], err = l.cfg.Orbit.AddressOf(kind.name, opts)
	}
	if err == nil {
		db, err = l.cfg.Orbit.Create(ctx, kind.name, opts)
	}
	before := s.DB
	*s = Database{kind.name, db, err}
	if err == nil && db != before {
		l.latchOf(at).begin()
		l.tasks.Go(func() { l.read(at, db) })
	}
	return err == nil
}

// optionsOf returns the options of a database: those with a changeable access
// list, unless only the database with a fixed access list is here, which
// earlier versions created.
func (l *Library) optionsOf(ctx context.Context, name string, fixed orbit.Options) (orbit.Options, error) {
	managed := fixed
	managed.Access.Managed = true
	for _, opts := range []orbit.Options{managed, fixed} {
		address, err := l.cfg.Orbit.AddressOf(name, opts)
		if err != nil {
			return opts, err
		}
		d, err := l.cfg.Orbit.Listed(ctx, address)
		if err == nil && !d.Access || err != nil && !errors.Is(err, orbit.ErrUnknown) {
			return opts, err
		}
	}
	return managed, nil
}

// DatabaseAddresses returns the addresses of the library databases, also of
// those that cannot be opened.
func (l *Library) DatabaseAddresses() []string {
	l.opening.Lock()
	defer l.opening.Unlock()
	return slices.Clone(l.addresses[:])
}

// isOwn reports whether an address is that of one of the library databases.
func (l *Library) isOwn(ctx context.Context, address string) bool {
	return slices.ContainsFunc(l.Databases(ctx), func(s Database) bool { return s.DB != nil && s.DB.Address() == address })
}

// latchOf returns the latch of a database.
func (l *Library) latchOf(at int) *latch {
	return [...]*latch{piecesAt: &l.own.pieces, userAt: &l.profileLoaded, companionsAt: &l.companionsLoaded, practiceAt: &l.own.practice}[at]
}

// read reads a database into memory and follows its changes until the library
// closes.
func (l *Library) read(at int, db *orbit.Database) {
	var err error
	switch at {
	case piecesAt:
		l.own.index.Clear() // the database may have been read before
		err = l.own.readPieces(l.ctx, db, nil)
	case practiceAt:
		l.own.counts.clear()
		err = l.own.readPractice(l.ctx, db)
	case userAt:
		err = mirror(l.ctx, db, func(key value.Value, item *orbit.Item, _ uint64) { l.profileChanged(key, item) }, l.profileLoaded.readTo)
		l.profileLoaded.end(err)
	case companionsAt:
		err = mirror(l.ctx, db, l.recordChanged, l.companionsLoaded.readTo)
		l.companionsLoaded.end(err)
	}
	if l.ctx.Err() == nil && !errors.Is(err, orbit.ErrClosed) {
		log.Errorw("library database cannot be read", "name", databaseKinds[at].name, "err", err)
	}
}

// fillProfile puts the initial fields that the user database lacks, and
// corrects those by which peers follow this daemon.
func (l *Library) fillProfile(ctx context.Context) error {
	user, err := l.databases[userAt].DB.KeyValue()
	if err != nil {
		return err
	}
	id := l.self.String()
	fields := []orbit.Pair{
		{Key: KeyUsername, Value: "musician-" + id[max(0, len(id)-6):]},
		{Key: KeyNodeID, Value: id},
	}
	for key, at := range map[string]int{KeyPieces: piecesAt, KeyPractice: practiceAt} {
		if db := l.databases[at].DB; db != nil {
			fields = append(fields, orbit.Pair{Key: key, Value: db.Address()})
		}
	}
	var changes []orbit.Pair
	for _, field := range fields {
		item, err := user.Get(ctx, field.Key)
		switch {
		case errors.Is(err, orbit.ErrNotFound):
			changes = append(changes, field)
		case err != nil:
			return err
		case field.Key != KeyUsername && !item.Value.Equal(value.Text(field.Value.(string))):
			changes = append(changes, field)
		}
	}
	_, err = user.PutMany(ctx, slices.Values(changes))
	return err
}
