// Package library is the app on top of the daemon: a musician's pieces and
// profile, in OrbitDB databases.
//
// There are two stores, each of which only the daemon's own OrbitDB identity
// may write: "pieces", documents whose key is the field "hash", the CID of a
// piece; and "user", keys and values about the owner. They are those of the
// OrbitDB tutorial, so that its readers know their way.
package library

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
)

var log = logging.Logger("npp/library")

// Names of the stores.
const (
	PiecesName = "pieces"
	UserName   = "user"
)

// Keys of the user store that are there from the beginning.
const (
	KeyUsername = "username" // how the owner is called
	KeyPieces   = "pieces"   // address of the store of pieces
	KeyNodeID   = "nodeId"   // the daemon's peer ID
)

// Store is one of the daemon's own stores.
type Store struct {
	Name string
	DB   *orbit.Database // nil if it could not be opened
	Err  error           // what is wrong with it, or nil
}

// Library is the daemon's own stores. Its methods may be called concurrently.
type Library struct {
	orbit *orbit.Orbit
	self  peer.ID

	mu     sync.Mutex
	pieces Store
	user   Store
}

// Open opens the stores, makes them where they are new, and fills in what is
// missing of the user store. What does not work is logged, and keeps nothing
// else from working.
func Open(ctx context.Context, o *orbit.Orbit, self peer.ID) *Library {
	l := &Library{orbit: o, self: self}
	for _, s := range l.Stores(ctx) {
		if s.Err != nil {
			log.Errorw("own store", "name", s.Name, "err", s.Err)
		}
	}
	return l
}

// Stores returns the stores of pieces and of the user, in this order. Where
// something was wrong before, it is tried again.
func (l *Library) Stores(ctx context.Context) []Store {
	l.mu.Lock()
	defer l.mu.Unlock()
	pieces := l.open(ctx, &l.pieces, PiecesName, orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"})
	user := l.open(ctx, &l.user, UserName, orbit.Options{Type: orbit.TypeKeyValue})
	if l.user.DB != nil && (pieces || user) {
		if err := l.fill(ctx); err != nil {
			l.user.Err = fmt.Errorf("fill in: %w", err)
		}
	}
	return []Store{l.pieces, l.user}
}

// open opens a store unless it is open and sound, and reports whether it did.
func (l *Library) open(ctx context.Context, s *Store, name string, opts orbit.Options) bool {
	if s.DB != nil && s.Err == nil {
		return false
	}
	db, err := l.orbit.Create(ctx, name, opts)
	*s = Store{name, db, err}
	return err == nil
}

// fill puts what every user store has, unless it has it.
func (l *Library) fill(ctx context.Context) error {
	user, err := l.user.DB.KeyValue()
	if err != nil {
		return err
	}
	id := l.self.String()
	facts := []orbit.Pair{
		{Key: KeyUsername, Value: "musician-" + id[max(0, len(id)-6):]},
		{Key: KeyNodeID, Value: id},
	}
	if l.pieces.DB != nil {
		facts = append(facts, orbit.Pair{Key: KeyPieces, Value: l.pieces.DB.Address()})
	}
	var missing []orbit.Pair
	for _, fact := range facts {
		_, err := user.Get(ctx, fact.Key)
		switch {
		case errors.Is(err, orbit.ErrNotFound):
			missing = append(missing, fact)
		case err != nil:
			return err
		}
	}
	_, err = user.PutMany(ctx, slices.Values(missing))
	return err
}

// Username returns how the owner is called, or "" if that is not known.
func (l *Library) Username(ctx context.Context) (string, error) {
	user := l.Stores(ctx)[1]
	if user.DB == nil {
		return "", user.Err
	}
	kv, err := user.DB.KeyValue()
	if err != nil {
		return "", err
	}
	item, err := kv.Get(ctx, KeyUsername)
	if errors.Is(err, orbit.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if name, ok := item.Value.Text(); ok {
		return name, nil
	}
	return item.Value.String(), nil // a number, as in the tutorial
}
