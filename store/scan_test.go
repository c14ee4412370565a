package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// A transaction scans what it would get: committed entries as changed by the
// functions of its group and by itself.
func TestUpdateScansItsOwnWrites(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		s := store.New(storetest.NewDisk(), "/test")
		model := make(map[string]string)
		change := func(tx *store.Tx) error {
			for range rng.IntN(8) {
				key := fmt.Sprintf("%c/%d", 'a'+rune(rng.IntN(2)), rng.IntN(10))
				if rng.IntN(3) == 0 {
					delete(model, key)
					if err := tx.Delete(key); err != nil {
						return err
					}
					continue
				}
				model[key] = fmt.Sprint(rng.IntN(100))
				if err := tx.Put(key, []byte(model[key])); err != nil {
					return err
				}
			}
			return nil
		}
		for range 4 {
			if err := s.Update(t.Context(), func(tx *store.Tx) error {
				if err := change(tx); err != nil {
					return err
				}
				var want, got, back []string
				for key, value := range model {
					if key[0] == 'a' {
						want = append(want, key+"="+value)
					}
				}
				slices.Sort(want)
				for e, err := range tx.Scan("a") {
					if err != nil {
						return err
					}
					got = append(got, e.Key+"="+string(e.Value))
				}
				for e, err := range tx.ScanBack("a") {
					if err != nil {
						return err
					}
					back = append(back, e.Key+"="+string(e.Value))
				}
				slices.Reverse(back)
				if !slices.Equal(got, want) || !slices.Equal(back, want) {
					t.Errorf("seed %d: got %v and back %v, want %v", seed, got, back, want)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestUpdateDescendsASeries(t *testing.T) {
	s := store.New(storetest.NewDisk(), "/test")
	put := func(tx *store.Tx, n uint64) error { return tx.Put(store.NamedKey("s", n, "x"), []byte{1}) }
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return put(tx, 17) }); err != nil {
		t.Fatal(err)
	}
	var got []uint64
	if err := s.Update(t.Context(), func(tx *store.Tx) error {
		for _, n := range []uint64{3, 1000, 16} {
			if err := put(tx, n); err != nil {
				return err
			}
		}
		for r, err := range tx.Descend("s") {
			if err != nil {
				return err
			}
			if got = append(got, r.Number); r.Name != "x" {
				t.Errorf("name %q", r.Name)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{1000, 17, 16, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
