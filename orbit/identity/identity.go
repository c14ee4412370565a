// Package identity is OrbitDB's identities: who may write, and the keys that
// sign what they write.
//
// An identity has two keys. The root key is the writer: its public key in
// lower-case hex is the identity's ID, which write lists name. The signing key
// signs entries. The identity block ties them together: the signing key has
// signed the ID, and the root key has signed the signing key's hex with that
// signature's hex behind it, so that neither can be claimed without its owner.
// Entries name the block by its hash, and every reader needs it.
//
// The block is dag-cbor of { id, type, publicKey, signatures: { id, publicKey }
// }, all of them texts, as @orbitdb/core writes it; the one type is
// "publickey", its built-in provider.
//
// # Cost
//
// [Decode] reads and hashes a block of another peer, whose size the caller bounds, in
// proportion to that size. A key or a signature of more than 2200 characters, which is
// RSA of 8192 bits, is refused before it is decoded, so an identity has some 9 KiB at
// most and is held twice, as texts and as a block. Decode verifies two signatures.
// Each takes about as long as any of that kind of key: P-521 is the slowest one. Who
// keeps identities, and how many, is up to the caller. Nothing is written to disk.
package identity

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

// Type is the identity type of OrbitDB's publickey provider.
const Type = "publickey"

// ErrInvalid says that a block is no identity, or one whose signatures do not
// hold.
var ErrInvalid = errors.New("invalid identity")

// Signatures are in lower-case hex.
type Signatures struct {
	ID        string // of the ID, by the signing key
	PublicKey string // of PublicKey and Signatures.ID, by the root key
}

// Identity is a verified identity.
type Identity struct {
	ID         string // root public key, lower-case hex
	PublicKey  string // signing public key, lower-case hex
	Signatures Signatures

	block block.Block
	key   *PublicKey
}

// Block returns the identity's block, whose hash entries name.
func (i *Identity) Block() block.Block { return i.block }

// Hash returns the hash of the identity's block.
func (i *Identity) Hash() string { return i.block.Hash }

// Verify checks a signature in lower-case hex by the identity's signing key.
func (i *Identity) Verify(msg []byte, signature string) error {
	return i.key.Verify(msg, signature)
}

// Decode reads an identity block and checks its signatures. It takes nothing
// but the encoding that [New] makes: JavaScript also takes a block with further
// fields, but goes by the hash of one without, so there is no need for them,
// and with them anybody could make more blocks of one identity.
func Decode(b block.Block) (*Identity, error) {
	i, err := decode(b.Data)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %v", ErrInvalid, b.Hash, err)
	}
	if i.block = block.New(i.encode()); i.block.Hash != b.Hash {
		return nil, fmt.Errorf("%w %s: not encoded as OrbitDB does", ErrInvalid, b.Hash)
	}
	if err := i.check(); err != nil {
		return nil, fmt.Errorf("%w %s: %v", ErrInvalid, b.Hash, err)
	}
	return i, nil
}

func decode(data []byte) (*Identity, error) {
	r := dagcbor.NewReader(data)
	i := new(Identity)
	var kind string
	err := readTexts(r, map[string]any{
		"id":        &i.ID,
		"type":      &kind,
		"publicKey": &i.PublicKey,
		"signatures": map[string]any{
			"id":        &i.Signatures.ID,
			"publicKey": &i.Signatures.PublicKey,
		},
	})
	if err == nil {
		err = r.End()
	}
	if err == nil && kind != Type {
		err = fmt.Errorf("type %.40q is not known", kind)
	}
	return i, err
}

// readTexts reads a map of just these fields: texts, or maps of the same kind.
func readTexts(r *dagcbor.Reader, fields map[string]any) error {
	n, err := r.Map()
	if err != nil {
		return err
	}
	if n != len(fields) {
		return fmt.Errorf("%d fields, want %d", n, len(fields))
	}
	for range n {
		name, err := r.Text()
		if err != nil {
			return err
		}
		switch field := fields[name].(type) {
		case *string:
			*field, err = r.Text()
		case map[string]any:
			err = readTexts(r, field)
		default:
			err = fmt.Errorf("unknown field %.40q", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *Identity) encode() []byte {
	b := dagcbor.AppendMap(nil, 4)
	b = dagcbor.AppendText(b, "id")
	b = dagcbor.AppendText(b, i.ID)
	b = dagcbor.AppendText(b, "type")
	b = dagcbor.AppendText(b, Type)
	b = dagcbor.AppendText(b, "publicKey")
	b = dagcbor.AppendText(b, i.PublicKey)
	b = dagcbor.AppendText(b, "signatures")
	b = dagcbor.AppendMap(b, 2)
	b = dagcbor.AppendText(b, "id")
	b = dagcbor.AppendText(b, i.Signatures.ID)
	b = dagcbor.AppendText(b, "publicKey")
	return dagcbor.AppendText(b, i.Signatures.PublicKey)
}

func (i *Identity) check() (err error) {
	if i.key, err = ParsePublicKey(i.PublicKey); err != nil {
		return fmt.Errorf("publicKey: %w", err)
	}
	root, err := ParsePublicKey(i.ID)
	if err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if err := i.key.Verify([]byte(i.ID), i.Signatures.ID); err != nil {
		return fmt.Errorf("signatures.id: %w", err)
	}
	msg := []byte(i.PublicKey + i.Signatures.ID)
	if err := root.Verify(msg, i.Signatures.PublicKey); err != nil {
		return fmt.Errorf("signatures.publicKey: %w", err)
	}
	return nil
}

// Signer is an identity with its signing key.
type Signer struct {
	*Identity

	key crypto.PrivKey
}

// New makes the identity of two private keys, which may be the same. They must
// be secp256k1 or Ed25519 ([ErrInvalidKey]): the same keys always make the same
// block.
func New(root, signing crypto.PrivKey) (*Signer, error) {
	s := &Signer{new(Identity), signing}
	var err error
	if s.ID, err = publicHex(root); err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	if s.PublicKey, err = publicHex(signing); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if s.Signatures.ID, err = signHex(signing, []byte(s.ID)); err != nil {
		return nil, err
	}
	if s.Signatures.PublicKey, err = signHex(root, []byte(s.PublicKey+s.Signatures.ID)); err != nil {
		return nil, err
	}
	s.block = block.New(s.encode())
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// Sign returns the signing key's signature of a message in lower-case hex.
func (s *Signer) Sign(msg []byte) (string, error) { return signHex(s.key, msg) }
