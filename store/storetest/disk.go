// Package storetest provides a datastore that loses power or fills up on
// demand, for tests of durability.
package storetest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// Failure is how operations of a [Disk] fail. The error is always
// [syscall.ENOSPC].
type Failure int

const (
	Once    Failure = iota // one operation fails and has no effect
	Applied                // one operation takes effect and returns an error
	Lasting                // operations fail without effect until FailAfter is called again
)

// Disk is a datastore in memory that distinguishes committed from durable
// writes. Reads see every commit. After a power loss, a restart finds what was
// synced, and perhaps some of the later commits. Batches are atomic.
//
// Its methods may be called concurrently.
type Disk struct {
	mu       sync.Mutex
	current  map[datastore.Key][]byte
	durable  map[datastore.Key][]byte
	unsynced []commit // oldest first

	operations int
	syncs      int
	failAt     int // the operation that fails, 0 for none
	failure    Failure
}

var _ datastore.Batching = (*Disk)(nil)

// commit is the writes of a put, delete or batch; a nil value deletes.
type commit map[datastore.Key][]byte

func (c commit) apply(to map[datastore.Key][]byte) {
	for key, value := range c {
		if value == nil {
			delete(to, key)
		} else {
			to[key] = value
		}
	}
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{
		current: make(map[datastore.Key][]byte),
		durable: make(map[datastore.Key][]byte),
	}
}

// PowerLoss returns the disk that a restart finds if the power fails now. rng
// decides how many of the unsynced commits survive, oldest first; with a nil
// rng none does. The disk itself is not affected.
func (d *Disk) PowerLoss(rng *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := maps.Clone(d.durable)
	if rng != nil {
		for _, c := range d.unsynced[:rng.IntN(len(d.unsynced)+1)] {
			c.apply(found)
		}
	}
	return &Disk{current: found, durable: maps.Clone(found)}
}

// FailAfter makes the n-th operation from now on fail; 1 is the next one, 0 is
// none. Operations are puts, deletes, commits of batches, and syncs.
func (d *Disk) FailAfter(n int, failure Failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failAt, d.failure = 0, failure
	if n > 0 {
		d.failAt = d.operations + n
	}
}

// Operations returns the number of operations, failed ones included.
func (d *Disk) Operations() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.operations
}

// Syncs returns the number of syncs among the operations.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// operate counts an operation and runs it, unless it is to fail. The caller
// holds the lock.
func (d *Disk) operate(name string, do func()) error {
	d.operations++
	fails := d.failAt > 0 && d.operations == d.failAt ||
		d.failAt > 0 && d.operations > d.failAt && d.failure == Lasting
	if !fails || d.failure == Applied {
		do()
	}
	if fails {
		return fmt.Errorf("%s: %w", name, syscall.ENOSPC)
	}
	return nil
}

func (d *Disk) commit(name string, c commit) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.operate(name, func() {
		c.apply(d.current)
		d.unsynced = append(d.unsynced, c)
	})
}

// Put implements [datastore.Write].
func (d *Disk) Put(_ context.Context, key datastore.Key, value []byte) error {
	return d.commit("put", commit{key: clone(value)})
}

// Delete implements [datastore.Write].
func (d *Disk) Delete(_ context.Context, key datastore.Key) error {
	return d.commit("delete", commit{key: nil})
}

// Sync makes the commits at prefix and below durable, and no others.
func (d *Disk) Sync(_ context.Context, prefix datastore.Key) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	return d.operate("sync", func() {
		var rest []commit
		for _, c := range d.unsynced {
			below, beside := make(commit), make(commit)
			for key, value := range c {
				if prefix.Equal(key) || prefix.IsAncestorOf(key) {
					below[key] = value
				} else {
					beside[key] = value
				}
			}
			below.apply(d.durable)
			if len(beside) > 0 {
				rest = append(rest, beside)
			}
		}
		d.unsynced = rest
	})
}

// Get implements [datastore.Read].
func (d *Disk) Get(_ context.Context, key datastore.Key) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	value, ok := d.current[key]
	if !ok {
		return nil, datastore.ErrNotFound
	}
	return clone(value), nil
}

// Has implements [datastore.Read].
func (d *Disk) Has(_ context.Context, key datastore.Key) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.current[key]
	return ok, nil
}

// GetSize implements [datastore.Read].
func (d *Disk) GetSize(ctx context.Context, key datastore.Key) (int, error) {
	return datastore.GetBackedSize(ctx, d, key)
}

// Query implements [datastore.Read]. The results are a snapshot.
func (d *Disk) Query(_ context.Context, q query.Query) (query.Results, error) {
	prefix := datastore.NewKey(q.Prefix)
	var entries []query.Entry
	d.mu.Lock()
	for key, value := range d.current {
		if prefix.IsAncestorOf(key) {
			e := query.Entry{Key: key.String(), Size: len(value)}
			if !q.KeysOnly {
				e.Value = clone(value)
			}
			entries = append(entries, e)
		}
	}
	d.mu.Unlock()
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, entries)), nil
}

// Batch implements [datastore.BatchingFeature].
func (d *Disk) Batch(context.Context) (datastore.Batch, error) {
	return &batch{d, make(commit)}, nil
}

// Close does nothing.
func (d *Disk) Close() error { return nil }

type batch struct {
	disk   *Disk
	writes commit
}

func (b *batch) Put(_ context.Context, key datastore.Key, value []byte) error {
	b.writes[key] = clone(value)
	return nil
}

func (b *batch) Delete(_ context.Context, key datastore.Key) error {
	b.writes[key] = nil
	return nil
}

func (b *batch) Commit(context.Context) error {
	return b.disk.commit("commit", b.writes)
}

// clone returns a copy that is never nil.
func clone(value []byte) []byte {
	return append([]byte{}, value...)
}
