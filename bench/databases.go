package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/kubo/plugin"
	"github.com/ipfs/kubo/plugin/plugins/flatfs"
	"github.com/ipfs/kubo/plugin/plugins/levelds"
	"github.com/ipfs/kubo/repo"
	"github.com/ipfs/kubo/repo/fsrepo"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/store"
)

// orbitNamespace is the datastore namespace of a daemon's databases.
const orbitNamespace = "/npp/orbit"

// knowDatastores registers the datastore types of a default repo.
func knowDatastores() error {
	for _, p := range slices.Concat(flatfs.Plugins, levelds.Plugins) {
		ds := p.(plugin.PluginDatastore)
		if err := fsrepo.AddDatastoreConfigHandler(ds.DatastoreTypeName(), ds.DatastoreConfigParser()); err != nil {
			return err
		}
	}
	return nil
}

// home is a repo as `ipfs init` creates it, with an identity.
type home struct {
	path string
	keys orbit.Config // RootKey and SigningKey; the Keystore unless it is the repo's
}

func newHome(ctx context.Context, b *bench) (home, error) {
	n, err := newNode(ctx, b, b.npp, nil)
	if err != nil {
		return home{}, err
	}
	return home{n.Repo, orbit.Config{Keystore: keystore.NewMemKeystore()}}, nil
}

// databases are the databases of a repo that kubo has opened in this process.
type databases struct {
	repo  repo.Repo
	store *store.Store
	orbit *orbit.Orbit
}

// openStore opens the repo but no database.
func (h home) openStore() (*databases, error) {
	r, err := fsrepo.Open(h.path)
	if err != nil {
		return nil, fmt.Errorf("open repo %s: %w", h.path, err)
	}
	return &databases{repo: r, store: store.New(r.Datastore(), orbitNamespace)}, nil
}

func (h home) open(ctx context.Context) (*databases, error) {
	d, err := h.openStore()
	if err != nil {
		return nil, err
	}
	if err := d.begin(ctx, h); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// begin creates the Orbit.
func (d *databases) begin(ctx context.Context, h home) (err error) {
	c := h.keys
	c.Store = d.store
	if c.Keystore == nil {
		c.Keystore = d.repo.Keystore()
	}
	d.orbit, err = orbit.New(ctx, c)
	return err
}

func (d *databases) close() error {
	if d.orbit != nil {
		d.orbit.Close()
	}
	d.store.Close()
	return d.repo.Close()
}

// document returns the i-th document, the same as in node.mjs.
func document(i int) map[string]any {
	return map[string]any{
		"_id":        documentKey(i),
		"title":      fmt.Sprintf("Sonata no. %d in %c minor, opus %d", i%97, "ABCDEFG"[i%7], i),
		"composer":   fmt.Sprintf("Composer of the %dth", i%400),
		"instrument": [...]string{"piano", "violin", "cello", "flute", "organ"}[i%5],
		"year":       1600 + i%400,
	}
}

func documentKey(i int) string { return fmt.Sprint("doc", i) }

// collection is a database of any type whose documents are numbered.
type collection struct {
	db      *orbit.Database
	put     func(ctx context.Context, i int) error
	putMany func(ctx context.Context, n int) (int, error) // documents 0 to n-1
}

// collection opens the database of a type, and creates it if it is new.
func (d *databases) collection(ctx context.Context, kind, name string) (*collection, error) {
	db, err := d.orbit.Create(ctx, name, orbit.Options{Type: kind})
	if err != nil {
		return nil, err
	}
	c := &collection{db: db}
	switch kind {
	case orbit.TypeDocuments:
		docs, err := db.Documents()
		if err != nil {
			return nil, err
		}
		c.put = func(ctx context.Context, i int) error {
			_, err := docs.Put(ctx, document(i))
			return err
		}
		c.putMany = func(ctx context.Context, n int) (int, error) {
			return docs.PutMany(ctx, numbered(n, func(i int) any { return document(i) }))
		}
	case orbit.TypeKeyValue:
		kv, err := db.KeyValue()
		if err != nil {
			return nil, err
		}
		c.put = func(ctx context.Context, i int) error {
			_, err := kv.Put(ctx, documentKey(i), document(i))
			return err
		}
		c.putMany = func(ctx context.Context, n int) (int, error) {
			return kv.PutMany(ctx, numbered(n, func(i int) orbit.Pair { return orbit.Pair{Key: documentKey(i), Value: document(i)} }))
		}
	default:
		events, err := db.Events()
		if err != nil {
			return nil, err
		}
		c.put = func(ctx context.Context, i int) error {
			_, err := events.Add(ctx, document(i))
			return err
		}
		c.putMany = func(ctx context.Context, n int) (int, error) {
			return events.AddMany(ctx, numbered(n, func(i int) any { return document(i) }))
		}
	}
	return c, nil
}

func numbered[T any](n int, item func(int) T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := range n {
			if !yield(item(i)) {
				return
			}
		}
	}
}

// fill puts n documents with putMany and returns the rate per second.
func (c *collection) fill(ctx context.Context, n int) (float64, error) {
	began := time.Now()
	done, err := c.putMany(ctx, n)
	if err == nil && done != n {
		err = fmt.Errorf("%d of %d documents were put", done, n)
	}
	return perSecond(n, time.Since(began)), err
}

// get gets the i-th document and returns the duration.
func get(ctx context.Context, docs *orbit.Documents, i int) (time.Duration, error) {
	key := documentKey(i)
	began := time.Now()
	item, err := docs.Get(ctx, key)
	took := time.Since(began)
	if err == nil && item.Hash == "" {
		err = fmt.Errorf("%s has no entry", key)
	}
	return took, err
}

// all reads all documents and returns the duration.
func all(ctx context.Context, docs *orbit.Documents, want int) (time.Duration, error) {
	began := time.Now()
	n := 0
	for _, err := range docs.All(ctx) {
		if err != nil {
			return 0, err
		}
		n++
	}
	took := time.Since(began)
	if n != want {
		return 0, fmt.Errorf("there are %d documents, not %d", n, want)
	}
	return took, nil
}

// The sizes of an entry with 16 references, and of its signed part.
const (
	entryBytes  = 1400
	signedBytes = 1050
)

// bare signs, hashes and stores as many bytes as the given number of entries
// have, in synced batches of the given size. It returns the rate per second,
// which is the upper bound of a database on this datastore that writes each
// entry separately on one processor.
func bare(ctx context.Context, ds datastore.Batching, s *identity.Signer, name string, entries, group int) (float64, error) {
	root := datastore.NewKey("/npp/bench").ChildString(name)
	began := time.Now()
	for i := 0; i < entries; i += group {
		batch, err := ds.Batch(ctx)
		if err != nil {
			return 0, err
		}
		for k := i; k < min(i+group, entries); k++ {
			data := make([]byte, entryBytes)
			copy(data, fmt.Sprint(name, k))
			if _, err := s.Sign(data[:signedBytes]); err != nil {
				return 0, err
			}
			if err := batch.Put(ctx, root.ChildString(fmt.Sprintf("%08x", k)), []byte(block.New(data).Hash+string(data))); err != nil {
				return 0, err
			}
		}
		if err := batch.Commit(ctx); err != nil {
			return 0, err
		}
		if err := ds.Sync(ctx, root); err != nil {
			return 0, err
		}
	}
	return perSecond(entries, time.Since(began)), nil
}

func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }
