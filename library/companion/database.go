package companion

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// database is one of the databases of a companion. Its address may change. The
// goroutine of [Set.Run] calls setAddress and stop, and run is a goroutine of
// its own.
type database struct {
	set     *Set
	kind    Kind
	typ     string
	indexBy string

	address  string
	cancel   context.CancelFunc
	done     chan struct{} // closed when run returned; nil if run was not started
	released bool          // run released the database; valid once done is closed

	// newAfter is the number of the last entry that the database had when it
	// became complete: 0 for one that was complete before, the maximum for an
	// incomplete one.
	newAfter atomic.Uint64
}

// changes reports whether an address would replace another one.
func (d *database) changes(address string) bool { return d.address != "" && d.address != address }

// setAddress follows the database with an address from now on, "" for none. If
// the address is the current one, it starts again if retry is set and run gave
// up.
func (d *database) setAddress(ctx context.Context, address string, retry bool) {
	if address == d.address && !(retry && d.done != nil && isClosed(d.done)) {
		return
	}
	d.stop()
	d.address = address
	d.set.setProblem(d.kind, nil)
	all := d.set.databases
	switch {
	case address == "":
		return
	case all.cfg.IsOwn(ctx, address):
		d.failed(errors.New("it is one of this daemon's own databases"))
		return
	case all.cfg.Replicator == nil:
		d.failed(errors.New("databases are not replicated"))
		return
	}
	all.acquire(address, d.set.user, !d.set.recorded[address])
	ctx, d.cancel = context.WithCancel(ctx)
	d.done = make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		d.run(ctx, address)
	}(d.done)
}

// stop stops run, discards what was read, and releases the database.
func (d *database) stop() {
	if d.done == nil {
		return
	}
	d.cancel()
	<-d.done
	d.done = nil
	d.set.content.Reset(d.kind)
	if d.set.databases.ctx.Err() == nil && !d.released {
		d.set.databases.release(d.address)
	}
	d.address, d.released = "", false
}

// run opens the database, waits until it is here, and reads it. After an error
// it tries again, except if the database was dropped by hand or has the wrong
// type.
func (d *database) run(ctx context.Context, address string) {
	wasOpen := false
	for {
		begin := time.Now()
		db, err := d.open(ctx, address, wasOpen)
		if err == nil && db.Type() != d.typ {
			d.failed(fmt.Errorf("its type is %.40q, not %s", db.Type(), d.typ))
			d.set.databases.release(address)
			d.released = true
			return
		}
		wasOpen = wasOpen || err == nil
		if err == nil {
			db, err = d.indexed(ctx, db)
		}
		if err == nil {
			d.failed(nil)
			d.set.databases.cfg.Replicator.CompareNow(address)
			err = d.read(ctx, db, begin)
		}
		if ctx.Err() != nil {
			return
		}
		d.failed(err)
		if errors.Is(err, errDropped) || wait.For(ctx, changePause) != nil {
			return
		}
	}
}

// open opens the database once it is here.
func (d *database) open(ctx context.Context, address string, wasOpen bool) (*orbit.Database, error) {
	all := d.set.databases
	opts, here, err := all.open(ctx, address, d.set.user, d.indexBy, wasOpen)
	if err == nil && !here {
		err = d.await(ctx, address, func(s replicate.Status) bool { return s.State == replicate.Open })
	}
	if err != nil {
		return nil, err
	}
	return all.cfg.Orbit.Open(ctx, address, opts)
}

// indexed returns the database, indexed by the required field. The field
// matters only to writers, so it may be changed in a database that this daemon
// may not write.
func (d *database) indexed(ctx context.Context, db *orbit.Database) (*orbit.Database, error) {
	if db.IndexBy() == d.indexBy {
		return db, nil
	}
	writable, err := db.Writable(ctx)
	switch {
	case err != nil:
		return nil, err
	case writable:
		return nil, fmt.Errorf("its documents are indexed by the field %q here, not by %q", db.IndexBy(), d.indexBy)
	}
	return d.set.databases.cfg.Orbit.Open(ctx, db.Address(), orbit.OpenOptions{IndexBy: d.indexBy})
}

// read reads the database: an incomplete user database once it is complete, and
// any other at once. Only what peers prove after since makes it complete.
func (d *database) read(ctx context.Context, db *orbit.Database, since time.Time) error {
	isNew := func(number uint64) bool { return number > d.newAfter.Load() }
	d.newAfter.Store(0)
	if !d.set.databases.IsIncomplete(db.Address()) {
		return d.set.content.Read(ctx, d.kind, db, isNew)
	}
	d.newAfter.Store(math.MaxUint64)
	if d.kind == User {
		if err := d.complete(ctx, db, since); err != nil {
			return err
		}
		return d.set.content.Read(ctx, d.kind, db, isNew)
	}
	ctx, stop := context.WithCancel(ctx)
	var completing sync.WaitGroup
	defer completing.Wait()
	defer stop()
	completing.Go(func() {
		for d.complete(ctx, db, since) != nil && wait.For(ctx, changePause) == nil {
		}
	})
	return d.set.content.Read(ctx, d.kind, db, isNew)
}

// complete waits until the database is complete, and records that.
func (d *database) complete(ctx context.Context, db *orbit.Database, since time.Time) error {
	err := d.await(ctx, db.Address(), func(s replicate.Status) bool {
		last := proven(s, d.set.peer)
		return !last.IsZero() && !last.Before(since)
	})
	if err != nil {
		return err
	}
	stats, err := db.Stats(ctx)
	if err != nil {
		return err
	}
	d.newAfter.Store(stats.Last)
	d.set.databases.setComplete(db.Address())
	return nil
}

// await waits until the replication of the database has a status.
func (d *database) await(ctx context.Context, address string, ok func(replicate.Status) bool) error {
	for status, err := range d.set.databases.cfg.Replicator.Follow(ctx, address) {
		switch {
		case err != nil:
			return err
		case ok(status):
			return nil
		case status.Err != nil:
			d.failed(status.Err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: it was closed", replicate.ErrNotReplicated)
}

// failed records why the database is not followed, or that it is.
func (d *database) failed(err error) {
	d.set.setProblem(d.kind, err)
	if err != nil {
		d.set.content.Failed(d.kind, err)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
