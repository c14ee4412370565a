package inventory

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"
)

type (
	nonce [16]byte

	// tag stands for a database in one direction of one session. Whoever does
	// not know the key learns nothing from it.
	tag [16]byte
)

// newNonce reads a nonce from a source that never fails, or from crypto/rand if
// the source is nil.
func newNonce(source io.Reader) (n nonce) {
	if source == nil {
		source = rand.Reader
	}
	io.ReadFull(source, n[:])
	return n
}

// domain separates the keys of connections from other hashes.
const domain = "npp inventory 1.0.0"

// side is a peer of a session and the nonce in its hello.
type side struct {
	id    peer.ID
	nonce nonce
}

// connection computes the tags of a session.
type connection struct {
	key   [sha256.Size]byte
	lower bool // this side has the lower peer ID
}

func newConnection(ours, theirs side) connection {
	lower := ours.id < theirs.id
	if !lower {
		ours, theirs = theirs, ours
	}
	b := []byte(domain)
	for _, s := range []side{ours, theirs} {
		b = binary.AppendUvarint(b, uint64(len(s.id)))
		b = append(b, s.id...)
		b = append(b, s.nonce[:]...)
	}
	return connection{sha256.Sum256(b), lower}
}

// ours returns the tags that this side sends, and theirs those of the peer.
func (c connection) ours() *tagger   { return c.tagger(c.lower) }
func (c connection) theirs() *tagger { return c.tagger(!c.lower) }

func (c connection) tagger(lower bool) *tagger {
	t := &tagger{mac: hmac.New(sha256.New, c.key[:])}
	if !lower {
		t.in[0] = 1
	}
	return t
}

// tagger computes tags of one direction, one at a time.
type tagger struct {
	mac hash.Hash
	in  [1 + len(Key{})]byte
	out [sha256.Size]byte
}

func (t *tagger) of(k Key) tag {
	t.mac.Reset()
	copy(t.in[1:], k[:])
	t.mac.Write(t.in[:])
	return tag(t.mac.Sum(t.out[:0]))
}

// is reports whether a tag is that of a database.
func (t *tagger) is(proof tag, k Key) bool {
	want := t.of(k)
	return hmac.Equal(proof[:], want[:])
}
