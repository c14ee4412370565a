package orbit_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/space/spacetest"
)

func TestNothingIsWrittenOnAFullDiskAndAllCanBeRead(t *testing.T) {
	disk, ctx := spacetest.New(), t.Context()
	p := newA(t)
	p.open(t, orbit.Config{Disk: disk.Disk})
	other := newB(t).create(t, "other", orbit.Options{Access: orbit.Access{Write: []string{manifest.Anyone}}})
	car := func(event string) []byte {
		_, err := events(t, other).Add(ctx, event)
		must(t, err)
		var b bytes.Buffer
		_, err = other.Export(ctx, &b)
		must(t, err)
		return b.Bytes()
	}
	_, _, err := p.Import(ctx, bytes.NewReader(car("first")), nil)
	must(t, err)
	more := car("second")

	managed := orbit.Options{Type: orbit.TypeKeyValue, Access: orbit.Access{Managed: true}}
	db := p.create(t, "kept", managed)
	kv := keyvalue(t, db)
	_, err = kv.Put(ctx, "key", "value")
	must(t, err)
	disk.Set(spacetest.Floor - 1) // the owner may still write
	_, err = kv.Put(ctx, "key", "another")
	must(t, err)

	disk.Set(spacetest.Reserve - 1)
	before := p.disk.Operations()
	refused := map[string]func() error{
		"put": func() error { _, err := kv.Put(ctx, "key", "third"); return err },
		"put many": func() error {
			_, err := kv.PutMany(ctx, slices.Values([]orbit.Pair{{Key: "a", Value: 1}}))
			return err
		},
		"grant":   func() error { return db.Access().Grant(ctx, orbit.CapabilityWrite, "somebody") },
		"create":  func() error { _, err := p.Create(ctx, "new", managed); return err },
		"import":  func() error { _, _, err := p.Import(ctx, bytes.NewReader(more), nil); return err },
		"rebuild": func() error { _, err := p.Rebuild(ctx, db.Address()); return err },
	}
	for what, do := range refused {
		if err := do(); !errors.Is(err, space.ErrFull) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := p.disk.Operations() - before; n != 0 {
		t.Errorf("%d operations on a full disk", n)
	}
	if got := items(t, kv.Iterate(ctx, orbit.Page{})); !slices.Equal(got, []string{`"key"="another"`}) {
		t.Errorf("read: %q", got)
	}
	p.create(t, "kept", managed) // opens the existing database
	gone := p.create(t, "kept", managed)
	must(t, p.Drop(ctx, gone.Address(), nil))

	disk.Set(2 * spacetest.Floor)
	kv = keyvalue(t, p.create(t, "kept", managed))
	_, err = kv.Put(ctx, "key", "after")
	must(t, err)
}
