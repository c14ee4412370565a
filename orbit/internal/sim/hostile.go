package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/heads"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/orbit/value"
)

// hostile is a peer that wants the others not to agree. It has an identity, with
// which it may write where anybody may.
type hostile struct {
	*node
	own    *host
	bases  []*base
	signer *identity.Signer
	shown  map[string]block.Block // what it sends who asks; guarded by w.mu
	heard  []block.Block          // what others published; guarded by w.mu
	taped  map[digest][]byte      // what others sent on streams; guarded by w.mu
}

// Bounds of what it remembers.
const (
	maxTaped = 64
	maxHeard = 64
)

func newHostile(w *world, name string) *hostile {
	x := &hostile{node: newNode(w, name), shown: make(map[string]block.Block), taped: make(map[digest][]byte)}
	x.signer, _ = identity.New(x.key(rootKey), x.key(signingKey)) // which are keys
	return x
}

func (x *hostile) start() {
	h := x.up()
	x.own = h
	h.SetStreamHandlerMatch("/", func(protocol.ID) bool { return true }, func(s network.Stream) {
		rng := x.w.now("answer").text(string(s.Conn().RemotePeer())).text(string(s.Protocol())).rng()
		if s.Protocol() == reconcile.Protocol && rng.IntN(3) > 0 {
			x.lie(s, rng)
		} else {
			x.misbehave(s, rng)
		}
	})
	h.swap.serve(func(c cid.Cid) (blocks.Block, bool) {
		x.w.mu.Lock()
		defer x.w.mu.Unlock()
		hash, _ := block.HashOf(c)
		found, err := x.shown[hash].IPFS()
		if err != nil { // it sends something else
			found, err = blocks.NewBlockWithCid([]byte("something else"), c)
		}
		return found, err == nil
	})
	for _, b := range x.bases {
		h.pubsub.Follow(b.address, x.listen)
	}
}

func (x *hostile) listen(_ context.Context, m *pubsub.Message) bool {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	x.heard = append(x.heard, block.New(m.GetData()))
	x.heard = x.heard[max(0, len(x.heard)-maxHeard):]
	return false
}

// attack does something.
func (x *hostile) attack(rng *rand.Rand) {
	b := x.bases[rng.IntN(len(x.bases))]
	switch rng.IntN(12) {
	case 0:
		x.publish(b, noise(rng))
	case 1, 2:
		x.dial(b, rng)
	case 3: // many streams
		for range 40 {
			x.dial(b, rng)
		}
	case 4: // what others published, somewhere else, and changed
		x.w.mu.Lock()
		heard := slices.Clone(x.heard)
		x.w.mu.Unlock()
		if len(heard) > 0 {
			e := heard[rng.IntN(len(heard))]
			x.offer(b, rng, e, changed(e))
		}
	case 5: // of another log
		x.offer(b, rng, x.entry(block.Hash(noise(rng)), rng))
	case 6: // by whom nobody knows
		e := x.entry(b.address, rng)
		x.offer(b, rng, block.New(bytes.ReplaceAll(e.Data, []byte(x.signer.Hash()), []byte(block.Hash(noise(rng))))))
	case 7: // on top of what nobody has
		if b.guard == open {
			b.orphans++
		}
		x.offer(b, rng, x.entry(b.address, rng, block.Hash(noise(rng)), block.Hash(noise(rng))))
	case 8: // on top of what comes later, if anybody asks for it then
		below := x.entry(b.address, rng)
		if b.guard == open {
			b.orphans++
		}
		x.offer(b, rng, x.entry(b.address, rng, below.Hash))
		time.Sleep(time.Duration(rng.Int64N(int64(time.Minute))))
		x.show(below)
	case 10, 11: // what others published, as it is, to a peer that may not know the writer yet
		x.w.mu.Lock()
		heard := slices.Clone(x.heard)
		x.w.mu.Unlock()
		if len(heard) == 0 {
			return
		}
		x.show(heard...)
		genuine := heard[rng.IntN(len(heard))]
		if e, err := entry.Decode(genuine); err == nil {
			x.offer(&base{address: e.LogID}, rng, genuine)
		}
	case 9: // with nothing amiss
		e := x.entry(b.address, rng)
		x.show(e, x.signer.Block())
		x.offer(b, rng, e)
	}
}

