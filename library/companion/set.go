package companion

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

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

// Names are the addresses of the databases that a user database names, "" for
// none.
type Names struct{ Pieces, Practice string }

// Content is what a library reads from the databases of a companion. A [Set]
// calls its methods. Failed may be called while Read runs; otherwise calls for
// a Kind do not overlap.
type Content interface {
	// Names returns the databases that the user database names. It returns none
	// while the user database was not read, and an error if it must not be
	// followed.
	Names() (Names, error)

	// Followed is called after the Set changed over to the result of Names.
	Followed(ctx context.Context)

	// Read reads a database and its changes until it fails or ctx is done.
	// isNew reports whether the entry with a number was added after the
	// database was complete.
	Read(ctx context.Context, kind Kind, db *orbit.Database, isNew func(number uint64) bool) error

	// Failed says why a database cannot be read for now. If that is the user
	// database, the names of the others are not known either.
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

	changed chan struct{} // holds a token when Names changed
	retry   chan struct{} // holds a token after Retry

	mu       sync.Mutex
	names    Names          // of the databases that are followed
	problems map[Kind]error // why a database is not followed
}

// NewSet returns the databases of the companion with a peer ID and a user
// database. recorded are the addresses that the companion had when the daemon
// started: those are only incomplete if they are recorded as such.
func (d *Databases) NewSet(id peer.ID, user string, content Content, recorded ...string) *Set {
	s := &Set{
		databases: d, peer: id, user: user, content: content,
		recorded: make(map[string]bool),
		changed:  make(chan struct{}, 1),
		retry:    make(chan struct{}, 1),
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
		names, err := s.content.Names()
		if pieces.differs(names.Pieces) || practice.differs(names.Practice) {
			if !pause(ctx, changePause) {
				return
			}
			names, err = s.content.Names()
		}
		s.setProblem(User, err)
		s.setNames(names)
		pieces.setAddress(ctx, names.Pieces, retry)
		practice.setAddress(ctx, names.Practice, retry)
		if names.Pieces == "" {
			s.content.Failed(Pieces, cmp.Or(err, ErrNotHere))
		}
		if names.Practice == "" {
			s.content.Failed(Practice, cmp.Or(err, ErrNotHere))
		}
		s.content.Followed(ctx)
	}
}

// NamesChanged says that Names of the [Content] has another result than before.
func (s *Set) NamesChanged() { signal(s.changed) }

// Retry follows again the databases that failed, also those that were dropped
// by hand, and compares the databases with the replicas of peers.
func (s *Set) Retry() {
	s.mu.Lock()
	clear(s.problems)
	names := s.names
	s.mu.Unlock()
	signal(s.retry)
	if r := s.databases.cfg.Replicator; r != nil {
		r.Ask(s.user)
		r.Ask(names.Pieces)
	}
}

// Problem returns why a database is not followed, or nil.
func (s *Set) Problem(kind Kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problems[kind]
}

func (s *Set) setNames(names Names) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = names
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

// signal puts a token into a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits, and reports whether ctx is not done.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
