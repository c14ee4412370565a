package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	secp "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/libp2p/go-libp2p/core/crypto"
)

// ErrInvalidSignature is returned for a text that is not a signature of the
// message by the key.
var ErrInvalidSignature = errors.New("invalid signature")

// ErrInvalidKey is returned for a key that is malformed or of an unsupported
// kind.
var ErrInvalidKey = errors.New("invalid public key")

// maxKeyText bounds the hex of a public key or signature. RSA with 8192 bits
// needs that much.
const maxKeyText = 2 * 1100

// PublicKey verifies signatures as JavaScript's @libp2p/crypto does.
type PublicKey struct {
	text   string
	verify func(msg, sig []byte) bool
}

// ParsePublicKey parses a public key in lower-case hex. As in JavaScript, the
// length and form of its bytes determine the kind of key:
//
//   - 32 bytes: Ed25519. Signatures are of the message itself.
//   - 33 bytes: secp256k1, compressed. Signatures are of the SHA-256 of the
//     message, in DER, with a low S.
//   - an X.509 SubjectPublicKeyInfo: RSA of 2048 to 8192 bits. Signatures are
//     PKCS #1 v1.5 with SHA-256.
//   - js-libp2p's own DER of an ECDSA key, which is not a SubjectPublicKeyInfo:
//     P-256, P-384 or P-521. Signatures are of the SHA-256 of the message, r
//     and s concatenated at full length.
//
// ParsePublicKey accepts only the form that an encoder writes, so that a key
// has one text. JavaScript also accepts other DER, and RSA keys of other sizes.
//
// Anybody can turn an ECDSA signature into a second valid one, with the other
// of the two possible values of s. JavaScript produces and accepts both, and so
// does Verify. Data signed with such a key can therefore appear twice.
func ParsePublicKey(text string) (*PublicKey, error) {
	raw, err := parseHex(text, maxKeyText)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidKey, err)
	}
	k := &PublicKey{text: text}
	switch len(raw) {
	case 32:
		err = k.libp2p(crypto.UnmarshalEd25519PublicKey, raw)
	case 33:
		err = k.libp2p(crypto.UnmarshalSecp256k1PublicKey, raw)
		verify := k.verify
		k.verify = func(msg, sig []byte) bool { return lowS(sig) && verify(msg, sig) }
	default:
		if k.verify = ecdsaVerifier(raw); k.verify == nil {
			err = k.rsa(raw)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidKey, err)
	}
	return k, nil
}

// Verify checks a signature of a message, in lower-case hex. It returns
// [ErrInvalidSignature] if the signature is invalid.
func (k *PublicKey) Verify(msg []byte, signature string) error {
	sig, err := parseHex(signature, maxKeyText)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrInvalidSignature, err)
	}
	if !k.verify(msg, sig) {
		return ErrInvalidSignature
	}
	return nil
}

// String returns the key's hex.
func (k *PublicKey) String() string { return k.text }

func (k *PublicKey) libp2p(unmarshal crypto.PubKeyUnmarshaller, raw []byte) error {
	key, err := unmarshal(raw)
	if err != nil {
		return err
	}
	k.verify = func(msg, sig []byte) bool {
		ok, err := key.Verify(msg, sig)
		return ok && err == nil
	}
	return nil
}

func (k *PublicKey) rsa(raw []byte) error {
	parsed, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		return errors.New("neither Ed25519, secp256k1, RSA nor ECDSA")
	}
	if der, err := x509.MarshalPKIXPublicKey(parsed); err != nil || !bytes.Equal(der, raw) {
		return errors.New("its DER is not canonical")
	}
	return k.libp2p(crypto.UnmarshalRsaPublicKey, raw)
}

// lowS reports whether a secp256k1 signature has the lower of its two possible
// values of S. JavaScript rejects the other; go-libp2p accepts both.
func lowS(der []byte) bool {
	sig, err := secp.ParseDERSignature(der)
	if err != nil {
		return false
	}
	s := sig.S()
	return !s.IsOverHalfOrder()
}

// ecdsaKey is js-libp2p's DER of an ECDSA public key.
type ecdsaKey struct {
	Version int
	Params  struct{ Curve asn1.ObjectIdentifier } `asn1:"tag:0"`
	Public  struct{ Point asn1.BitString }        `asn1:"tag:1"`
}

var curves = map[string]elliptic.Curve{
	"1.2.840.10045.3.1.7": elliptic.P256(),
	"1.3.132.0.34":        elliptic.P384(),
	"1.3.132.0.35":        elliptic.P521(),
}

// ecdsaVerifier returns nil if raw is not an ECDSA key.
func ecdsaVerifier(raw []byte) func(msg, sig []byte) bool {
	var parsed ecdsaKey
	rest, err := asn1.Unmarshal(raw, &parsed)
	if err != nil || len(rest) > 0 || parsed.Version != 1 {
		return nil
	}
	curve := curves[parsed.Params.Curve.String()]
	if der, err := asn1.Marshal(parsed); curve == nil || err != nil || !bytes.Equal(der, raw) {
		return nil
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, parsed.Public.Point.Bytes)
	if err != nil || parsed.Public.Point.BitLength != 8*len(parsed.Public.Point.Bytes) {
		return nil
	}
	size := (curve.Params().BitSize + 7) / 8
	return func(msg, sig []byte) bool {
		if len(sig) != 2*size {
			return false
		}
		r := new(big.Int).SetBytes(sig[:size])
		s := new(big.Int).SetBytes(sig[size:])
		hash := sha256.Sum256(msg)
		return ecdsa.Verify(key, hash[:], r, s)
	}
}

// parseHex decodes lower-case hex, the only kind that JavaScript accepts.
func parseHex(text string, maxLen int) ([]byte, error) {
	if len(text) > maxLen {
		return nil, fmt.Errorf("%d characters are more than %d", len(text), maxLen)
	}
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return nil, fmt.Errorf("%.80q is not lower-case hex", text)
		}
	}
	return hex.DecodeString(text)
}
