package inventory

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/newpieceplease/npp/orbit/block"
)

// A peer that lacks a database sees only tags of it. None of what it can do
// with them makes the other side believe that it has the database, or tells the
// peer which database it is.
func TestWhoLacksADatabaseGainsNothingFromItsTags(t *testing.T) {
	k := key(1)
	// replayed returns the tag that an honest owner sends in another session.
	replayed := func(theirs side) tag {
		return newConnection(side{high, nonce{1}}, theirs).ours().of(k)
	}
	for name, c := range map[string]struct {
		proof func(got tag) tag
	}{
		"its own tag":              {func(got tag) tag { return got }},
		"zero":                     {func(tag) tag { return tag{} }},
		"of another session":       {func(tag) tag { return replayed(side{low, nonce{2}}) }},
		"of another pair of peers": {func(tag) tag { return replayed(side{"peer C", nonce{2}}) }},
		"a bit that differs":       {nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h, p, ended := against(t, newMemory(keys(1, 2)))
				p.begin(20)
				got := p.claims(1)
				right := p.connection.ours().of(k)
				proof := right
				if c.proof != nil {
					proof = c.proof(got[0])
				} else {
					proof[15] ^= 1
				}
				p.send(match{1, []found{{0, proof, state(1)}}})
				if err := <-ended; !errors.Is(err, ErrProtocol) {
					t.Errorf("the session ends with %v", err)
				}
				if _, ok := s.Common(k); ok || h.calls != 0 {
					t.Error("the database is common")
				}
			})
		})
	}
	for name, claimed := range map[string]func(got tag) tag{
		"reflected":                func(got tag) tag { return got },
		"of another session":       func(tag) tag { return replayed(side{low, nonce{2}}) },
		"of another pair of peers": func(tag) tag { return replayed(side{"peer C", nonce{2}}) },
	} {
		t.Run("claimed "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, h, p, ended := against(t, newMemory(keys(1, 2)))
				p.begin(20)
				p.send(claim{claimed(p.claims(1)[0])})
				if m, ok := p.next().(match); !ok || len(m.found) != 0 || m.upTo != 1 {
					t.Errorf("answer %+v", m)
				}
				p.conn.Close()
				<-ended
				if h.calls != 0 {
					t.Error("the database is common")
				}
			})
		})
	}
}

// What a peer hears of the databases that it lacks is only how many there are.
func TestNothingOfAnAddressGoesOverTheWireToWhoLacksIt(t *testing.T) {
	var wires [2][]byte
	for i := range wires {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(keys(100*i, 100*i+50))
			s, _, p, ended := against(t, m)
			p.begin(20)
			tags := p.claims(50)
			p.send(match{upTo: 50})
			settle()
			for k, state := range m.all() {
				s.Tell(k, state, []block.Block{block.New(k[:])})
			}
			s.Remove(key(100 * i))
			settle()
			p.send(hello{}) // ends the session
			if f := p.next(); f != nil {
				t.Errorf("%+v is heard", f)
			}
			<-ended
			for _, got := range tags {
				wires[i] = append(wires[i], got[:]...)
			}
			for k := range m.all() {
				for n := 8; n <= len(k); n++ {
					if bytes.Contains(wires[i], k[n-8:n]) {
						t.Error("a part of an address goes over the wire")
					}
				}
			}
		})
	}
	if len(wires[0]) != len(wires[1]) {
		t.Error("the number of bytes depends on the addresses")
	}
}

