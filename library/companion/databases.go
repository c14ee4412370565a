package companion

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"

	logging "github.com/ipfs/go-log/v2"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/store"
)

var log = logging.Logger("npp/library")

// autoOpenedPrefix is the prefix of the records of auto-opened databases.
const autoOpenedPrefix = "brought"

var (
	// ErrNotHere is returned for a database of which nothing is here yet.
	ErrNotHere = errors.New("not here yet")
	// ErrIncomplete is returned for a database that was not in sync with any
	// peer yet.
	ErrIncomplete = errors.New("not complete yet: it was not in sync with any peer")

	errDropped = errors.New("it was dropped here; ipfs npp companions add fetches it again")
)

// Config configures [Databases], which own none of its fields.
type Config struct {
	Orbit *orbit.Orbit

	// Replicator fetches and replicates the databases. nil: no database is
	// followed.
	Replicator Replicator

	// Store is for the records of this package. The caller may use other keys.
	Store *store.Store

	// IsOwn reports whether an address is that of one of the daemon's own
	// library databases. These are not followed, even if a companion names
	// them.
	IsOwn func(ctx context.Context, address string) bool

	// SaveBlocks returns a function that receives the blocks of a database that
	// is dropped; see [orbit.Orbit.Drop]. It is called once per database. nil:
	// none.
	SaveBlocks func() func(context.Context, []block.Block) error
}

// Replicator is the part of [replicate.Replicator] that this package uses.
type Replicator interface {
	Open(ctx context.Context, address string, opts orbit.OpenOptions) error
	Drop(ctx context.Context, address string, keep func(context.Context, []block.Block) error) error
	Follow(ctx context.Context, address string) iter.Seq2[replicate.Status, error]
	Status(ctx context.Context, address string) (replicate.Status, error)
	CompareNow(address string)
	Fetching() []string
}

// Databases are the databases of all companions. Their methods may be called
// concurrently.
type Databases struct {
	cfg        Config
	incomplete *incomplete

	ctx    context.Context // ends at Close
	cancel context.CancelFunc

	mu    sync.Mutex     // serializes opening and dropping; held while they block
	users map[string]int // number of companions that use a database, by address
}

