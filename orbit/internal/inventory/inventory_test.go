package inventory

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/newpieceplease/npp/orbit/block"
)

func TestBothSidesFindWhatBothHave(t *testing.T) {
	for _, c := range []struct{ a, b, common int }{
		{0, 0, 0}, {0, 1, 0}, {1, 0, 0}, {1, 1, 0}, {1, 1, 1}, {3, 3, 2},
		{3, 10_000, 2}, {10_000, 3, 3}, {10_000, 10_000, 9_000}, {0, 10_000, 0},
		{maxOpen + 5000, maxOpen + 7000, maxOpen + 3000}, {maxOpen + 7000, maxOpen + 5000, 10},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newMemory(keys(0, c.common), keys(1<<20, 1<<20+c.a-c.common))
				b := newMemory(keys(0, c.common), keys(2<<20, 2<<20+c.b-c.common))
				for i := range c.common / 3 {
					b.set(key(3*i), state(2+i))
				}
				x, y := connect(t, a, b)
				settle()
				agree(t, x, y)
				if n := len(x.heard.all()); n != c.common {
					t.Errorf("%d in common, want %d", n, c.common)
				}
			})
		})
	}
}

func TestLaterChangesOfTheCatalogsAreFollowed(t *testing.T) {
	k := key(1)
	for name, do := range map[string]func(a, b *node){
		"added here":              func(a, b *node) { b.add(k, state(1)); settle(); a.add(k, state(2)) },
		"added there":             func(a, b *node) { a.add(k, state(1)); settle(); b.add(k, state(2)) },
		"added on both at once":   func(a, b *node) { a.add(k, state(1)); b.add(k, state(2)) },
		"added twice":             func(a, b *node) { a.add(k, state(1)); a.Add(k); b.add(k, state(2)); b.Add(k) },
		"removed here":            func(a, b *node) { a.add(k, state(1)); b.add(k, state(2)); settle(); a.drop(k) },
		"removed there":           func(a, b *node) { a.add(k, state(1)); b.add(k, state(2)); settle(); b.drop(k) },
		"removed on both at once": func(a, b *node) { a.add(k, state(1)); b.add(k, state(2)); settle(); a.drop(k); b.drop(k) },
		"removed before the answer": func(a, b *node) {
			b.add(k, state(1))
			settle()
			a.add(k, state(2))
			a.drop(k)
		},
		"removed and added before the answer": func(a, b *node) {
			b.add(k, state(1))
			settle()
			a.add(k, state(2))
			a.drop(k)
			a.add(k, state(3))
			b.drop(k)
		},
		"removed and added": func(a, b *node) {
			a.add(k, state(1))
			b.add(k, state(2))
			settle()
			b.drop(k)
			b.add(k, state(3))
		},
		"what was never added": func(a, b *node) { a.drop(k) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// k was claimed in vain by one side in the beginning.
				a, b := newMemory(keys(10, 12)), newMemory(keys(11, 20))
				x, y := connect(t, a, b)
				settle()
				do(x, y)
				settle()
				agree(t, x, y)
			})
		})
	}
}

func TestWhatWasClaimedInVainIsAddedByThePeerLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newMemory(keys(0, 3)), newMemory(keys(1, 10)))
		settle()
		y.add(key(0), state(5))
		settle()
		agree(t, x, y)
		if len(x.heard.all()) != 3 {
			t.Errorf("%d in common", len(x.heard.all()))
		}
	})
}

// In any order of additions, removals and changes on both sides, however slow
// the stream is in either direction, both sides know in the end what both have
// and the last state of each.
func TestRandomHistoriesEndInAgreement(t *testing.T) {
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			rng := rand.New(rand.NewPCG(seed, 14))
			delay := func() func() {
				most := 1 + rng.Int64N(int64(40*time.Millisecond))
				var mu sync.Mutex
				rng := rand.New(rand.NewPCG(seed, uint64(most)))
				return func() {
					mu.Lock()
					d := rng.Int64N(most)
					mu.Unlock()
					time.Sleep(time.Duration(d))
				}
			}
			const few = 6
			a, b := newMemory(keys(0, rng.IntN(few))), newMemory(keys(rng.IntN(few), few))
			a.slow, b.slow = delay(), delay()
			x, y := connect(t, a, b, delay(), delay())
			if rng.IntN(2) == 0 {
				settle()
			}
			for i := range rng.IntN(60) {
				synctest.Wait() // no call of a handler is underway
				n, k := []*node{x, y}[rng.IntN(2)], key(rng.IntN(few))
				switch op := rng.IntN(4); {
				case !n.memory.has(k):
					n.add(k, state(10+i))
					if op == 0 {
						n.Add(k)
					}
				case op == 0:
					n.drop(k)
				case op == 1:
					n.Add(k)
				default:
					n.tell(k, state(10+i))
				}
				if rng.IntN(3) == 0 {
					time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
				}
			}
			settle()
			settle()
			agree(t, x, y)
			if channels(x.Session.common.mine) != channels(y.Session.common.theirs) || channels(y.Session.common.mine) != channels(x.Session.common.theirs) {
				t.Error("the sides have other channels")
			}
			if x.underway() || y.underway() || len(x.removals)+len(y.removals) > 0 {
				t.Error("something is underway")
			}
		})
	}
}

