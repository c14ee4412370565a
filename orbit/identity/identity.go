// Package identity implements OrbitDB's identities: the writers of entries and
// the keys with which they sign.
//
// An identity has two key pairs. The root key identifies the writer: its public
// key in lower-case hex is the identity's ID, which access lists contain. The
// signing key signs entries. The identity block binds them to each other: the
// signing key signs the ID, and the root key signs the concatenation of the
// signing key's hex and the hex of that signature. Nobody can claim either key
// without owning it. Entries name the block by its CID, and every reader needs
// it.
//
// The block is dag-cbor of { id, type, publicKey, signatures: { id, publicKey }
// }, all of which are texts, as @orbitdb/core writes it. The only type is
// "publickey", the built-in provider of @orbitdb/core.
//
// # Cost
//
// [Decode] reads and hashes a block from a peer in time proportional to its
// size, which the caller bounds. It rejects a key or a signature of more than
// 2200 characters, the size of RSA with 8192 bits, before decoding it. An
// identity therefore has at most about 9 KiB, and is held twice, as texts and
// as a block. Decode verifies two signatures; P-521 is the slowest kind. The
// caller bounds the number of identities that it holds. Nothing is written to
// disk.
package identity

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// Type is the type of identities that OrbitDB's publickey provider makes.
const Type = "publickey"

// ErrInvalid is returned for a block that is not an identity, or whose
// signatures are invalid.
var ErrInvalid = errors.New("invalid identity")

// Signatures are the two signatures of an identity block, in lower-case hex.
type Signatures struct {
	ID        string // by the signing key, of the ID
	PublicKey string // by the root key, of PublicKey and Signatures.ID
}

// Identity is a verified identity.
type Identity struct {
	ID         string // root public key, lower-case hex
	PublicKey  string // signing public key, lower-case hex
	Signatures Signatures

	block block.Block
	key   *PublicKey
}

// Block returns the identity's block.
func (i *Identity) Block() block.Block { return i.block }

// Hash returns the hash of the identity's block, by which entries name it.
func (i *Identity) Hash() string { return i.block.Hash }

// Verify checks a signature, in lower-case hex, by the identity's signing key.
// It returns [ErrInvalidSignature] if the signature is invalid.
func (i *Identity) Verify(msg []byte, signature string) error {
	return i.key.Verify(msg, signature)
}

// Decode reads an identity block and verifies its signatures. It accepts only
// the encoding that [New] produces. JavaScript also accepts a block with
// further fields, but names it by the hash of the block without them. Such
// blocks are not needed, and would let anybody make several blocks of one
// identity.
func Decode(b block.Block) (*Identity, error) {
	i, err := decode(b.Data)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %v", ErrInvalid, b.Hash, err)
	}
	if i.block = block.New(i.encode()); i.block.Hash != b.Hash {
		return nil, fmt.Errorf("%w %s: not encoded as OrbitDB encodes it", ErrInvalid, b.Hash)
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
		err = fmt.Errorf("unknown type %.40q", kind)
	}
	return i, err
}

// readTexts reads a map of exactly these fields: texts, or maps of texts.
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

// New returns the identity of two private keys, which may be the same key. Both
// must be secp256k1 or Ed25519 ([ErrInvalidKey]), whose signatures are
// deterministic, so the same keys always make the same block.
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

// Sign returns the signature of a message by the signing key, in lower-case
// hex.
func (s *Signer) Sign(msg []byte) (string, error) { return signHex(s.key, msg) }
