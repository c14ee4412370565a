package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// In a history with many databases, the daemons of this version have most of
// them; the others have some of the first ones, which the hostile peers know as
// well.

// maxShared bounds the databases of all peers but the daemons of this version.
const maxShared = 24

// unknownOfMany is what the replicas do not know, in their order.
var unknownOfMany = map[int]string{1: javaScript, 2: earlier}

// shared returns the databases that all peers may have.
func (s *history) shared() []*database { return s.databases[:min(len(s.databases), maxShared)] }

// drawManyDatabases draws databases of all types, a tenth of them managed.
func (s *history) drawManyDatabases(rng *rand.Rand, n int) {
	guards := append(slices.Repeat([]guard{open}, 6), fixed, fixed, fixed, managed)
	for i := range n {
		s.drawDatabase(rng, fmt.Sprint("d", i), kinds[rng.IntN(len(kinds))], guards[rng.IntN(len(guards))])
	}
}

// drawManyOpens draws which replica opens which database: most at the beginning.
func (s *history) drawManyOpens(rng *rand.Rand) {
	shared := s.shared()
	for i, b := range s.databases {
		for _, r := range s.replicas {
			if opens := b.needs(r) || rng.IntN(5) > 0; !opens || r.unknown != "" && i >= len(shared) {
				continue
			}
			at := time.Duration(rng.Float64() * float64(5*time.Second))
			if rng.IntN(5) == 0 {
				at = time.Duration(rng.Float64() * float64(s.lasts) / 2)
			}
			s.after(at, "open "+b.name+" at "+r.name, func() { r.open(b) })
		}
	}
}
