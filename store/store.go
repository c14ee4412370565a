// Package store keeps small records in a namespace of a go-datastore: synced
// transactions, and series of numbered records that can be read from anywhere.
//
// # Transactions
//
// [Store.Update] runs a function that reads and writes, one function at a time.
// What it wrote is committed as one batch and synced before Update answers:
// commit, then sync, then answer. Callers that arrive while a batch is on its
// way to the disk share the next one (group commit), so that many writers cost
// few syncs. Atomicity is that of the datastore's batch: kubo's leveldb and
// pebble have it, badger may split a large one.
//
// # Series
//
// A datastore query has a prefix, an order and a limit, but cannot start in the
// middle. [Key] therefore lays the number of a record out as a path, a hex
// digit to each component and the count of digits, less one, in front:
//
//	Key("log", 0x186a0) == "log/4/1/8/6/a/0"
//
// Byte order of such keys is the order of the numbers, keys are as short as
// their numbers, and each component has at most sixteen children (with 256, pages are up to five
// times slower). To read on
// from a number, [Store.Ascend] and [Store.Descend] take the rest of its
// bucket, then the siblings of its parent, of its grandparent and so on, each
// of them a prefix query: a page costs about the same from anywhere in a
// series of any length and with any gaps.
//
// A number may also hold several records, told apart by a name that is one
// more component of the key:
//
//	NamedKey("oplog", 0x1f, "bafy") == "oplog/1/1/f/bafy"
//
// They are ordered by number, then by name. [Store.AscendFrom] and
// [Store.DescendFrom] begin within the names of a number. Names are not laid
// out, so this may take a scan of all names of that number that come before: to
// read very many names of one number, stay in the loop.
//
// A read from an end of a series, Ascend from 0 and Descend from the last
// record or beyond it, is one query. Where queries of the datastore are
// snapshots, as those of leveldb, pebble and badger are, so is that read: a
// record which is deleted and put again with a higher number by an Update that
// runs meanwhile is seen once, at its old place. A read that begins elsewhere
// may see it twice or not at all.
//
// # Reads
//
// Reads outside of Update see what is committed, which may be a moment before
// it is synced. They never wait for a writer.
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
	// ErrNotFound says that no value is stored at a key. It is
	// [datastore.ErrNotFound].
	ErrNotFound = datastore.ErrNotFound

	// ErrInvalidKey says that a key, prefix or series is no clean relative
	// path, such as "log/1": it is empty, begins or ends with a slash, or has
	// an empty, "." or ".." component.
	ErrInvalidKey = errors.New("invalid key")

	// ErrMalformed says that the datastore holds a key below a series that
	// neither [Key] nor [NamedKey] would have made.
	ErrMalformed = errors.New("malformed key in series")

	// ErrNotDurable says that the datastore failed to commit or to sync:
	// whether the writes will be found later is unknown.
	ErrNotDurable = errors.New("not durable")

	// ErrClosed says that the store is closed, or about to be.
	ErrClosed = errors.New("store is closed")
)

// Store is a namespace of a datastore. Its methods may be called concurrently.
// There must be one Store only for a namespace at a time, and nothing else may
// write there.
type Store struct {
	ds     datastore.Batching
	root   datastore.Key
	prefix string // of every key in the datastore, ends with a slash

	leader chan struct{} // holds one token while a group runs
	dirty  bool          // something may be committed and not synced; guarded by leader

	mu      sync.Mutex
	pending []*request
	closed  bool
	failing error // of the last write

	access sync.RWMutex // held for reading by each read of the datastore
	shut   bool         // no more reads; guarded by access
}

// Entry is a key, relative to the namespace, with its value.
type Entry struct {
	Key   string
	Value []byte
}

// New returns a store of the keys of ds below namespace, such as
// "/npp/messages". The store does not own ds: whoever opened it closes it,
// after the store.
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

// Failing returns the error of the last write, or nil if the last write
// succeeded or there was none. A write is an [Store.Update] that changes a
// key. A datastore may refuse all writes after the first failure until the
// process restarts: kubo's leveldb does after the disk was full.
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

// Scan yields all entries below prefix in the byte order of their keys, and
// ends with the first error. The prefix is made of whole components: "a" has
// "a/b" below it, but neither "ab" nor "a" itself; "" has all. The loop body
// may call Update; whether Scan yields what is written meanwhile is left open.
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

// Close refuses new updates, and those that wait, with [ErrClosed], waits for
// the running group, and then refuses reads and ends loops over them with
// ErrClosed: after it, the datastore may be closed.
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

// reading calls read unless the store is closed. Once their databases are
// closed, pebble panics and leveldb answers a query with nothing.
func (s *Store) reading(read func() error) error {
	s.access.RLock()
	defer s.access.RUnlock()
	if s.shut {
		return ErrClosed
	}
	return read()
}

// query runs q below prefix. It ends with the first error and closes the
// query as soon as the loop is left.
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
