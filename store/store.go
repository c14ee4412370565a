// Package store keeps small records in a namespace of a go-datastore. It adds
// synced transactions, and series of numbered records that can be read from any
// number on.
//
// # Transactions
//
// [Store.Update] runs functions that read and write, one at a time. It commits
// their writes as one batch, syncs the datastore, and then returns. Calls that
// arrive while a batch is being written share the next batch (group commit), so
// many writers cost few syncs. Atomicity is that of the datastore's batch:
// kubo's leveldb and pebble have atomic batches; badger may split a large one.
//
// # Series
//
// A datastore query has a prefix, an order and a limit, but cannot start in the
// middle. [Key] therefore writes a number as a path with one hex digit per
// component, after the count of digits minus one:
//
//	Key("log", 0x186a0) == "log/4/1/8/6/a/0"
//
// The byte order of such keys is the order of the numbers. Keys are as short as
// their numbers, and each component has at most sixteen children; with 256,
// pages are up to five times slower. To read on from a number, [Store.Ascend]
// and [Store.Descend] query the rest of its bucket, then the siblings of its
// parent, of its grandparent and so on. A page costs about the same at any
// position of a series of any length and with any gaps.
//
// A number may have several records with different names; the name is one more
// component of the key:
//
//	NamedKey("oplog", 0x1f, "bafy") == "oplog/1/1/f/bafy"
//
// They are ordered by number, then by name. [Store.AscendFrom] and
// [Store.DescendFrom] begin within the names of a number. Names are not written
// as paths, so this may scan all earlier names of that number. To read very
// many names of one number, use one loop.
//
// A read from an end of a series, which is Ascend from 0 or Descend from the
// last record or a higher number, is one query. Queries of leveldb, pebble and
// badger are snapshots, and then so is that read: a record that an Update moves
// to a higher number meanwhile is seen once, at its old position. A read that
// begins elsewhere may see such a record twice or not at all.
//
// # Reads
//
// Reads outside of Update see committed writes, which may not be synced yet.
// They never wait for a writer.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"
	"sync"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

var (
	// ErrNotFound means that no value is stored at a key. It is
	// [datastore.ErrNotFound].
	ErrNotFound = datastore.ErrNotFound

	// ErrInvalidKey means that a key, prefix or series is not a clean relative
	// path such as "log/1": it is empty, begins or ends with a slash, or has an
	// empty, "." or ".." component.
	ErrInvalidKey = errors.New("invalid key")

	// ErrMalformed means that the datastore contains a key below a series that
	// neither [Key] nor [NamedKey] returns.
	ErrMalformed = errors.New("malformed key in series")

	// ErrNotDurable means that the datastore failed to commit or to sync. The
	// writes may or may not survive.
	ErrNotDurable = errors.New("not durable")

	// ErrClosed means that the store is closed or closing.
	ErrClosed = errors.New("store is closed")
)

// Store is a namespace of a datastore. Its methods may be called concurrently.
// At most one Store may use a namespace at a time, and nothing else may write
// to it.
type Store struct {
	ds     datastore.Batching
	root   datastore.Key
	prefix string // of every key in the datastore; ends with a slash

	leader chan struct{} // holds a token while a group runs
	dirty  bool          // commits may be unsynced; guarded by leader

	mu      sync.Mutex
	pending []*request
	closed  bool
	failing error // of the last write

	access sync.RWMutex // held for reading by each read of the datastore
	shut   bool         // no further reads; guarded by access
}

// Entry is a key, relative to the namespace, with its value.
type Entry struct {
	Key   string
	Value []byte
}

// New returns a store for the keys of ds below namespace, such as
// "/npp/messages". The store does not own ds; its owner closes it after the
// store.
func New(ds datastore.Batching, namespace string) *Store {
	root := datastore.NewKey(namespace)
	return &Store{
		ds:     ds,
		root:   root,
		prefix: strings.TrimSuffix(root.String(), "/") + "/",
		leader: make(chan struct{}, 1),
		// An earlier process may have been killed between commit and sync.
		dirty: true,
	}
}

// Failing returns the error of the last write, or nil if it succeeded or there
// was none. A write is a call of [Store.Update] that changes a key. A datastore
// may reject all writes after the first failure until the process restarts;
// kubo's leveldb does so after the disk was full.
func (s *Store) Failing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing
}

// Get returns the value at key, or [ErrNotFound].
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	var value []byte
	err := s.reading(func() (err error) {
		value, err = s.ds.Get(ctx, s.dsKey(key))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get %q: %w", key, err)
	}
	return value, nil
}

// Has reports whether there is a value at key.
func (s *Store) Has(ctx context.Context, key string) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	var ok bool
	err := s.reading(func() (err error) {
		ok, err = s.ds.Has(ctx, s.dsKey(key))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look up %q: %w", key, err)
	}
	return ok, nil
}

// Scan yields the entries below prefix in the byte order of their keys, and
// ends with the first error. The prefix consists of whole components: "a/b" is
// below "a", but "ab" and "a" itself are not; everything is below "". The loop
// body may call Update; whether Scan yields concurrent writes is unspecified.
func (s *Store) Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if prefix != "" {
			if err := checkKey(prefix); err != nil {
				yield(Entry{}, err)
				return
			}
		}
		for entry, err := range s.query(ctx, prefix, query.Query{Orders: up.order()}) {
			if err != nil {
				yield(Entry{}, fmt.Errorf("scan %q: %w", prefix, err))
				return
			}
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// Close rejects new and waiting updates with [ErrClosed] and waits for the
// running group. It then rejects reads and ends loops over them with ErrClosed.
// After it, the datastore may be closed.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	waiting := s.pending
	s.pending = nil
	s.mu.Unlock()
	for _, r := range waiting {
		r.answer(ErrClosed)
	}
	s.leader <- struct{}{}
	<-s.leader
	s.access.Lock()
	s.shut = true
	s.access.Unlock()
	return nil
}

// reading calls read unless the store is closed. After their databases are
// closed, pebble panics and leveldb answers a query with nothing.
func (s *Store) reading(read func() error) error {
	s.access.RLock()
	defer s.access.RUnlock()
	if s.shut {
		return ErrClosed
	}
	return read()
}

// query runs q below prefix. It ends with the first error, and closes the query
// as soon as the loop is left.
func (s *Store) query(ctx context.Context, prefix string, q query.Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		q.Prefix = s.prefix + prefix
		var results query.Results
		err := s.reading(func() (err error) {
			results, err = s.ds.Query(ctx, q)
			return err
		})
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer results.Close()
		for {
			if err := ctx.Err(); err != nil {
				yield(Entry{}, err)
				return
			}
			var r query.Result
			var ok bool
			err := s.reading(func() error {
				r, ok = results.NextSync()
				return r.Error
			})
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !ok {
				return
			}
			if !yield(Entry{strings.TrimPrefix(r.Key, s.prefix), r.Value}, nil) {
				return
			}
		}
	}
}

func (s *Store) dsKey(key string) datastore.Key {
	return datastore.RawKey(s.prefix + key)
}

func checkKey(key string) error {
	if key == "" || key == "." || key == ".." || key[0] == '/' ||
		strings.HasPrefix(key, "../") || path.Clean(key) != key {
		return fmt.Errorf("%w: %q", ErrInvalidKey, key)
	}
	return nil
}
