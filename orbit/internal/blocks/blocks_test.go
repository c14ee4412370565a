package blocks_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func update(t testing.TB, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	must(t, s.Update(t.Context(), fn))
}

// filled returns a store with an entry and a block that is not an entry.
func filled(t testing.TB) (s *store.Store, entry, other block.Block) {
	t.Helper()
	s = store.New(storetest.NewDisk(), "/npp/test")
	entry, other = block.New([]byte("an entry")), block.New([]byte("another"))
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(blocks.PutEntry(tx, blocks.Location{Log: 200, Number: 300}, entry), blocks.Put(tx, other))
	})
	return s, entry, other
}

func TestBlocksAreFoundByTheirHash(t *testing.T) {
	s, entry, other := filled(t)
	g := blocks.Reading(t.Context(), s)
	for _, want := range []block.Block{entry, other} {
		if b, err := blocks.Get(g, want.Hash); err != nil || b.Hash != want.Hash || string(b.Data) != string(want.Data) {
			t.Errorf("%q, %v", b.Data, err)
		}
	}
	if at, err := blocks.Locate(g, entry.Hash); err != nil || at != (blocks.Location{Log: 200, Number: 300}) {
		t.Errorf("%v, %v", at, err)
	}
	if _, err := blocks.Locate(g, other.Hash); !errors.Is(err, blocks.ErrNotFound) {
		t.Errorf("no entry: %v", err)
	}
	absent := block.Hash(nil)
	if _, err := blocks.Get(g, absent); !errors.Is(err, blocks.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	if _, err := blocks.Locate(g, absent); !errors.Is(err, blocks.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	update(t, s, func(tx *store.Tx) error {
		if b, err := blocks.Get(tx, other.Hash); err != nil || b.Hash != other.Hash {
			t.Errorf("in a transaction: %v", err)
		}
		return errors.Join(tx.Delete("block/"+entry.Hash), tx.Delete("block/"+other.Hash))
	})
	for _, b := range []block.Block{entry, other} {
		if _, err := blocks.Get(g, b.Hash); !errors.Is(err, blocks.ErrNotFound) {
			t.Errorf("deleted: %v", err)
		}
	}
}

func TestEmptyBlockIsABlock(t *testing.T) {
	s := store.New(storetest.NewDisk(), "/npp/test")
	b := block.New(nil)
	update(t, s, func(tx *store.Tx) error { return blocks.Put(tx, b) })
	if got, err := blocks.Get(blocks.Reading(t.Context(), s), b.Hash); err != nil || len(got.Data) > 0 {
		t.Errorf("%q, %v", got.Data, err)
	}
}

func TestDamageIsReportedByHash(t *testing.T) {
	for _, record := range []string{
		"", "\x00", "\x00garbage", "\x80", "\x01", "\x01\x00", "\x01\x01\x01", "\x01an entry", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		s, entry, _ := filled(t)
		update(t, s, func(tx *store.Tx) error { return tx.Put("block/"+entry.Hash, []byte(record)) })
		_, getErr := blocks.Get(blocks.Reading(t.Context(), s), entry.Hash)
		_, locateErr := blocks.Locate(blocks.Reading(t.Context(), s), entry.Hash)
		for _, err := range []error{getErr, locateErr} {
			if !errors.Is(err, blocks.ErrDamaged) || !strings.Contains(err.Error(), entry.Hash) {
				t.Errorf("%q: %v", record, err)
			}
		}
	}
	for name, damage := range map[string]func(tx *store.Tx, key string, b, other block.Block) error{
		"gone":     func(tx *store.Tx, key string, _, _ block.Block) error { return tx.Delete(key) },
		"empty":    func(tx *store.Tx, key string, _, _ block.Block) error { return tx.Put(key, nil) },
		"garbage":  func(tx *store.Tx, key string, _, _ block.Block) error { return tx.Put(key, make([]byte, 60)) },
		"its hash": func(tx *store.Tx, key string, b, _ block.Block) error { return tx.Put(key, []byte(b.Hash)) },
		"cut": func(tx *store.Tx, key string, b, _ block.Block) error {
			return tx.Put(key, []byte(b.Hash+string(b.Data[1:])))
		},
		"another": func(tx *store.Tx, key string, _, other block.Block) error {
			return tx.Put(key, []byte(other.Hash+string(other.Data)))
		},
	} {
		s, entry, other := filled(t)
		at := blocks.Location{Log: 200, Number: 300}
		update(t, s, func(tx *store.Tx) error {
			return damage(tx, store.Key(blocks.Entries(at.Log), at.Number), entry, other)
		})
		_, getErr := blocks.Get(blocks.Reading(t.Context(), s), entry.Hash)
		_, entryErr := blocks.Entry(blocks.Reading(t.Context(), s), at, entry.Hash)
		for _, err := range []error{getErr, entryErr} {
			if !errors.Is(err, blocks.ErrDamaged) || !strings.Contains(err.Error(), entry.Hash) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestHashOfADamagedEntryIsKnownIfItCanBeRead(t *testing.T) {
	b := block.New([]byte("an entry"))
	for record, hash := range map[string]string{
		b.Hash + "garbage": b.Hash,
		b.Hash:             b.Hash,
		b.Hash[:48]:        "",
		"y" + b.Hash[1:]:   "",
		"":                 "",
	} {
		got, err := blocks.DecodeEntry([]byte(record))
		if !errors.Is(err, blocks.ErrDamaged) || got.Hash != hash {
			t.Errorf("%q: %q, %v", record, got.Hash, err)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	b := block.New([]byte("data"))
	f.Add([]byte(b.Hash + "data"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		if b, err := blocks.DecodeEntry(record); err == nil && b.Hash+string(b.Data) != string(record) {
			t.Errorf("%q is read as %v", record, b)
		}
	})
}
