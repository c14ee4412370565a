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
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/orbit/value"
)

// hostile is a peer that tries to prevent agreement. Its identity may write to
// the databases to which anybody may write.
type hostile struct {
	*node
	own       *host
	databases []*database
	signer    *identity.Signer
	daemon    bool                   // it speaks the inventory
	sessions  []*inventory.Session   // of the inventory; guarded by w.mu
	served    map[string]block.Block // blocks that it serves; guarded by w.mu
	heard     []block.Block          // entries that others published; guarded by w.mu
	taped     map[digest][]byte      // data that others sent on streams; guarded by w.mu
}

// Bounds of these.
const (
	maxTaped = 64
	maxHeard = 64
)

func newHostile(w *world, name string) *hostile {
	x := &hostile{node: newNode(w, name), served: make(map[string]block.Block), taped: make(map[digest][]byte)}
	x.daemon = x.chance.text("daemon").share() < 0.5
	x.signer, _ = identity.New(x.key(rootKey), x.key(signingKey)) // the keys are valid
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
	if x.daemon {
		h.SetStreamHandler(inventory.Protocol, x.answerInventory)
	}
	h.swap.serve(func(c cid.Cid) (blocks.Block, bool) {
		x.w.mu.Lock()
		defer x.w.mu.Unlock()
		hash, _ := block.HashOf(c)
		found, err := x.served[hash].IPFS()
		if err != nil { // it sends other bytes
			found, err = blocks.NewBlockWithCid([]byte("something else"), c)
		}
		return found, err == nil
	})
	for _, b := range x.databases {
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

// attack performs a random attack.
func (x *hostile) attack(rng *rand.Rand) {
	b := x.databases[rng.IntN(len(x.databases))]
	switch rng.IntN(14) {
	case 0:
		x.publish(b, noise(rng))
	case 1, 2:
		x.dial(b, rng)
	case 3: // many streams
		for range 40 {
			x.dial(b, rng)
		}
	case 4: // published entries, to another database, and modified
		x.w.mu.Lock()
		heard := slices.Clone(x.heard)
		x.w.mu.Unlock()
		if len(heard) > 0 {
			e := heard[rng.IntN(len(heard))]
			x.offer(b, rng, e, changed(e))
		}
	case 5: // an entry of another log
		x.offer(b, rng, x.entry(block.Hash(noise(rng)), rng))
	case 6: // an entry whose identity no peer has
		e := x.entry(b.address, rng)
		x.offer(b, rng, block.New(bytes.ReplaceAll(e.Data, []byte(x.signer.Hash()), []byte(block.Hash(noise(rng))))))
	case 7: // an entry whose parents no peer has
		if b.guard == open {
			b.orphans++
		}
		x.offer(b, rng, x.entry(b.address, rng, block.Hash(noise(rng)), block.Hash(noise(rng))))
	case 8: // an entry whose parent is available later
		parent := x.entry(b.address, rng)
		if b.guard == open {
			b.orphans++
		}
		x.offer(b, rng, x.entry(b.address, rng, parent.Hash))
		time.Sleep(time.Duration(rng.Int64N(int64(time.Minute))))
		x.serve(parent)
	case 10, 11: // published entries, unmodified, to a peer that may not know the grant of the writer
		x.w.mu.Lock()
		heard := slices.Clone(x.heard)
		x.w.mu.Unlock()
		if len(heard) == 0 {
			return
		}
		x.serve(heard...)
		genuine := heard[rng.IntN(len(heard))]
		if e, err := entry.Decode(genuine); err == nil {
			x.offer(&database{address: e.LogID}, rng, genuine)
		}
	case 12:
		x.beginSessions(rng)
	case 13:
		x.tellLies(rng)
	case 9: // a valid entry
		e := x.entry(b.address, rng)
		x.serve(e, x.signer.Block())
		x.offer(b, rng, e)
	}
}

// noise returns random bytes.
func noise(rng *rand.Rand) []byte {
	b := make([]byte, 1+rng.IntN(300))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// changed returns an entry with another payload, so that its signature is
// invalid.
func changed(e block.Block) block.Block {
	data := bytes.Clone(e.Data)
	if i := bytes.Index(data, []byte("value")); i >= 0 {
		copy(data[i:], "valux")
	}
	return block.New(data)
}

// entry returns an entry with the given parents.
func (x *hostile) entry(address string, rng *rand.Rand, parents ...string) block.Block {
	var heads []entry.Position
	for _, hash := range parents {
		heads = append(heads, entry.Position{Rank: entry.Rank{Time: float64(rng.IntN(50))}, ID: strings.Repeat("02", 33), Hash: hash})
	}
	payload, _ := value.FromJSON(fmt.Appendf(nil, `{"op":"PUT","key":"key %d","value":"%x"}`, rng.IntN(12), rng.Uint64())) // it is valid JSON
	e, err := entry.New(x.signer, address, payload, heads, nil)
	if err != nil {
		panic(err)
	}
	return e.Block
}

// serve serves blocks.
func (x *hostile) serve(bs ...block.Block) {
	x.w.mu.Lock()
	for _, b := range bs {
		x.served[b.Hash] = b
	}
	x.w.mu.Unlock()
	for _, b := range bs {
		if found, err := b.IPFS(); err == nil {
			x.own.swap.NotifyNewBlocks(x.own.ctx, found)
		}
	}
}

// offer publishes entries, or sends them as heads.
func (x *hostile) offer(b *database, rng *rand.Rand, es ...block.Block) {
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

func (x *hostile) publish(b *database, data []byte) {
	x.own.pubsub.Announce(x.own.ctx, b.address, data)
}

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
func (x *hostile) dial(b *database, rng *rand.Rand) {
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
		time.Sleep(time.Duration(own.Int64N(int64(time.Second)))) // no two pauses are the same
		ctx, cancel := context.WithTimeout(x.own.ctx, time.Minute)
		defer cancel()
		if s, err := x.own.NewStream(network.WithNoDial(ctx, "it is connected"), victim.id, p); err == nil {
			x.misbehave(s, own)
		}
	}()
}

// misbehave does something unexpected on a stream.
func (x *hostile) misbehave(s network.Stream, rng *rand.Rand) {
	go x.tape(s)
	switch rng.IntN(8) {
	case 0:
		s.Write(noise(rng))
		s.CloseWrite()
	case 1: // a text of two gigabytes, or its beginning
		s.Write([]byte{0x7a, 0x7f, 0xff, 0xff, 0xff})
		endless := rng.IntN(20) == 0
		for frame := bytes.Repeat([]byte{'x'}, maxFrame); endless || rng.IntN(8) > 0; {
			if _, err := s.Write(frame); err != nil {
				break
			}
		}
	case 2: // an incomplete entry
		e := x.entry(x.databases[rng.IntN(len(x.databases))].address, rng)
		s.Write(e.Data[:rng.IntN(len(e.Data))])
		s.CloseWrite()
	case 3: // the beginning of an array, and nothing else
		s.Write([]byte{0x83})
	case 4: // nothing
	case 5:
		s.Reset()
	case 6: // data that others sent
		x.w.mu.Lock()
		var again []byte
		if keys := sortedKeys(x.taped); len(keys) > 0 {
			again = x.taped[keys[rng.IntN(len(keys))]]
		}
		x.w.mu.Unlock()
		s.Write(again)
		s.CloseWrite()
	case 7: // single bytes, slowly
		for range 20 {
			if _, err := s.Write([]byte{byte(rng.Uint32())}); err != nil {
				break
			}
			time.Sleep(2 * time.Second)
		}
	}
}

// tape records the data that the other end of a stream sends.
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