func TestViolationsEndTheSession(t *testing.T) {
	k := key(1)
	proof := func(p *script) tag { return p.connection.ours().of(k) }
	for name, do := range map[string]func(p *script){
		"a second hello": func(p *script) { p.send(hello{}) },
		"garbage":        func(p *script) { p.raw([]byte("garbage")) },
		"an empty frame": func(p *script) { p.raw(nil) },
		"a large frame":  func(p *script) { p.conn.Write(binary.AppendUvarint(nil, maxFrame+1)) },
		"an endless length": func(p *script) {
			p.conn.Write(bytes.Repeat([]byte{0xff}, 20))
		},
		"an answer twice": func(p *script) {
			p.send(match{1, []found{{0, proof(p), state(1)}}})
			p.next()
			p.send(match{1, []found{{0, proof(p), state(1)}}})
		},
		"an answer of nothing":             func(p *script) { p.send(match{upTo: 0}) },
		"an answer to what is not claimed": func(p *script) { p.send(match{upTo: 2}) },
		"states of nothing":                func(p *script) { p.send(states{upTo: 1}) },
		"states of what is not matched": func(p *script) {
			p.send(claim{{1}, proof(p)})
			p.next()
			p.send(states{2, []differing{{0, state(1)}}})
		},
		"a change of nothing":       func(p *script) { p.send(change{channel: channel{7, true}}) },
		"a change of what it lacks": func(p *script) { p.send(change{channel: channel{0, false}}) },
		"the end of nothing":        func(p *script) { p.send(gone{{7, false}}) },
		"too many claims": func(p *script) {
			for range maxOpen/maxTags + 1 {
				p.send(make(claim, maxTags))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(keys(1, 2))
				m.slow = func() { time.Sleep(time.Second) } // claims are not answered at once
				_, _, p, ended := against(t, m)
				p.begin(20)
				p.claims(1)
				do(p)
				if err := <-ended; !errors.Is(err, ErrProtocol) {
					t.Errorf("the session ends with %v", err)
				}
			})
		})
	}
	for _, c := range examples[1:] {
		t.Run(fmt.Sprintf("%T before hello", c.frame), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, _, p, ended := against(t, newMemory())
				p.next()
				p.send(c.frame)
				if err := <-ended; !errors.Is(err, ErrProtocol) {
					t.Errorf("the session ends with %v", err)
				}
			})
		})
	}
}

func TestFramesOfAnUnknownKindAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, p, _ := against(t, newMemory(keys(1, 2)))
		p.begin(20)
		p.claims(1)
		p.raw([]byte("\x82\x18\x63\x65hello"))
		p.send(match{1, []found{{0, p.connection.ours().of(key(1)), state(3)}}})
		p.next()
		if h.all()[key(1)] != state(3) {
			t.Error("the next frame is not heard")
		}
	})
}

func TestAPeerThatOwesSomethingAndIsSilentIsLeft(t *testing.T) {
	for name, do := range map[string]func(p *script){
		"hello": func(p *script) { p.next() },
		"an answer to claims": func(p *script) {
			p.begin(20)
			p.claims(1)
		},
		"an answer, while it sends other frames": func(p *script) {
			p.begin(20)
			p.claims(1)
			for range 1000 {
				if _, err := p.conn.Write([]byte("\x02\x81\x07")); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
		"states": func(p *script) {
			p.begin(0)
			p.send(claim{p.connection.ours().of(key(1))})
			if m, ok := p.next().(match); !ok || len(m.found) != 1 {
				p.t.Error("no match")
			}
		},
		"an answer, while it confirms matches": func(p *script) {
			p.begin(20)
			p.claims(1)
			sent := claim{p.connection.ours().of(key(1))}
			for n := uint32(1); p.send(sent); n++ {
				p.next()
				p.send(states{upTo: n})
				time.Sleep(time.Second)
			}
		},
		"the rest of a frame": func(p *script) {
			p.begin(0)
			p.conn.Write([]byte{100, 1, 2})
		},
		"the rest of a length": func(p *script) {
			p.begin(0)
			p.conn.Write([]byte{0x80})
		},
		"a frame that trickles": func(p *script) {
			p.begin(0)
			p.conn.Write(binary.AppendUvarint(nil, maxFrame))
			for {
				if _, err := p.conn.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, _, p, ended := against(t, newMemory(keys(1, 2)))
				start := time.Now()
				do(p)
				if err := <-ended; !errors.Is(err, ErrSilent) {
					t.Errorf("the session ends with %v", err)
				}
				if waited := time.Since(start); waited > answerWithin+time.Minute {
					t.Errorf("it ends after %s", waited)
				}
			})
		})
	}
}

func TestAPeerThatReadsNothingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, p, ended := against(t, newMemory(keys(1, 2)))
		p.begin(0)
		p.send(claim{p.connection.ours().of(key(1))})
		p.next()
		p.send(states{upTo: 1})
		synctest.Wait()
		start := time.Now()
		s.Tell(key(1), state(2), nil)
		if err := <-ended; !errors.Is(err, ErrSilent) || time.Since(start) != takenWithin {
			t.Errorf("the session ends with %v after %s", err, time.Since(start))
		}
	})
}

