package orbit_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/sync"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// open returns an Orbit in memory, and a block store with its blocks. source
// has blocks of others, or is nil.
func open(ctx context.Context, source orbit.Source) (*orbit.Orbit, blockstore.Blockstore) {
	ds := sync.MutexWrap(datastore.NewMapDatastore())
	s := store.New(ds, "/orbitdb")
	o, err := orbit.New(ctx, orbit.Config{Store: s, Keystore: keystore.NewMemKeystore(), Source: source})
	if err != nil {
		log.Fatal(err)
	}
	return o, orbit.Overlay(blockstore.NewBlockstore(ds), s)
}

func Example() {
	ctx := context.Background()
	o, _ := open(ctx, nil)
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
	o, _ := open(ctx, nil)
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

// Bob opens Ann's database by its address and joins her entries. Here he reads
// her blocks from her block store; package replicate transfers them between
// peers.
func ExampleDatabase_Join() {
	ctx := context.Background()
	ann, blocks := open(ctx, nil)
	defer ann.Close()
	bob, _ := open(ctx, blocks)
	defer bob.Close()

	hers, err := ann.Create(ctx, "concerts", orbit.Options{Type: orbit.TypeEvents})
	if err != nil {
		log.Fatal(err)
	}
	concerts, err := hers.Events()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := concerts.Add(ctx, "rehearsal"); err != nil {
		log.Fatal(err)
	}

	his, err := bob.Open(ctx, hers.Address(), orbit.OpenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	var entries []block.Block
	for arrival, err := range hers.Stored(ctx, 0) {
		if err != nil {
			log.Fatal(err)
		}
		entries = append(entries, arrival.Entry.Block)
	}
	results, err := his.Join(ctx, orbit.NewCandidates(entries...), orbit.JoinOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(results[0].Outcome, results[0].Err)

	concerts, err = his.Events()
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range concerts.All(ctx) {
		fmt.Println(event.Value, err)
	}
	_, err = concerts.Add(ctx, "concert")
	fmt.Println(errors.Is(err, orbit.ErrNotAllowed))
	// Output:
	// joined <nil>
	// "rehearsal" <nil>
	// true
}

// Ann permits Bob to write, and then revokes the permission.
func ExampleAccessController() {
	ctx := context.Background()
	ann, _ := open(ctx, nil)
	defer ann.Close()
	bob, _ := open(ctx, nil)
	defer bob.Close()

	db, err := ann.Create(ctx, "setlist", orbit.Options{
		Type:   orbit.TypeKeyValue,
		Access: orbit.Access{Managed: true},
	})
	if err != nil {
		log.Fatal(err)
	}
	access := db.Access()
	fmt.Println(access.Type())

	id := bob.Identity().ID
	if err := access.Grant(ctx, orbit.CapabilityWrite, id); err != nil {
		log.Fatal(err)
	}
	capabilities, err := access.Capabilities(ctx)
	fmt.Println(len(capabilities[orbit.CapabilityWrite]), len(capabilities[orbit.CapabilityAdmin]), err)

	if err := access.Revoke(ctx, orbit.CapabilityWrite, id); err != nil {
		log.Fatal(err)
	}
	capabilities, err = access.Capabilities(ctx)
	fmt.Println(len(capabilities[orbit.CapabilityWrite]), len(capabilities[orbit.CapabilityAdmin]), err)
	// Output:
	// orbitdb
	// 1 1 <nil>
	// 0 1 <nil>
}
