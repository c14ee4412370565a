package sim

import (
	"context"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
)

// lies is the inventory of a hostile peer: it claims all databases of which the
// peer knows the address, with states that change each time. It implements
// [inventory.Catalog] and [inventory.Handler].
type lies struct{ x *hostile }

// keyOf returns the key of a database.
func keyOf(b *database) inventory.Key {
	hash, _ := manifest.ParseAddress(b.address) // the address is valid
	key, _ := block.Digest(hash)
	return key
}

func (l lies) Len() int { return len(l.x.databases) }

func (l lies) Keys() iter.Seq[inventory.Key] {
	return func(yield func(inventory.Key) bool) {
		for _, b := range l.x.databases {
			if !yield(keyOf(b)) {
				return
			}
		}
	}
}

func (l lies) State(_ context.Context, k inventory.Key) (s inventory.State) {
	binary.BigEndian.PutUint64(s[:], l.x.w.now("state").bytes(k[:]).mixed())
	return s
}

func (lies) Common(inventory.Key, inventory.State)                 {}
func (lies) Changed(inventory.Key, inventory.State, []block.Block) {}
func (lies) Gone(inventory.Key)                                    {}

// inventory returns the configuration of a session.
func (x *hostile) inventory() inventory.Config {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], x.w.now("nonce").text(x.name).mixed())
	return inventory.Config{Catalog: lies{x}, Handler: lies{x}, Passes: inventory.NewPasses(), Rand: rand.NewChaCha8(seed)}
}

// maxSessions bounds the sessions in which a hostile peer lies later.
const maxSessions = 16

// run runs a session, in which the peer lies later.
func (x *hostile) run(s *inventory.Session) {
	x.w.mu.Lock()
	x.sessions = append(x.sessions, s)
	x.sessions = x.sessions[max(0, len(x.sessions)-maxSessions):]
	x.w.mu.Unlock()
	s.Run(x.own.ctx)
}

// beginSessions begins sessions with a victim, which may be too many.
func (x *hostile) beginSessions(rng *rand.Rand) {
	victim, ok := x.victim(rng)
	if !ok || !x.own.knows(victim.id, inventory.Protocol) {
		return
	}
	for range 1 + rng.IntN(40) {
		if s, err := inventory.Open(x.own.ctx, x.own, victim.id, x.inventory()); err == nil {
			go x.run(s)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(time.Second))))
	}
}

// tellLies tells states that change again and again, asks for states, and sends
// entries that are invalid or of other databases, in a random session.
func (x *hostile) tellLies(rng *rand.Rand) {
	x.w.mu.Lock()
	var s *inventory.Session
	if n := len(x.sessions); n > 0 {
		s = x.sessions[rng.IntN(n)]
	}
	x.w.mu.Unlock()
	if s == nil {
		return
	}
	for range 1 + rng.IntN(60) {
		b := x.databases[rng.IntN(len(x.databases))]
		k := keyOf(b)
		switch rng.IntN(4) {
		case 0:
			s.Ask(k)
		case 1:
			s.Remove(k)
			s.Add(k)
		default:
			s.Tell(k, lies{x}.State(x.own.ctx, k), x.falseEntries(b, rng))
		}
		time.Sleep(time.Duration(rng.Int64N(int64(time.Second))))
	}
}

// falseEntries returns entries that do not belong to a database, or lack
// something.
func (x *hostile) falseEntries(b *database, rng *rand.Rand) (all []block.Block) {
	other := x.databases[rng.IntN(len(x.databases))]
	switch rng.IntN(4) {
	case 0:
		all = append(all, x.entry(other.address, rng))
	case 1:
		all = append(all, changed(x.entry(b.address, rng)))
	case 2:
		all = append(all, block.New(noise(rng)))
	}
	return all
}

// answerInventory answers a session of the inventory, or reads nothing.
func (x *hostile) answerInventory(s network.Stream) {
	if x.w.now("mute").text(string(s.Conn().RemotePeer())).share() < 0.2 {
		<-x.own.ctx.Done()
		return
	}
	x.run(inventory.Accept(s, x.inventory()))
}