// Whatever one peer claims, at whatever pace, a session makes few passes over
// the catalog, and all sessions together make one at a time.
func TestPassesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sessions, seconds = 5, 60
		m := newMemory(keys(0, 100))
		passes := NewPasses()
		most, took := int64(0), 20*time.Millisecond
		m.slow = func() {
			most = max(most, m.passing.Load())
			time.Sleep(took)
		}
		var wg sync.WaitGroup
		for range sessions {
			_, _, p, ended := againstWith(t, Config{m, newHeard(t), passes, nil})
			p.begin(0)
			wg.Go(func() {
				for p.next() != nil {
				}
			})
			wg.Go(func() {
				for range seconds * 100 {
					p.send(claim{{1}})
					time.Sleep(time.Second / 100)
				}
				p.conn.Close()
				<-ended
			})
		}
		wg.Wait()
		n := m.passes.Load()
		if n > sessions*(firstPasses+seconds+1) || n < sessions*seconds/2 {
			t.Errorf("%d passes", n)
		}
		if most != 1 {
			t.Errorf("%d passes at a time", most)
		}
	})
}

func TestPassesTakeHalfOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPasses()
		start := time.Now()
		for range 10 {
			must(t, p.do(t.Context(), func() { time.Sleep(time.Second) }))
		}
		if took := time.Since(start); took != 19*time.Second {
			t.Errorf("ten passes take %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.do(ctx, func() { t.Error("it is called") }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		must(t, p.do(t.Context(), func() {}))
	})
}

// A million claimed tags, and a peer that says that it has countless databases,
// cost memory of one window.
func TestAMillionClaimedTagsCostLittleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, p, ended := against(t, newMemory(keys(0, 100)))
		s.limit.SetLimit(rate.Inf) // the time in the bubble costs nothing
		p.begin(64)
		p.claims(100)
		p.send(match{upTo: 100})
		settle()
		before := heap()
		answered := uint32(0)
		for sent := uint32(0); sent < 1<<20; {
			for sent-answered+maxTags <= maxOpen {
				p.send(make(claim, maxTags))
				sent += maxTags
			}
			m, ok := p.next().(match)
			if !ok {
				t.Fatal("no answer")
			}
			answered = m.upTo
		}
		if grown := heap() - before; grown > 8<<20 {
			t.Errorf("%d bytes more", grown)
		}
		p.conn.Close()
		<-ended
	})
}

// A peer that claims again and again what is common, and never confirms, makes
// nothing grow.
func TestClaimsAgainDoNotAccumulate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const common = 10
		s, _, p, ended := against(t, newMemory(keys(0, common)))
		s.limit.SetLimit(rate.Inf)
		p.begin(0)
		tags := p.connection.ours()
		for i := range uint32(50) {
			var f claim
			for k := range keys(0, common) {
				f = append(f, tags.of(k))
			}
			p.send(f)
			if m, ok := p.next().(match); !ok || len(m.found) != common {
				t.Fatalf("answer %+v", m)
			}
			p.send(states{upTo: common * (i + 1)})
		}
		synctest.Wait()
		if n := len(s.common.theirs); n != common || len(s.common.byKey) != common {
			t.Errorf("%d channels of %d databases", n, len(s.common.byKey))
		}
		p.conn.Close()
		<-ended
	})
}

func TestMatchesAreNotSentWhileTooManyAreUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const common = 1000
		s, _, p, ended := against(t, newMemory(keys(0, common)))
		s.limit.SetLimit(rate.Inf)
		p.begin(0)
		tags := p.connection.ours()
		var f claim
		for k := range keys(0, common) {
			f = append(f, tags.of(k))
		}
		var sender sync.WaitGroup
		sender.Go(func() {
			for p.send(f) {
				time.Sleep(time.Second)
			}
		})
		for p.next() != nil {
		}
		if err := <-ended; !errors.Is(err, ErrSilent) && !errors.Is(err, ErrProtocol) {
			t.Errorf("the session ends with %v", err)
		}
		sender.Wait()
		if n := len(s.answers.unconfirmed); n > maxOpen+maxMatches {
			t.Errorf("%d matches are unconfirmed", n)
		}
		p.conn.Close()
	})
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// However the bytes of honest frames are changed, a session ends or goes on,
// and nothing becomes common that is not.
func FuzzSession(f *testing.F) {
	var honest []byte
	for _, c := range examples[1:] {
		honest = append(honest, encode(c.frame)...)
	}
	f.Add(honest)
	for _, c := range examples[1:] {
		f.Add(slices.Concat(encode(c.frame), encode(c.frame)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			s, h, p, ended := against(t, newMemory(keys(1, 5)))
			p.begin(20)
			go func() {
				for p.next() != nil {
				}
			}()
			p.conn.Write(b)
			p.conn.Close()
			<-ended
			for k := range s.All() {
				t.Errorf("%x is common", k)
			}
			if h.calls > 0 {
				t.Error("a handler is called")
			}
		})
	})
}