// New returns the databases of companions, none of which is in use yet. The
// error is that of the store.
func New(ctx context.Context, cfg Config) (*Databases, error) {
	d := &Databases{cfg: cfg, users: make(map[string]int)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	var err error
	if d.incomplete, err = loadIncomplete(ctx, cfg.Store); err != nil {
		d.cancel()
		return nil, err
	}
	return d, nil
}

// Close ends the use of the databases: from now on, a [Set] that stops drops
// nothing. It does not stop the Sets.
func (d *Databases) Close() { d.cancel() }

// IsHere reports whether the database with an address is here.
func (d *Databases) IsHere(address string) bool {
	if !strings.HasPrefix(address, "/") {
		return false
	}
	_, err := d.cfg.Orbit.Resolve(d.ctx, address)
	return err == nil
}

// IsIncomplete reports whether a companion's database is recorded as
// incomplete.
func (d *Databases) IsIncomplete(address string) bool {
	hash, err := orbit.ParseAddress(address)
	return err == nil && d.incomplete.has(hash)
}

// Check returns [ErrNotHere], [ErrIncomplete] or, for a complete database, nil.
func (d *Databases) Check(address string) error {
	switch {
	case !d.IsHere(address):
		return ErrNotHere
	case d.IsIncomplete(address):
		return ErrIncomplete
	}
	return nil
}

// OpenComplete opens a complete database of a companion. The error is one of
// Check, or of opening it.
func (d *Databases) OpenComplete(ctx context.Context, address string) (*orbit.Database, error) {
	if err := d.Check(address); err != nil {
		return nil, err
	}
	return d.cfg.Orbit.Open(ctx, address, orbit.OpenOptions{})
}

// MarkManual records that a person asked for a database: it stays when its
// companion is removed.
func (d *Databases) MarkManual(ctx context.Context, address string) error {
	hash, err := orbit.ParseAddress(address)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.Store.Delete(ctx, autoOpenedKey(hash))
}

// Prune drops the auto-opened databases that no companion needs any more, and
// forgets that such databases are incomplete. A daemon that stops may leave
// some behind. needed has the addresses of the databases in the records of
// companions. A companion whose user database is needed also needs all that was
// opened for it.
func (d *Databases) Prune(needed map[string]bool) {
	unneeded := make(map[string]bool) // by hash
	for _, hash := range d.incomplete.list() {
		unneeded[hash] = !needed[orbit.FormatAddress(hash)]
	}
	for e, err := range d.cfg.Store.Scan(d.ctx, autoOpenedPrefix) {
		if err != nil {
			return
		}
		hash := strings.TrimPrefix(e.Key, autoOpenedPrefix+"/")
		var user string
		_ = json.Unmarshal(e.Value, &user) // a damaged record belongs to no companion
		unneeded[hash] = !needed[orbit.FormatAddress(hash)] && !needed[user]
	}
	for hash, is := range unneeded {
		if !is {
			continue
		}
		d.mu.Lock()
		if d.users[orbit.FormatAddress(hash)] == 0 {
			d.forget(hash)
		}
		d.mu.Unlock()
	}
}

// acquire counts a companion that uses a database, until release. The database
// joins the quota group of the first companion, which is named by the address
// of its user database. It is incomplete if it is new to its only companion.
func (d *Databases) acquire(address, user string, isNew bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users[address] == 0 {
		d.cfg.Orbit.SetGroup(address, user)
		if hash, err := orbit.ParseAddress(address); err == nil && isNew {
			d.setIncomplete(hash, true)
		}
	}
	d.users[address]++
}

// release ends the use of a database by a companion. The last companion's
// release drops an auto-opened database.
func (d *Databases) release(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users[address]--; d.users[address] > 0 {
		return
	}
	delete(d.users, address)
	d.cfg.Orbit.SetGroup(address, "")
	if hash, err := orbit.ParseAddress(address); err == nil {
		d.forget(hash)
	}
}

// open has a database replicated, unless it is here already, and returns the
// options to open it with and whether it is here. If the database is neither
// here nor being fetched, it becomes an auto-opened one of the companion with a
// user database. If wasOpen is set, it was dropped by hand instead, and open
// returns errDropped.
func (d *Databases) open(ctx context.Context, address, user, indexBy string, wasOpen bool) (opts orbit.OpenOptions, here bool, err error) {
	hash, err := orbit.ParseAddress(address)
	if err != nil {
		return opts, false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	autoOpened, err := d.cfg.Store.Has(ctx, autoOpenedKey(hash))
	if err != nil {
		return opts, false, err
	}
	if autoOpened {
		opts.IndexBy = indexBy
	}
	_, err = d.cfg.Orbit.Resolve(ctx, address)
	pending := slices.Contains(d.cfg.Replicator.Fetching(), address)
	switch {
	case err == nil && !pending:
		return opts, true, nil
	case err != nil && !errors.Is(err, orbit.ErrUnknown):
		return opts, false, err
	case wasOpen && !pending:
		return opts, false, errDropped
	}
	if err != nil {
		d.setIncomplete(hash, true)
	}
	if !autoOpened && !pending {
		text, err := json.Marshal(user)
		if err != nil {
			return opts, false, err
		}
		if err := d.cfg.Store.Put(ctx, autoOpenedKey(hash), text); err != nil {
			return opts, false, err
		}
		opts.IndexBy = indexBy
	}
	return opts, false, d.cfg.Replicator.Open(ctx, address, opts)
}

// forget drops a database if it was auto-opened, and forgets whether it is
// complete. The caller holds d.mu.
func (d *Databases) forget(hash string) {
	d.setIncomplete(hash, false)
	if err := d.drop(d.ctx, hash); err != nil && d.ctx.Err() == nil {
		log.Warnw("database of a former companion cannot be dropped", "hash", hash, "err", err)
	}
}

// drop drops a database if it was auto-opened. One with entries of this daemon
// becomes manual instead. The caller holds d.mu.
func (d *Databases) drop(ctx context.Context, hash string) error {
	if autoOpened, err := d.cfg.Store.Has(ctx, autoOpenedKey(hash)); err != nil || !autoOpened {
		return err
	}
	address := orbit.FormatAddress(hash)
	written, err := d.hasOwnEntries(ctx, address)
	if err != nil {
		return err
	}
	if !written {
		var keep func(context.Context, []block.Block) error
		if d.cfg.SaveBlocks != nil {
			keep = d.cfg.SaveBlocks()
		}
		if err := d.cfg.Replicator.Drop(ctx, address, keep); err != nil && !errors.Is(err, orbit.ErrUnknown) {
			return err
		}
	}
	return d.cfg.Store.Delete(ctx, autoOpenedKey(hash))
}

// hasOwnEntries reports whether a database has an entry of this daemon's
// identity. It reports false for a database that is not here or damaged.
func (d *Databases) hasOwnEntries(ctx context.Context, address string) (bool, error) {
	if _, err := d.cfg.Orbit.Resolve(ctx, address); errors.Is(err, orbit.ErrUnknown) {
		return false, nil
	}
	db, err := d.cfg.Orbit.Open(ctx, address, orbit.OpenOptions{})
	if err != nil {
		return false, nil
	}
	if writable, err := db.Writable(ctx); err != nil || !writable {
		return false, err
	}
	own := d.cfg.Orbit.Identity().Hash()
	for e, err := range db.Iterate(ctx, orbit.Range{}) {
		if err != nil {
			return true, err
		}
		if e.Identity == own {
			return true, nil
		}
	}
	return false, nil
}

// setIncomplete records whether a database is incomplete. A record that cannot
// be written holds until the daemon stops.
func (d *Databases) setIncomplete(hash string, incomplete bool) {
	if err := d.incomplete.set(d.ctx, hash, incomplete); err != nil && d.ctx.Err() == nil {
		log.Warnw("database of a companion", "hash", hash, "incomplete", incomplete, "err", err)
	}
}

// setComplete records that a database is complete.
func (d *Databases) setComplete(address string) {
	if hash, err := orbit.ParseAddress(address); err == nil {
		d.setIncomplete(hash, false)
	}
}

func autoOpenedKey(hash string) string { return autoOpenedPrefix + "/" + hash }
