package sim

import (
	"cmp"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
)

// digest is a hash of the purpose of a random number, and determines the
// number.
type digest uint64

const prime digest = 1099511628211 // of FNV-1a

var checksums = crc32.MakeTable(crc32.Castagnoli) // processors have an instruction for it

func (d digest) bytes(b []byte) digest {
	return d.number(int64(crc32.Checksum(b, checksums))<<32 | int64(len(b)))
}

func (d digest) text(s string) digest {
	for i := range len(s) {
		d = (d ^ digest(s[i])) * prime
	}
	return d.number(int64(len(s)))
}

func (d digest) number(n int64) digest {
	return digest((d ^ digest(n)*0x9e3779b97f4a7c15).mixed())
}

// mixed returns a number whose bits each depend on all bits of the digest.
func (d digest) mixed() uint64 {
	z := uint64(d) + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// rng returns a generator of random numbers.
func (d digest) rng() *rand.Rand { return rand.New(rand.NewPCG(d.mixed(), uint64(d))) }

// share returns a number from 0 to 1.
func (d digest) share() float64 { return float64(d.mixed()>>11) / (1 << 53) }

// sortedKeys returns the keys of a map in ascending order, which is not random.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
