package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/store/storetest"
)

// size is the size of a history.
type size struct {
	replicas   int // at least
	operations int
	databases  int // 0: one of each type
}

// history is a sequence of events that happen to the replicas of some
// databases.
type history struct {
	*world
	replicas   []*replica
	owners     []*replica // those that create and administer databases
	hostiles   []*hostile
	links      []*link
	databases  []*database
	lasts      time.Duration
	healing    bool // everything is being healed
	ended      bool
	violations []error // violated conditions
}

// newHistory draws a history.
func newHistory(seed uint64, n size) *history {
	s := &history{world: newWorld(seed)}
	rng := s.chance.text("history").rng()
	s.lasts = time.Duration(float64(3*time.Minute) * (1 + 9*rng.Float64()*rng.Float64()))
	old := []float64{0, 1. / 3, 1. / 3, 1}[rng.IntN(4)]
	for i := range n.replicas + rng.IntN(3) {
		r := &replica{node: newNode(s.world, fmt.Sprint("r", i)), disk: storetest.NewDisk()}
		if n.databases > 0 {
			r.unknown = unknownOfMany[i]
		} else if rng.Float64() < old {
			r.unknown = []string{javaScript, earlier}[rng.IntN(2)]
		}
		s.replicas = append(s.replicas, r)
		if n.databases == 0 || r.unknown == "" {
			s.owners = append(s.owners, r)
		}
		if i > 0 {
			s.link(r.node, s.replicas[rng.IntN(i)].node)
		}
	}
	for range n.replicas / 2 {
		s.link(s.anyReplica(rng).node, s.anyReplica(rng).node)
	}
	hostiles := 1
	if n.databases > 0 {
		s.drawManyDatabases(rng, n.databases)
	} else {
		s.drawDatabases(rng)
		hostiles += rng.IntN(3)
	}
	for i := range hostiles {
		x := newHostile(s.world, fmt.Sprint("x", i))
		x.databases = s.shared()
		s.hostiles = append(s.hostiles, x)
		for range 2 + rng.IntN(3) {
			s.link(x.node, s.anyReplica(rng).node)
		}
	}
	s.drawOperations(rng, n.operations)
	if n.databases > 0 {
		s.drawManyOpens(rng)
	} else {
		s.drawOpens(rng)
	}
	return s
}

func (s *history) anyReplica(rng *rand.Rand) *replica { return s.replicas[rng.IntN(len(s.replicas))] }
func (s *history) anyOwner(rng *rand.Rand) *replica   { return s.owners[rng.IntN(len(s.owners))] }

// link links two nodes, unless they are the same or linked.
func (s *history) link(a, b *node) {
	if a != b && !linked(a, b) {
		s.links = append(s.links, newLink(a, b))
	}
}

// drawDatabases draws a database of each type, each with another guard.
func (s *history) drawDatabases(rng *rand.Rand) {
	guards := rng.Perm(3)
	for i, kind := range kinds {
		s.drawDatabase(rng, kind, kind, guard(guards[i]))
	}
}

var kinds = []string{orbit.TypeEvents, orbit.TypeDocuments, orbit.TypeKeyValue}

// drawDatabase draws who creates, administers and writes to a database.
func (s *history) drawDatabase(rng *rand.Rand, name, kind string, g guard) {
	b := &database{name: name, kind: kind, guard: g, creator: s.anyOwner(rng), written: make(map[string]bool)}
	b.admins = []*replica{b.creator, s.anyOwner(rng)}
	b.writers = []*replica{b.creator}
	for len(b.writers) < min(5, len(s.owners)) {
		if r := s.anyOwner(rng); !slices.Contains(b.writers, r) {
			b.writers = append(b.writers, r)
		}
	}
	s.databases = append(s.databases, b)
}

// operations are the possible operations, with their relative frequency.
var operations = map[string]int{
	"write": 60, "attack": 30, "cut": 8, "kill": 4, "restart": 3, "grant": 5,
	"revoke": 4, "kill while it writes": 4, "kill while its disk fails": 3, "close": 2, "split": 1,
}

// drawOperations draws the operations and their times, in bursts.
func (s *history) drawOperations(rng *rand.Rand, n int) {
	var deck []string
	for _, what := range sortedKeys(operations) {
		deck = append(deck, slices.Repeat([]string{what}, operations[what])...)
	}
	bursts := make([]float64, 4+rng.IntN(8))
	for i := range bursts {
		bursts[i] = rng.Float64()
	}
	for i := range n {
		at := time.Duration(bursts[rng.IntN(len(bursts))]*float64(s.lasts)) + time.Duration(rng.ExpFloat64()*float64(3*time.Second))
		s.plan(s.begun.Add(min(at, s.lasts)+time.Second+time.Duration(i)), s.chance.text("operation").number(int64(i)), deck[rng.IntN(len(deck))])
	}
}

// drawOpens draws which replica opens which database, and when.
func (s *history) drawOpens(rng *rand.Rand) {
	for i, b := range s.databases {
		for _, r := range s.replicas {
			switch {
			case b.needs(r) || rng.IntN(2) == 0:
				s.after(time.Duration(i+1)*time.Millisecond, "open "+b.name+" at "+r.name, func() { r.open(b) })
			case rng.IntN(3) > 0:
				s.after(time.Duration(rng.Float64()*float64(s.lasts)/2), "open "+b.name+" at "+r.name, func() { r.open(b) })
			}
		}
	}
}