// noise is bytes that are nothing.
func noise(rng *rand.Rand) []byte {
	b := make([]byte, 1+rng.IntN(300))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// changed returns an entry with another payload, and so with a signature of
// something else.
func changed(e block.Block) block.Block {
	data := bytes.Clone(e.Data)
	if i := bytes.Index(data, []byte("value")); i >= 0 {
		copy(data[i:], "valux")
	}
	return block.New(data)
}

// entry writes an entry on top of others.
func (x *hostile) entry(address string, rng *rand.Rand, below ...string) block.Block {
	var heads []entry.Position
	for _, hash := range below {
		heads = append(heads, entry.Position{Rank: entry.Rank{Time: float64(rng.IntN(50))}, ID: strings.Repeat("02", 33), Hash: hash})
	}
	payload, _ := value.FromJSON(fmt.Appendf(nil, `{"op":"PUT","key":"key %d","value":"%x"}`, rng.IntN(12), rng.Uint64())) // which is JSON
	e, err := entry.New(x.signer, address, payload, heads, nil)
	if err != nil {
		panic(err)
	}
	return e.Block
}

// show has blocks sent to who asks for them.
func (x *hostile) show(bs ...block.Block) {
	x.w.mu.Lock()
	for _, b := range bs {
		x.shown[b.Hash] = b
	}
	x.w.mu.Unlock()
	for _, b := range bs {
		if found, err := b.IPFS(); err == nil {
			x.own.swap.NotifyNewBlocks(x.own.ctx, found)
		}
	}
}

// offer publishes entries, or sends them as heads.
func (x *hostile) offer(b *base, rng *rand.Rand, es ...block.Block) {
	if rng.IntN(2) == 0 {
		for _, e := range es {
			x.publish(b, e.Data)
		}
		return
	}
	if p, ok := x.victim(rng); ok {
		ctx, cancel := context.WithTimeout(x.own.ctx, time.Minute)
		defer cancel()
		heads.Exchange(ctx, x.own, p.id, b.address, heads.Side{Heads: es, MaxSend: block.MaxSize})
	}
}

func (x *hostile) publish(b *base, data []byte) { x.own.pubsub.Announce(x.own.ctx, b.address, data) }

// victim returns the host of a connected peer.
func (x *hostile) victim(rng *rand.Rand) (*host, bool) {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	peers := sortedKeys(x.own.conns)
	if len(peers) == 0 {
		return nil, false
	}
	return x.own.conns[peers[rng.IntN(len(peers))]].other(x.own), true
}

// dial opens a stream of any protocol that a peer speaks, and misbehaves on it.
func (x *hostile) dial(b *base, rng *rand.Rand) {
	victim, ok := x.victim(rng)
	if !ok {
		return
	}
	spoken := victim.mux.Protocols()
	if len(spoken) == 0 {
		return
	}
	p := spoken[rng.IntN(len(spoken))]
	if p == "/orbitdb/heads" {
		p = heads.Protocol(b.address)
	}
	own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
	go func() {
		time.Sleep(time.Duration(own.Int64N(int64(time.Second)))) // no two are the same
		ctx, cancel := context.WithTimeout(x.own.ctx, time.Minute)
		defer cancel()
		if s, err := x.own.NewStream(network.WithNoDial(ctx, "it is connected"), victim.id, p); err == nil {
			x.misbehave(s, own)
		}
	}()
}

// misbehave does something on a stream that the other end does not expect.
func (x *hostile) misbehave(s network.Stream, rng *rand.Rand) {
	go x.tape(s)
	switch rng.IntN(8) {
	case 0:
		s.Write(noise(rng))
		s.CloseWrite()
	case 1: // it never ends, or not for long: a text of two gigabytes
		s.Write([]byte{0x7a, 0x7f, 0xff, 0xff, 0xff})
		endless := rng.IntN(20) == 0
		for frame := bytes.Repeat([]byte{'x'}, maxFrame); endless || rng.IntN(8) > 0; {
			if _, err := s.Write(frame); err != nil {
				break
			}
		}
	case 2: // it ends too early
		e := x.entry(x.bases[rng.IntN(len(x.bases))].address, rng)
		s.Write(e.Data[:rng.IntN(len(e.Data))])
		s.CloseWrite()
	case 3: // nothing ever comes
		s.Write([]byte{0x83})
	case 4: // nor this
	case 5:
		s.Reset()
	case 6: // what others sent
		x.w.mu.Lock()
		var again []byte
		if keys := sortedKeys(x.taped); len(keys) > 0 {
			again = x.taped[keys[rng.IntN(len(keys))]]
		}
		x.w.mu.Unlock()
		s.Write(again)
		s.CloseWrite()
	case 7: // very slowly
		for range 20 {
			if _, err := s.Write([]byte{byte(rng.Uint32())}); err != nil {
				break
			}
			time.Sleep(2 * time.Second)
		}
	}
}

// tape remembers what the other end of a stream sends.
func (x *hostile) tape(s network.Stream) {
	s.SetReadDeadline(time.Now().Add(time.Minute))
	data, _ := io.ReadAll(io.LimitReader(s, 1<<20))
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	if len(data) == 0 {
		return
	}
	x.taped[x.chance.bytes(data)] = data
	if len(x.taped) > maxTaped {
		delete(x.taped, sortedKeys(x.taped)[0])
	}
}
