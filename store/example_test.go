package store_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"

	"github.com/newpieceplease/npp/store"
)

// A log of visits: each transaction appends a record and counts it.
func Example() {
	ctx := context.Background()
	ds := dssync.MutexWrap(datastore.NewMapDatastore())
	defer ds.Close()
	s := store.New(ds, "/visits")
	defer s.Close()

	for n, who := range []string{"alice", "bob", "alice"} {
		err := s.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Put(store.Key("log", uint64(n)), []byte(who)); err != nil {
				return err
			}
			return tx.Put("last/"+who, fmt.Append(nil, n))
		})
		if err != nil {
			log.Fatal(err)
		}
	}

	for r, err := range s.Descend(ctx, "log", 1) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("visit %d: %s\n", r.Number, r.Value)
	}
	last, err := s.Get(ctx, "last/alice")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("alice was last seen at visit %s\n", last)

	// Output:
	// visit 1: bob
	// visit 0: alice
	// alice was last seen at visit 2
}
