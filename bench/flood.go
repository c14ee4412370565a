package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/ipfs/boxo/keystore"
	leveldb "github.com/ipfs/go-ds-leveldb"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// The bars for a flood of heads.
const (
	floodBar     = 1.5  // joining entries without parents, relative to joining a chain
	elsewhereBar = 10.0 // the 99th percentile of concurrent puts elsewhere, relative to idle
	namingBar    = 5.0  // a put that references 512 heads, relative to an idle one
	healedBar    = 1.2  // a put after all heads are referenced, relative to an idle one
)

const (
	floodPuts  = 200 // number of puts that measure idle and healed databases
	floodBatch = 128 // entries that are joined at once
)

// flood is the measurement of one round.
type flood struct {
	join               time.Duration
	idle, naming, heal []time.Duration // puts to the database: before the flood, right after it, and once few heads are left
	idleElsewhere      []time.Duration // puts to another database: before the flood,
	elsewhere          []time.Duration // and during it
}

// benchFlood measures the cost of entries without parents, each of which is a
// head, beside a chain of as many entries.
func benchFlood(ctx context.Context, b *bench) (*section, error) {
	entries := b.pick(5000, 1500)
	rounds := b.pick(5, 1)
	var heads, chains []flood
	for range rounds {
		for _, chain := range []bool{false, true} {
			f, err := floodOnce(ctx, b, entries, chain)
			if err != nil {
				return nil, err
			}
			if chain {
				chains = append(chains, f)
			} else {
				heads = append(heads, f)
			}
		}
	}
	s := &section{
		title: fmt.Sprintf("Databases: a flood of %d heads", entries),
		how: fmt.Sprintf("Entries of a remote writer are joined to a `*` database, %d at a time, in this process on leveldb, in %d rounds in turns: either none has a parent, so each is a head, or all are in a chain. "+
			"Meanwhile, puts to another database follow each other without a pause. The idle put is the median of %d before.", floodBatch, rounds, floodPuts),
	}
	of := func(fs []flood, pick func(flood) time.Duration) (list []time.Duration) {
		for _, f := range fs {
			list = append(list, pick(f))
		}
		return list
	}
	join := func(f flood) time.Duration { return f.join }
	joins := ratios(of(heads, join), of(chains, join))
	quotient := func(pick func(flood) time.Duration, by func(flood) time.Duration) []float64 {
		return ratios(of(heads, pick), of(heads, by))
	}
	quotients := func(of []float64) string { return ratio(of) + " (" + spread(of) + ")" }
	idle := func(f flood) time.Duration { return median(f.idle) }
	naming512 := func(f flood) time.Duration { return median(f.naming) }
	allNamed := func(f flood) time.Duration { return median(f.heal) }
	p99 := func(f flood) time.Duration { return percentile(f.elsewhere, 99) }
	slowest := func(f flood) time.Duration { return percentile(f.elsewhere, 100) }
	idleElsewhere := func(f flood) time.Duration { return percentile(f.idleElsewhere, 99) }
	elsewhere := quotient(p99, idleElsewhere)
	slow := ratios(of(heads, slowest), of(chains, slowest))
	naming := quotient(naming512, idle)
	healed := quotient(allNamed, idle)
	s.row("", "heads", "chain", "ratio")
	s.row("join", ms(median(of(heads, join))), ms(median(of(chains, join))), quotients(joins))
	s.row("slowest concurrent put elsewhere", ms(median(of(heads, slowest))), ms(median(of(chains, slowest))), quotients(slow))
	s.row("", "during or after", "idle", "ratio")
	s.row("put elsewhere, 99th percentile", ms(median(of(heads, p99))), ms(median(of(heads, idleElsewhere))), quotients(elsewhere))
	s.row("put that references 512 heads", ms(median(of(heads, naming512))), ms(median(of(heads, idle))), quotients(naming))
	s.row("put after all heads are referenced", ms(median(of(heads, allNamed))), ms(median(of(heads, idle))), quotients(healed))
	for _, bar := range []struct {
		what string
		got  []float64
		most float64
	}{
		{"joining heads, relative to a chain", joins, floodBar},
		{"the 99th percentile of a put elsewhere, relative to an idle one", elsewhere, elsewhereBar},
		{"a put that references 512 heads, relative to an idle one", naming, namingBar},
		{"a put after all heads are referenced, relative to an idle one", healed, healedBar},
	} {
		s.verdict(median(bar.got) <= bar.most, "%s: at most %.1f; it is %s.", bar.what, bar.most, ratio(bar.got))
	}
	return s, nil
}

