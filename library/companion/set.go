package companion

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
)

// changePause is the minimum time between two changes of the addresses that a
// user database names.
const changePause = 2 * time.Second

// Kind is the role of a database in a library.
type Kind string

// The databases of a companion.
const (
	User     Kind = "user"
	Pieces   Kind = "pieces"
	Practice Kind = "practice"
)

// Addresses are those of the databases that a user database names, "" for
// none.
type Addresses struct{ Pieces, Practice string }

// Content is what a library reads from the databases of a companion. A [Set]
// calls its methods. Failed may be called while Read runs; otherwise calls for
// a Kind do not overlap.
type Content interface {
	// Addresses returns the databases that the user database names: none
	// while the user database was not read, and an error if it must not be
	// followed.
	Addresses() (Addresses, error)

	// Followed is called after the Set changed to the result of Addresses.
	Followed(ctx context.Context)

	// Read reads a database and its changes until it fails or ctx is done.
	// isNew reports whether the entry with a number was added after the
	// database was complete.
	Read(ctx context.Context, kind Kind, db *orbit.Database, isNew func(number uint64) bool) error

	// Failed says why a database cannot be read for now. If that is the user
	// database, the addresses of the others are unknown, too.
	Failed(kind Kind, err error)

	// Reset discards what was read from a database.
	Reset(kind Kind)
}

// Set is the databases of one companion. Its methods may be called
// concurrently.
type Set struct {
	databases *Databases
	peer      peer.ID
	user      string // address of the user database
	recorded  map[string]bool
	content   Content

	changed wait.Flag // set when Addresses changed
	retry   wait.Flag // set by Retry

	mu       sync.Mutex
	followed Addresses      // of the databases that are followed
	problems map[Kind]error // why a database is not followed
}

// NewSet returns the databases of the companion with a peer ID and a user
// database. recorded are the addresses that the companion had when the daemon
// started: those are only incomplete if they are recorded as such.
func (d *Databases) NewSet(id peer.ID, user string, content Content, recorded ...string) *Set {
	s := &Set{
		databases: d, peer: id, user: user, content: content,
		recorded: make(map[string]bool),
		changed:  wait.NewFlag(),
		retry:    wait.NewFlag(),
		problems: make(map[Kind]error),
	}
	for _, address := range recorded {
		s.recorded[address] = true
	}
	return s
}

// Run opens, watches and reads the databases until ctx is done. Then it
// releases them: auto-opened databases that no other Set uses are dropped,
// unless [Databases.Close] was called. Run is called once.
func (s *Set) Run(ctx context.Context) {
	user := &database{set: s, kind: User, typ: orbit.TypeKeyValue}
	pieces := &database{set: s, kind: Pieces, typ: orbit.TypeDocuments, indexBy: piece.FieldHash}
	practice := &database{set: s, kind: Practice, typ: orbit.TypeKeyValue}
	defer user.stop()
	defer pieces.stop()
	defer practice.stop()
	user.setAddress(ctx, s.user, false)
	for {
		retry := false
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-s.retry:
			retry = true
			user.setAddress(ctx, s.user, true)
		}
		want, err := s.content.Addresses()
		// A user database that changes the addresses again and again is followed slowly.
		if pieces.changes(want.Pieces) || practice.changes(want.Practice) {
			if wait.For(ctx, changePause) != nil {
				return
			}
			want, err = s.content.Addresses()
		}
		s.setProblem(User, err)
		s.setFollowed(want)
		pieces.setAddress(ctx, want.Pieces, retry)
		practice.setAddress(ctx, want.Practice, retry)
		if want.Pieces == "" {
			s.content.Failed(Pieces, cmp.Or(err, ErrNotHere))
		}
		if want.Practice == "" {
			s.content.Failed(Practice, cmp.Or(err, ErrNotHere))
		}
		s.content.Followed(ctx)
	}
}

// AddressesChanged tells the Set that the result of [Content].Addresses
// changed.
func (s *Set) AddressesChanged() { s.changed.Set() }

// Retry follows again the databases that failed, also those that were dropped
// by hand, and compares the databases with the replicas of peers.
func (s *Set) Retry() {
	s.mu.Lock()
	clear(s.problems)
	followed := s.followed
	s.mu.Unlock()
	s.retry.Set()
	if r := s.databases.cfg.Replicator; r != nil {
		r.CompareNow(s.user)
		r.CompareNow(followed.Pieces)
	}
}

// Problem returns why a database is not followed, or nil.
func (s *Set) Problem(kind Kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problems[kind]
}

func (s *Set) setFollowed(a Addresses) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followed = a
}

func (s *Set) setProblem(kind Kind, err error) {
	s.mu.Lock()
	before := s.problems[kind]
	s.problems[kind] = err
	s.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		log.Warnw("companion", "peer", s.peer, "database", kind, "err", err)
	}
}
