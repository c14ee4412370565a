package inventory

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit/block"
)

// A pass over a catalog of 100,000 that looks for 10,000 claims.
func BenchmarkPass(b *testing.B) {
	m := newMemory(keys(0, 100_000))
	for _, claims := range []int{1, 10_000} { // half of which are found
		b.Run(fmt.Sprintf("claims=%d", claims), func(b *testing.B) {
			b.ReportAllocs()
			s := newSession(nil, low, high, Config{m, newHeard(b), NewPasses(), nil})
			s.connection = newConnection(side{id: low}, side{id: high})
			tags := s.connection.theirs()
			var f []tag
			for k := range keys(100_000-(claims+1)/2, 100_000+claims/2) {
				f = append(f, tags.of(k))
			}
			for b.Loop() {
				s.answers = answers{pending: f}
				s.pass(b.Context())
			}
		})
	}
}

// The handshake of two sides with 10,000 databases in common, over a pipe.
func BenchmarkHandshake(b *testing.B) {
	for _, common := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("common=%d", common), func(b *testing.B) {
			left, right := newMemory(keys(0, common)), newMemory(keys(0, common))
			for i := range 100 {
				right.set(key(i), state(9))
			}
			for b.Loop() {
				x, y := connect(b, left, right)
				for _, n := range []*node{x, y} {
					n.untilCommon(b, common)
				}
				x.stop()
				<-x.ended
				<-y.ended
			}
		})
	}
}

// untilCommon waits until a number of databases are common.
func (n *node) untilCommon(t testing.TB, common int) {
	t.Helper()
	for {
		next := n.Next()
		n.heard.mu.Lock()
		enough := len(n.heard.common) == common
		n.heard.mu.Unlock()
		if enough {
			return
		}
		<-next
	}
}

// told is a handler that hears changes alone.
type told chan time.Time

func (told) Common(Key, State)                         {}
func (t told) Changed(_ Key, _ State, _ []block.Block) { t <- time.Now() }
func (told) Gone(Key)                                  {}

// From Tell on one host to Changed on another one, over TCP on this machine.
func BenchmarkTell(b *testing.B) {
	x, y, _, _ := overHosts(b, newMemory(keys(0, 100)), newMemory(keys(0, 100)))
	x.untilCommon(b, 100)
	y.untilCommon(b, 100)
	heard := make(told)
	y.config.Handler = heard // no frame is underway
	entry := block.New(make([]byte, 500))
	i := 0
	var took time.Duration
	for b.Loop() {
		i++
		start := time.Now()
		x.Tell(key(i%100), state(i+2), []block.Block{entry})
		took += (<-heard).Sub(start)
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/heard")
}

// The memory of a session, for each database that both have.
func BenchmarkMemory(b *testing.B) {
	const common = 100_000
	left, right := newMemory(keys(0, common)), newMemory(keys(0, common))
	for b.Loop() {
		x, y := connect(b, left, right)
		for _, n := range []*node{x, y} {
			n.untilCommon(b, common)
		}
		x.heard.common, y.heard.common = nil, nil
		with := heap()
		x.stop()
		<-x.ended
		<-y.ended
		x.Session.common, y.Session.common = databases{}, databases{}
		b.ReportMetric(float64(with-heap())/(2*common), "B/common")
		runtime.KeepAlive(x)
		runtime.KeepAlive(y)
	}
}

// The memory of a session that is idle.
func BenchmarkIdle(b *testing.B) {
	const sessions = 1000
	m := newMemory()
	for b.Loop() {
		before := heap()
		var all []*node
		for range sessions {
			x, y := connect(b, m, m)
			all = append(all, x, y)
		}
		time.Sleep(time.Second)
		b.ReportMetric(float64(heap()-before)/(2*sessions), "B/session")
		for _, n := range all {
			n.stop()
			<-n.ended
		}
	}
}