// floodOnce joins entries to a new database.
func floodOnce(ctx context.Context, b *bench, entries int, chain bool) (f flood, err error) {
	dir, err := os.MkdirTemp(b.Dir, "flood-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	ds, err := leveldb.NewDatastore(dir, nil)
	if err != nil {
		return f, err
	}
	defer ds.Close()
	o, err := orbit.New(ctx, orbit.Config{Store: store.New(ds, "/orbit"), Keystore: keystore.NewMemKeystore()})
	if err != nil {
		return f, err
	}
	defer o.Close()
	open := func(name string, access orbit.Access) (*orbit.KeyValue, *orbit.Database, error) {
		db, err := o.Create(ctx, name, orbit.Options{Type: orbit.TypeKeyValue, Access: access})
		if err != nil {
			return nil, nil, err
		}
		kv, err := db.KeyValue()
		return kv, db, err
	}
	flooded, db, err := open("flooded", orbit.Access{Write: []string{orbit.Anyone}})
	if err != nil {
		return f, err
	}
	mine, _, err := open("mine", orbit.Access{})
	if err != nil {
		return f, err
	}
	puts := func(kv *orbit.KeyValue, n int) (took []time.Duration, err error) {
		for i := range n {
			at := time.Now()
			if _, err := kv.Put(ctx, "key", i); err != nil {
				return nil, err
			}
			took = append(took, time.Since(at))
		}
		return took, nil
	}
	if f.idle, err = puts(flooded, floodPuts); err != nil {
		return f, err
	}
	if f.idleElsewhere, err = puts(mine, floodPuts); err != nil {
		return f, err
	}
	blocks, stranger, err := strangers(db.Address(), entries, chain)
	if err != nil {
		return f, err
	}
	opts := orbit.JoinOptions{Attached: orbit.Attached{stranger.Hash(): stranger.Block()}}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			took, err := puts(mine, 1)
			if err != nil {
				done <- err
				return
			}
			f.elsewhere = append(f.elsewhere, took...)
		}
	}()
	began := time.Now()
	for i := 0; i < len(blocks) && err == nil; i += floodBatch {
		_, err = db.Join(ctx, orbit.NewCandidates(blocks[i:min(len(blocks), i+floodBatch)]...), opts)
	}
	f.join = time.Since(began)
	close(stop)
	if putErr := <-done; err == nil {
		err = putErr
	}
	if err != nil {
		return f, err
	}
	// Each put references 512 heads until few are left.
	if f.naming, err = puts(flooded, entries/entry.MaxNext); err != nil {
		return f, err
	}
	if _, err = puts(flooded, 2); err != nil {
		return f, err
	}
	f.heal, err = puts(flooded, floodPuts)
	return f, err
}

// strangers returns entries of a remote writer. Either none has a parent, or
// each has the previous one as its parent.
func strangers(address string, n int, chain bool) (blocks []block.Block, s *identity.Signer, err error) {
	key, _, err := crypto.GenerateSecp256k1Key(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if s, err = identity.New(key, key); err != nil {
		return nil, nil, err
	}
	var last []entry.Position
	for i := range n {
		e, err := entry.New(s, address, put(fmt.Sprint("stranger ", i)), last, []string{})
		if err != nil {
			return nil, nil, err
		}
		if chain {
			last = []entry.Position{e.Position(e.Rank())}
		}
		blocks = append(blocks, e.Block)
	}
	return blocks, s, nil
}

// put returns the payload that sets a key to null.
func put(key string) value.Value {
	return value.Map(
		value.Member{Name: "op", Value: value.Text("PUT")},
		value.Member{Name: "key", Value: value.Text(key)},
		value.Member{Name: "value", Value: value.Null},
	)
}
