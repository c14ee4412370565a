package identity

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// Keystore stores private keys by name. The keystore of boxo implements it.
type Keystore interface {
	Has(name string) (bool, error)
	Get(name string) (crypto.PrivKey, error)
	Put(name string, key crypto.PrivKey) error
}

// Load returns the identity of the two named keys of a keystore.
func Load(ks Keystore, rootName, signingName string) (*Signer, error) {
	root, err := ks.Get(rootName)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", rootName, err)
	}
	signing, err := ks.Get(signingName)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", signingName, err)
	}
	return New(root, signing)
}

// Generate stores a new secp256k1 key in a keystore.
func Generate(ks Keystore, name string) error {
	key, _, err := crypto.GenerateSecp256k1Key(rand.Reader)
	if err != nil {
		return err
	}
	return ks.Put(name, key)
}

func publicHex(key crypto.PrivKey) (string, error) {
	switch key.Type() {
	case crypto.Secp256k1, crypto.Ed25519:
	default:
		return "", fmt.Errorf("%w: it is %v, and must be secp256k1 or Ed25519", ErrInvalidKey, key.Type())
	}
	raw, err := key.GetPublic().Raw()
	return hex.EncodeToString(raw), err
}

func signHex(key crypto.PrivKey, msg []byte) (string, error) {
	sig, err := key.Sign(msg)
	return hex.EncodeToString(sig), err
}
