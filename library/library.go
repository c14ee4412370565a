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
	DB   *orbit.Database // nil where Err is not
	Err  error           // why it could not be opened
}

// Library is the daemon's own stores.
type Library struct {
	Pieces Store
	User   Store
}

// Open opens the stores, makes them where they are new, and fills in what is
// missing of the user store. What cannot be opened or filled in is logged and shown in the Store, and keeps
// nothing else from working.
func Open(ctx context.Context, o *orbit.Orbit, self peer.ID) *Library {
	l := &Library{
		Pieces: open(ctx, o, PiecesName, orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"}),
		User:   open(ctx, o, UserName, orbit.Options{Type: orbit.TypeKeyValue}),
	}
	if err := l.fill(ctx, self); err != nil {
		log.Errorw("fill in the user store", "err", err)
		l.User.Err = fmt.Errorf("fill in: %w", err)
	}
	return l
}

func open(ctx context.Context, o *orbit.Orbit, name string, opts orbit.Options) Store {
	db, err := o.Create(ctx, name, opts)
	if err != nil {
		log.Errorw("open store", "name", name, "err", err)
	}
	return Store{name, db, err}
}

// fill puts what every user store has, unless it has it.
func (l *Library) fill(ctx context.Context, self peer.ID) error {
	if l.User.DB == nil {
		return nil
	}
	user, err := l.User.DB.KeyValue()
	if err != nil {
		return err
	}
	id := self.String()
	facts := []orbit.Pair{
		{Key: KeyUsername, Value: "musician-" + id[max(0, len(id)-6):]},
		{Key: KeyNodeID, Value: id},
	}
	if l.Pieces.DB != nil {
		facts = append(facts, orbit.Pair{Key: KeyPieces, Value: l.Pieces.DB.Address()})
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
	_, err = user.PutMany(ctx, func(yield func(orbit.Pair) bool) {
		for _, fact := range missing {
			if !yield(fact) {
				return
			}
		}
	})
	return err
}

// Username returns how the owner is called, or "" if that is no text.
func (l *Library) Username(ctx context.Context) (string, error) {
	if l.User.DB == nil {
		return "", l.User.Err
	}
	user, err := l.User.DB.KeyValue()
	if err != nil {
		return "", err
	}
	item, err := user.Get(ctx, KeyUsername)
	if err != nil {
		return "", err
	}
	name, ok := item.Value.Text()
	if !ok { // a number, as in the tutorial
		name = item.Value.String()
	}
	return name, nil
}