// plan schedules an operation.
func (s *history) plan(at time.Time, chance digest, what string) {
	s.world.plan(at, chance, what, func() {
		if !s.healing || what == "attack" {
			go s.operate(what, chance.rng())
		}
	})
}

// after schedules an event after a delay.
func (s *history) after(d time.Duration, what string, do func()) {
	key := s.now(what)
	s.world.plan(time.Now().Add(d+key.between(0, time.Millisecond)), key, what, func() { go do() })
}

// operate performs an operation.
func (s *history) operate(what string, rng *rand.Rand) {
	r, b := s.anyReplica(rng), s.databases[rng.IntN(len(s.databases))]
	if many := len(r.opens); many > len(kinds) {
		b = r.opens[rng.IntN(many)]
	}
	switch what {
	case "write":
		for range 1 + rng.IntN(3) {
			s.write(r, b, digest(rng.Uint64()))
		}
	case "attack":
		s.hostiles[rng.IntN(len(s.hostiles))].attack(rng)
	case "cut":
		s.cut(rng, s.links[rng.IntN(len(s.links))])
	case "split":
		s.split(rng)
	case "kill":
		r.kill(rng)
		s.restart(r, rng)
	case "kill while it writes":
		r.disk.FailAfter(1+rng.IntN(3), storetest.Lasting)
		s.write(r, b, digest(rng.Uint64()))
		r.kill(rng)
		s.restart(r, rng)
	case "kill while its disk fails":
		r.disk.FailAfter(1+rng.IntN(30), storetest.Lasting)
		s.after(time.Duration(rng.Int64N(int64(10*time.Second))), "kill "+r.name, func() {
			r.kill(rng)
			s.restart(r, rng)
		})
	case "restart":
		r.stop()
		s.restart(r, rng)
	case "close":
		if n := r.running; n != nil {
			n.repl.CloseDatabase(context.Background(), b.address) // fails if it is not open
			s.after(time.Duration(rng.Int64N(int64(time.Minute))), "open again at "+r.name, func() {
				if slices.Contains(r.opens, b) {
					r.open(b)
				}
			})
		}
	case "grant":
		s.grant(rng, r)
	case "revoke":
		s.revoke(rng, r)
	}
}

// write writes at a replica, if it has the database. An entry that is reported
// to be on disk must be everywhere in the end.
func (s *history) write(r *replica, b *database, chance digest) {
	n, db := r.running, r.database(b)
	if db == nil {
		return
	}
	hash, err := write(db, chance)
	switch {
	case err == nil && b.guard != managed && !b.mayWrite(r):
		s.violate(fmt.Errorf("%s wrote to %s, which it may not", r.name, b.name))
	case errors.Is(err, orbit.ErrNotAllowed) && b.mayWrite(r):
		s.violate(fmt.Errorf("%s cannot write to %s: %w", r.name, b.name, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(s.now("wrote").text(r.name).text(hash), fmt.Sprint(r.name, " wrote ", hash, " ", err))
	if err == nil && !n.killed {
		b.written[hash] = true
	}
}

// administered calls change with each managed database, at one of its admins.
func (s *history) administered(rng *rand.Rand, change func(b *database, db *orbit.Database)) {
	for _, b := range s.databases {
		if b.guard != managed {
			continue
		}
		if db := b.admins[rng.IntN(len(b.admins))].database(b); db != nil {
			change(b, db)
		}
	}
}

// grant grants a replica the right to write.
func (s *history) grant(rng *rand.Rand, to *replica) {
	s.administered(rng, func(_ *database, db *orbit.Database) {
		if to.running != nil {
			db.Access().Grant(context.Background(), orbit.CapabilityWrite, to.orbit.Identity().ID) // fails if the disk does
		}
	})
}

// revoke revokes the right of a replica to write, with or without retaining its
// entries.
func (s *history) revoke(rng *rand.Rand, from *replica) {
	s.administered(rng, func(_ *database, db *orbit.Database) {
		if from.running == nil {
			return
		}
		revoke := db.Access().Revoke
		if rng.IntN(2) == 0 {
			revoke = db.Access().Discard
		}
		revoke(context.Background(), orbit.CapabilityWrite, from.orbit.Identity().ID) // fails if the disk does
	})
}

// cut cuts links, and heals them later.
func (s *history) cut(rng *rand.Rand, links ...*link) {
	for _, l := range links {
		l.setCut(true)
	}
	s.after(time.Duration(rng.Int64N(int64(s.lasts/4))), "heal", func() {
		for _, l := range links {
			l.setCut(false)
		}
	})
}

// split partitions the nodes into two or three groups, and heals them later.
func (s *history) split(rng *rand.Rand) {
	groups := 2 + rng.IntN(2)
	group := make(map[*node]int)
	var between []*link
	for _, l := range s.links {
		for _, n := range l.nodes {
			if _, ok := group[n]; !ok {
				group[n] = rng.IntN(groups)
			}
		}
		if group[l.nodes[0]] != group[l.nodes[1]] {
			between = append(between, l)
		}
	}
	s.cut(rng, between...)
}

// restart starts a stopped replica after a delay.
func (s *history) restart(r *replica, rng *rand.Rand) {
	s.after(time.Duration(rng.Int64N(int64(time.Minute))), "start "+r.name, func() { s.start(r) })
}

func (s *history) start(r *replica) {
	if r.running != nil || s.ended {
		return
	}
	if err := r.start(); err != nil {
		s.violate(err)
	}
}

// violate notes a violated condition.
func (s *history) violate(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, err)
}
