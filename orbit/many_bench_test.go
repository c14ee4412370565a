package orbit_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/keystore"
	leveldb "github.com/ipfs/go-ds-leveldb"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/store"
)

// many is an Orbit on leveldb with many databases of somebody else, each with
// an entry.
type many struct {
	dir       string
	ds        *leveldb.Datastore
	keys      *keystore.MemKeystore
	store     *store.Store
	addresses []string
}

func newMany(b *testing.B, n int, opts orbit.Options) *many {
	b.Helper()
	m := &many{dir: b.TempDir(), keys: keystore.NewMemKeystore()}
	must(b, m.keys.Put("orbitdb-root", secret(b, 0x11)))
	must(b, m.keys.Put("orbitdb-signing", secret(b, 0x22)))
	o := m.openWith(b, true)
	other := newB(b)
	must(b, other.Close())
	ds, err := leveldb.NewDatastore(b.TempDir(), &leveldb.Options{NoSync: true})
	must(b, err)
	defer ds.Close()
	s := store.New(ds, "/npp/orbit")
	other.Orbit, err = orbit.New(b.Context(), orbit.Config{Store: s, Keystore: other.keys})
	must(b, err)
	defer other.Close()
	attached := orbit.Attached{other.Identity().Hash(): other.Identity().Block()}
	for i := range n {
		db, err := other.Create(b.Context(), fmt.Sprint("db", i), opts)
		must(b, err)
		put(b, db, "key")
		named := []string{db.Address(), db.Access().Address()}
		if inner := db.Access().Database(); inner != nil {
			named = append(named, inner.Access().Address())
		}
		for _, address := range named {
			block, err := other.Block(b.Context(), address[strings.LastIndexByte(address, '/')+1:])
			must(b, err)
			attached[block.Hash] = block
		}
		mine, err := o.Open(b.Context(), db.Address(), orbit.OpenOptions{Attached: attached})
		must(b, err)
		joined, err := mine.Join(b.Context(), orbit.NewCandidates(entries(b, db)...), orbit.JoinOptions{Attached: attached})
		must(b, err)
		if joined[0].Err != nil {
			b.Fatal(joined[0].Err)
		}
		m.addresses = append(m.addresses, db.Address())
		clear(attached)
		attached[other.Identity().Hash()] = other.Identity().Block()
	}
	m.close(b, o)
	return m
}

func (m *many) open(b *testing.B) *orbit.Orbit { return m.openWith(b, false) }

func (m *many) openWith(b *testing.B, noSync bool) *orbit.Orbit {
	b.Helper()
	ds, err := leveldb.NewDatastore(m.dir, &leveldb.Options{NoSync: noSync})
	must(b, err)
	m.ds, m.store = ds, store.New(ds, "/npp/orbit")
	return m.orbit(b)
}

// orbit returns another Orbit on the open store.
func (m *many) orbit(b *testing.B) *orbit.Orbit {
	b.Helper()
	o, err := orbit.New(b.Context(), orbit.Config{Store: m.store, Keystore: m.keys, Quotas: orbit.Quotas{Database: 1 << 30}})
	must(b, err)
	return o
}

func (m *many) close(b *testing.B, o *orbit.Orbit) {
	b.Helper()
	must(b, o.Close())
	must(b, m.store.Close())
	must(b, m.ds.Close())
}

func BenchmarkManyDatabases(b *testing.B) {
	const n = 20_000
	for name, opts := range map[string]orbit.Options{
		"fixed list":      {Type: orbit.TypeDocuments},
		"access database": {Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}},
	} {
		m := newMany(b, n, opts)
		b.Run(name+"/fingerprint", func(b *testing.B) {
			o := m.open(b)
			defer m.close(b, o)
			i := 0
			for b.Loop() {
				f, err := o.Fingerprint(b.Context(), m.addresses[i%n])
				if err != nil || f == [32]byte{} {
					b.Fatal(f, err)
				}
				i++
			}
		})
		b.Run(name+"/wake", func(b *testing.B) {
			o := m.open(b)
			defer m.close(b, o)
			i := 0
			for b.Loop() {
				_, err := o.Open(b.Context(), m.addresses[i%n], orbit.OpenOptions{})
				must(b, err)
				i++
			}
		})
		b.Run(name+"/list", func(b *testing.B) {
			o := m.open(b)
			defer m.close(b, o)
			listed := 0
			for b.Loop() {
				for _, err := range o.Databases(b.Context()) {
					must(b, err)
					listed++
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(listed), "ns/database")
		})
		b.Run(name+"/memory", func(b *testing.B) {
			m.close(b, m.open(b))
			o := m.open(b)
			loaded := func() {
				for o.Loading() {
					time.Sleep(time.Millisecond)
				}
			}
			loaded() // now leveldb has filled its cache
			for b.Loop() {
				must(b, o.Close())
				o = nil
				before, start := heap(), time.Now()
				o = m.orbit(b)
				loaded()
				b.ReportMetric(float64(time.Since(start).Nanoseconds())/n, "ns/database")
				b.ReportMetric(float64(heap()-before)/n, "B/database")
			}
			m.close(b, o)
		})
	}
}

// heap returns the bytes of live objects.
func heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func BenchmarkCreate(b *testing.B) {
	m := newMany(b, 1, orbit.Options{Type: orbit.TypeDocuments})
	o := m.open(b)
	defer m.close(b, o)
	i := 0
	for b.Loop() {
		_, err := o.Create(b.Context(), fmt.Sprint("db", i), orbit.Options{Type: orbit.TypeDocuments})
		must(b, err)
		i++
	}
}
