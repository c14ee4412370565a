package library

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// follower follows one store of a companion, whose address may change.
type follower struct {
	*companion
	name, kind, indexBy string
	read                func(context.Context, *orbit.Database) error

	address  string
	cancel   context.CancelFunc
	done     chan struct{}
	released bool // once done is closed: nothing is left to be released
}

// changes reports whether another store than before is to be followed.
func (f *follower) changes(address string) bool { return f.address != "" && f.address != address }

// set follows the store with an address from now on, or none. Where that has ended
// for good, it is tried again if again is set.
func (f *follower) set(ctx context.Context, address string, again bool) {
	if address == f.address && !(again && f.done != nil && isClosed(f.done)) {
		return
	}
	f.end()
	f.address = address
	f.setTrouble(f.name, nil)
	if address == "" {
		return
	}
	if f.lib.isOwn(ctx, address) {
		f.failed(errors.New("it names a store of ours"))
		return
	}
	if f.lib.cfg.Replicator == nil {
		f.failed(errors.New("databases are not replicated"))
		return
	}
	f.lib.use(address, f.user, !f.recorded[address])
	ctx, f.cancel = context.WithCancel(ctx)
	f.done = make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		f.follow(ctx, address)
	}(f.done)
}

// end stops following. What came only because of it goes, unless the library closes.
func (f *follower) end() {
	if f.done == nil {
		return
	}
	f.cancel()
	<-f.done
	f.done = nil
	switch f.name {
	case UserName:
		f.profile.reset()
	case PiecesName:
		f.pieces.reset()
		f.index.Clear()
	case PracticeName:
		f.practice.reset()
		f.counts.clear()
	}
	if f.lib.ctx.Err() == nil && !f.released {
		f.lib.release(f.address)
	}
	f.address, f.released = "", false
}

// follow replicates the store and reads it once it is here, and again once what was
// wrong with it is mended. One that was dropped by hand does not come again by itself.
func (f *follower) follow(ctx context.Context, address string) {
	came := false
	for {
		begin := time.Now()
		opts, here, err := f.lib.bring(ctx, address, f.user, f.indexBy, came)
		var db *orbit.Database
		switch {
		case err != nil:
		case here:
			db, err = f.lib.cfg.Orbit.Open(ctx, address, opts)
		default:
			db, err = f.opened(ctx, address, opts)
		}
		if err == nil && db.Type() != f.kind {
			f.failed(fmt.Errorf("it is of type %.40q, not %s", db.Type(), f.kind))
			f.lib.release(address)
			f.released = true
			return
		}
		came = came || err == nil
		if err == nil {
			db, err = f.indexed(ctx, db)
		}
		if err == nil {
			f.failed(nil)
			f.lib.cfg.Replicator.Ask(address)
			err = f.readSince(ctx, db, begin)
		}
		if ctx.Err() != nil {
			return
		}
		f.failed(err)
		if errors.Is(err, errDroppedByHand) || !pause(ctx, changePause) {
			return
		}
	}
}

// readSince reads the store as it is to be read, see whole.go: a user store once it
// was in step with a peer since a time, and other stores also before.
func (f *follower) readSince(ctx context.Context, db *orbit.Database, since time.Time) error {
	partial := f.lib.isPartial(db.Address())
	if f.name == PiecesName {
		f.newsAfter.Store(0)
		if partial {
			f.newsAfter.Store(math.MaxUint64)
		}
	}
	switch {
	case !partial:
		return f.read(ctx, db)
	case f.name == UserName:
		if err := f.becomeWhole(ctx, db, since); err != nil {
			return err
		}
		return f.read(ctx, db)
	}
	ctx, stop := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer stop()
	waiting.Go(func() {
		for f.becomeWhole(ctx, db, since) != nil && pause(ctx, changePause) {
		}
	})
	return f.read(ctx, db)
}

// becomeWhole waits until a store was in step with a peer since a time, and notes that
// the store is whole.
func (f *follower) becomeWhole(ctx context.Context, db *orbit.Database, since time.Time) error {
	err := f.await(ctx, db.Address(), func(s replicate.Status) bool {
		last := proven(s, f.id)
		return !last.IsZero() && !last.Before(since)
	})
	if err != nil {
		return err
	}
	stats, err := db.Stats(ctx)
	if err != nil {
		return err
	}
	if f.name == PiecesName {
		f.newsAfter.Store(stats.Last)
	}
	f.lib.setPartial(db.Address(), false)
	return nil
}

// indexed returns a database whose documents have the key that is needed. The key
// matters only to writers, so it may be changed in a store that this peer only reads.
func (f *follower) indexed(ctx context.Context, db *orbit.Database) (*orbit.Database, error) {
	if db.IndexBy() == f.indexBy {
		return db, nil
	}
	writable, err := db.Writable(ctx)
	switch {
	case err != nil:
		return nil, err
	case writable:
		return nil, fmt.Errorf("the field %q is the key of its documents here, not %q", db.IndexBy(), f.indexBy)
	}
	return f.lib.cfg.Orbit.Open(ctx, db.Address(), orbit.OpenOptions{IndexBy: f.indexBy})
}

// opened waits until the store is here, and returns it.
func (f *follower) opened(ctx context.Context, address string, opts orbit.OpenOptions) (*orbit.Database, error) {
	err := f.await(ctx, address, func(s replicate.Status) bool { return s.State == replicate.Open })
	if err != nil {
		return nil, err
	}
	return f.lib.cfg.Orbit.Open(ctx, address, opts)
}

// await waits until the replication of a store has a status.
func (f *follower) await(ctx context.Context, address string, ok func(replicate.Status) bool) error {
	for status, err := range f.lib.cfg.Replicator.Follow(ctx, address) {
		switch {
		case err != nil:
			return err
		case ok(status):
			return nil
		case status.Err != nil:
			f.failed(status.Err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: it was closed", replicate.ErrNotReplicated)
}

// failed notes what is wrong with the store, or that nothing is. Where that is the
// user store, nothing is known of the others.
func (f *follower) failed(err error) {
	f.setTrouble(f.name, err)
	if err == nil {
		return
	}
	if f.name == UserName {
		f.profile.fail(err)
	}
	if f.name != PracticeName {
		f.pieces.fail(err)
	}
	if f.name != PiecesName {
		f.practice.fail(err)
	}
}