// channels returns the numbers and databases of channels.
func channels(m map[uint32]*database) string {
	byNumber := make(map[uint32]Key)
	for number, d := range m {
		byNumber[number] = d.key
	}
	return fmt.Sprint(byNumber)
}

// Additions, removals and changes from several goroutines during the handshake
// lose nothing.
func TestConcurrentChangesDuringTheHandshake(t *testing.T) {
	const all, writers, rounds = 2000, 4, 500
	a, b := newMemory(keys(0, all)), newMemory(keys(0, all+100))
	x, y := connect(t, a, b)
	x.unordered, y.unordered = true, true
	var wg sync.WaitGroup
	for _, n := range []*node{x, y} {
		for w := range writers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(w), 1))
				for i := range rounds {
					k := key(rng.IntN(all/writers)*writers + w) // its own databases
					switch {
					case !n.memory.has(k):
						n.add(k, state(rounds+i))
					case rng.IntN(8) == 0:
						n.memory.remove(k)
						n.Session.Remove(k)
					default:
						n.tell(k, state(rounds+i))
					}
					runtime.Gosched()
				}
			})
		}
	}
	wg.Wait()
	for _, side := range []struct{ n, other *node }{{x, y}, {y, x}} {
		has, other := side.n.memory.all(), side.other.memory.all()
		// Its own removals are not told to a handler, so the session is asked.
		side.n.heard.until(t.Context(), t, "what both have", func(map[Key]State) bool {
			count := 0
			for k, theirs := range side.n.All() {
				if _, ok := has[k]; !ok || other[k] != theirs {
					return false
				}
				count++
			}
			want := 0
			for k := range has {
				if _, ok := other[k]; ok {
					want++
				}
			}
			return count == want
		})
	}
}

func TestEntriesArriveWholeAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newMemory(keys(0, 3)), newMemory(keys(0, 3)))
		settle()
		var sent []block.Block
		for i := range 200 {
			e := block.New(bytes.Repeat([]byte{byte(i), 1}, 1+7*i))
			sent = append(sent, e)
			x.tell(key(i%3), state(2+i), e)
			synctest.Wait()
		}
		agree(t, x, y)
		if len(y.entries) != len(sent) {
			t.Fatalf("%d entries, want %d", len(y.entries), len(sent))
		}
		for i, e := range y.entries {
			must(t, e.Check())
			if e.Hash != sent[i].Hash {
				t.Errorf("entry %d is another one", i)
			}
		}
	})
}

// While the peer reads nothing, Tell does not block, and what waits is bounded:
// the last state of each database and few entries.
func TestTellNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const common = 100
		s, _, p, ended := against(t, newMemory(keys(0, common)))
		p.begin(20)
		tags := p.connection.ours()
		f := match{upTo: common}
		for i, got := range p.claims(common) {
			for k := range keys(0, common) {
				if p.connection.theirs().is(got, k) {
					f.found = append(f.found, found{uint32(i), tags.of(k), state(1)})
				}
			}
		}
		p.send(f)
		if _, ok := p.next().(states); !ok {
			t.Fatal("no states")
		}
		start := time.Now()
		for i := range 20 * common {
			k := key(i % common)
			s.config.Catalog.(*memory).set(k, state(i))
			s.Tell(k, state(i), []block.Block{block.New(make([]byte, 40<<10))})
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %s", waited)
		}
		s.mu.Lock()
		queued, held, bytes := len(s.changes.queue), 0, s.changes.bytes
		for _, n := range s.changes.told {
			for _, e := range n.entries {
				held += len(e.Data)
			}
		}
		s.mu.Unlock()
		if queued > common || bytes > maxQueued || held > bytes {
			t.Errorf("%d changes and %d bytes of entries wait, counted as %d", queued, held, bytes)
		}
		// The peer reads again, and hears the last states of what is still here.
		s.Remove(key(1))
		last := make(map[State]bool)
		for i := range common {
			last[state(19*common+i)] = true
		}
		delete(last, state(19*common+1))
		for len(last) > 0 {
			switch f := p.next().(type) {
			case change:
				if f.state == state(19*common+1) {
					t.Error("the state of what was removed is told")
				}
				delete(last, f.state)
			case nil:
				t.Fatalf("%d last states were not heard", len(last))
			}
		}
		synctest.Wait()
		if s.changes.bytes != 0 || len(s.changes.told) != 0 {
			t.Errorf("%d bytes of %d changes are left", s.changes.bytes, len(s.changes.told))
		}
		p.conn.Close()
		<-ended
	})
}

func TestAStateWithTooManyEntriesIsToldAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newMemory(keys(0, 1)), newMemory(keys(0, 1)))
		settle()
		x.tell(key(0), state(2), block.New(make([]byte, maxPayload)))
		synctest.Wait()
		x.tell(key(0), state(3), make([]block.Block, maxEntries+1)...)
		synctest.Wait()
		x.tell(key(0), state(4), block.New(make([]byte, maxPayload-entryOverhead)))
		synctest.Wait()
		agree(t, x, y)
		if len(y.entries) != 1 || len(y.entries[0].Data) != maxPayload-entryOverhead {
			t.Errorf("%d entries", len(y.entries))
		}
	})
}

func TestWhatGoesOverTheWireIsSmall(t *testing.T) {
	for _, c := range []struct{ a, b, common, differ, most int }{
		{10_000, 10_000, 10_000, 100, 700 << 10},
		{3, 100_000, 3, 3, 1 << 10},
		{100_000, 3, 3, 0, 1 << 10},
		{0, 100_000, 0, 0, 100},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newMemory(keys(0, c.a)), newMemory(keys(0, c.b))
			for i := range c.differ {
				b.set(key(i), state(9))
			}
			x, y := connect(t, a, b)
			settle()
			agree(t, x, y)
			if n := x.written.Load() + y.written.Load(); n > int64(c.most) {
				t.Errorf("%v: %d bytes", c, n)
			} else {
				t.Logf("%v: %d bytes", c, n)
			}
		})
	}
}

func TestAnIdleSessionLivesOnWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newMemory(keys(0, 10)), newMemory(keys(0, 20)))
		settle()
		before := x.written.Load() + y.written.Load()
		time.Sleep(30 * 24 * time.Hour)
		if n := x.written.Load() + y.written.Load(); n != before {
			t.Errorf("%d bytes were sent", n-before)
		}
		y.tell(key(5), state(7))
		synctest.Wait()
		agree(t, x, y)
	})
}

func TestAHandlerMayCallTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newMemory(), newMemory(keys(0, 20)))
		settle()
		x.heard.whenCommon(func(k Key) {
			x.tell(k, state(5))
			x.Add(k)
			x.Session.Common(k)
			for range x.All() {
				x.Session.Common(k)
			}
		})
		for k := range keys(0, 10) {
			x.add(k, state(1))
		}
		settle()
		agree(t, x, y)
	})
}

// A peer answers with its state even if it did not change, however often it is
// asked meanwhile.
func TestPeerTellsItsStateWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newMemory(keys(0, 3)), newMemory(keys(0, 3)))
		settle()
		before := x.heard.count()
		for range 10 {
			x.Ask(key(1))
			x.Ask(key(7)) // which the peer does not have
		}
		settle()
		if n := x.heard.count() - before; n != 1 {
			t.Errorf("the state was told %d times", n)
		}
		x.Ask(key(1))
		y.set(key(1), state(9))
		settle()
		if n := x.heard.count() - before; n < 2 {
			t.Errorf("the state was told %d times", n)
		}
		agree(t, x, y)
	})
}

// The peer hears of changes from its match on, before it told its own state.
func TestHasIsTrueFromTheMatchOn(t *testing.T) {
	s, _, p, _ := against(t, newMemory(keys(0, 1)))
	p.begin(0)
	p.send(claim{p.connection.ours().of(key(0))})
	if f, ok := p.next().(match); !ok || len(f.found) != 1 {
		t.Fatalf("the answer is %v", f)
	}
	if _, known := s.Common(key(0)); known || !s.Has(key(0)) || s.Has(key(1)) {
		t.Error("the session has another database than the one that was matched")
	}
	s.Tell(key(0), state(2), nil)
	if f, ok := p.next().(change); !ok || f.state != state(2) {
		t.Errorf("the peer hears %v", f)
	}
}
