// Package offline opens the databases of a repo whose daemon does not run, and
// fills repos with many databases, for tests and benchmarks.
//
// A repo is one that `ipfs init` created: its datastore is leveldb, and it has
// a keystore. Databases that are open here lock the datastore, so no daemon
// starts before [Databases.Close]. Writes are not synced: they survive the
// process, but not the machine.
package offline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"github.com/ipfs/boxo/keystore"
	leveldb "github.com/ipfs/go-ds-leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/store"
)

// The names of the keys that a daemon generates.
const (
	rootKey    = "npp-orbitdb-root"
	signingKey = "npp-orbitdb-signing"
)

// Databases are the databases of a repo.
type Databases struct {
	*orbit.Orbit

	store *store.Store
	ds    *leveldb.Datastore
}

// Open opens the databases in a repo. Keys that are missing are generated, as
// by a daemon. The caller closes the databases.
func Open(ctx context.Context, repo string) (*Databases, error) {
	keys, err := keysOf(repo)
	if err != nil {
		return nil, err
	}
	ds, err := leveldb.NewDatastore(datastoreOf(repo), &leveldb.Options{Compression: opt.NoCompression, NoSync: true})
	if err != nil {
		return nil, fmt.Errorf("open the datastore of %s: %w", repo, err)
	}
	d := &Databases{store: store.New(ds, daemon.DatabasesNamespace), ds: ds}
	d.Orbit, err = orbit.New(ctx, orbit.Config{Store: d.store, Keystore: keys, RootKey: rootKey, SigningKey: signingKey})
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close closes the databases and their datastore.
func (d *Databases) Close() error {
	var errs []error
	if d.Orbit != nil {
		errs = append(errs, d.Orbit.Close())
	}
	return errors.Join(append(errs, d.store.Close(), d.ds.Close())...)
}

func datastoreOf(repo string) string { return filepath.Join(repo, "datastore") }

func keysOf(repo string) (*keystore.FSKeystore, error) {
	return keystore.NewFSKeystore(filepath.Join(repo, "keystore"))
}

// DocumentsOf is the number of documents that [Databases.Seed] puts into each
// database.
const DocumentsOf = 3

// Seed creates databases with the numbers from first to end-1 and puts
// documents into each. They are like those of an app with a database per user:
// each has an access list of its own, which names its user. Anybody may write,
// so that every repo to which [Copy] copies them can. Seed calls created, with
// the address, after each database.
func (d *Databases) Seed(ctx context.Context, first, end int, created func(address string)) error {
	for i := first; i < end; i++ {
		db, err := d.Create(ctx, fmt.Sprintf("user %d", i), orbit.Options{
			Type:   orbit.TypeDocuments,
			Access: orbit.Access{Write: []string{fmt.Sprintf("02%064x", i), orbit.Anyone}},
		})
		if err != nil {
			return err
		}
		docs, err := db.Documents()
		if err != nil {
			return err
		}
		if _, err := docs.PutMany(ctx, documents(i)); err != nil {
			return err
		}
		created(db.Address())
	}
	return nil
}

// documents yields the documents of the i-th database.
func documents(i int) iter.Seq[any] {
	return func(yield func(any) bool) {
		for k := range DocumentsOf {
			doc := map[string]any{"_id": fmt.Sprint("doc", k), "user": i, "title": fmt.Sprintf("Sonata no. %d of user %d", k, i)}
			if !yield(doc) {
				return
			}
		}
	}
}

// Put puts a document into the database with an address.
func (d *Databases) Put(ctx context.Context, address string, doc map[string]any) error {
	db, err := d.Find(ctx, address)
	if err != nil {
		return err
	}
	docs, err := db.Documents()
	if err != nil {
		return err
	}
	_, err = docs.Put(ctx, doc)
	return err
}

// Copy replaces the datastore of a repo by a copy of another's, in which no
// daemon has run. The repo keeps its peer ID, and gets an OrbitDB identity of
// its own unless it has one.
func Copy(from, to string) error {
	if err := os.RemoveAll(datastoreOf(to)); err != nil {
		return err
	}
	if err := os.CopyFS(datastoreOf(to), os.DirFS(datastoreOf(from))); err != nil {
		return err
	}
	keys, err := keysOf(to)
	if err != nil {
		return err
	}
	has, err := keys.Has(rootKey)
	if err == nil && !has {
		err = identity.Generate(keys, rootKey)
	}
	return err
}
