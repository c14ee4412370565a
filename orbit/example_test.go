package orbit_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/sync"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/manifest"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// open returns an Orbit that lives in memory.
func open(ctx context.Context) *orbit.Orbit {
	s := store.New(sync.MutexWrap(datastore.NewMapDatastore()), "/orbitdb")
	o, err := orbit.New(ctx, orbit.Config{Store: s, Keystore: keystore.NewMemKeystore()})
	if err != nil {
		log.Fatal(err)
	}
	return o
}

func Example() {
	ctx := context.Background()
	o := open(ctx)
	defer o.Close()

	db, err := o.Create(ctx, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	if err != nil {
		log.Fatal(err)
	}
	pieces, err := db.Documents()
	if err != nil {
		log.Fatal(err)
	}
	for _, piece := range []map[string]any{
		{"_id": "bwv846", "title": "Prelude in C", "instrument": "Piano"},
		{"_id": "bwv1007", "title": "Suite No. 1", "instrument": "Cello"},
		{"_id": "bwv846", "title": "Prelude in C", "instrument": "Harpsichord"},
	} {
		if _, err := pieces.Put(ctx, piece); err != nil {
			log.Fatal(err)
		}
	}
	for item, err := range pieces.Iterate(ctx, orbit.Page{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(item.Key, item.Value)
	}
	_, err = pieces.Get(ctx, "bwv999")
	fmt.Println(errors.Is(err, orbit.ErrNotFound))
	// Output:
	// "bwv846" {"_id":"bwv846","title":"Prelude in C","instrument":"Harpsichord"}
	// "bwv1007" {"_id":"bwv1007","title":"Suite No. 1","instrument":"Cello"}
	// true
}

func ExampleDocuments_Query() {
	ctx := context.Background()
	o := open(ctx)
	defer o.Close()
	db, err := o.Create(ctx, "pieces", orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"})
	if err != nil {
		log.Fatal(err)
	}
	pieces, err := db.Documents()
	if err != nil {
		log.Fatal(err)
	}
	type piece struct {
		Hash string `json:"hash"`
		Year int    `json:"year"`
	}
	for _, p := range []piece{{"Qm1", 1722}, {"Qm2", 1888}, {"Qm3", 1720}} {
		if _, err := pieces.Put(ctx, p); err != nil {
			log.Fatal(err)
		}
	}
	old := func(v value.Value) (bool, error) {
		var p piece
		err := v.Decode(&p)
		return p.Year < 1800, err
	}
	for item, err := range pieces.Query(ctx, old) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(item.Value)
	}
	// Output:
	// {"hash":"Qm3","year":1720}
	// {"hash":"Qm1","year":1722}
}

// Two writers share a database, and each gets what the other wrote.
func ExampleDatabase_Join() {
	ctx := context.Background()
	ann, bob := open(ctx), open(ctx)
	anyone := orbit.Options{Access: orbit.Access{Write: []string{manifest.Anyone}}}
	var dbs []*orbit.Database
	for _, o := range []*orbit.Orbit{ann, bob} {
		db, err := o.Create(ctx, "concerts", anyone)
		if err != nil {
			log.Fatal(err)
		}
		events, err := db.Events()
		if err != nil {
			log.Fatal(err)
		}
		if _, err := events.Add(ctx, "rehearsal"); err != nil {
			log.Fatal(err)
		}
		dbs = append(dbs, db)
	}
	// What identifies bob must be at hand where his entries are joined.
	if err := ann.Keep(ctx, bob.Identity().Block()); err != nil {
		log.Fatal(err)
	}
	var news []block.Block
	for arrival, err := range dbs[1].Log().Arrived(ctx, 0) {
		if err != nil {
			log.Fatal(err)
		}
		news = append(news, arrival.Entry.Block)
	}
	joined, err := dbs[0].Join(ctx, news)
	if err != nil {
		log.Fatal(err)
	}
	stats, err := dbs[0].Log().Stats(ctx)
	fmt.Println(joined[0].Outcome, stats.Entries, len(stats.Heads), err)
	// Output:
	// joined 2 2 <nil>
}
