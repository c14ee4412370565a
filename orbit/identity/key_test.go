package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	dcr "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"github.com/newpieceplease/npp/orbit/identity"
)

// key is a key in JavaScript's form.
type key struct {
	name   string
	public []byte
	sign   func(msg []byte) []byte
}

func (k key) text() string              { return hex.EncodeToString(k.public) }
func (k key) signHex(msg string) string { return hex.EncodeToString(k.sign([]byte(msg))) }

// made returns the identity of two keys.
func made(root, signing key) fields {
	f := fields{id: root.text(), kind: identity.Type, publicKey: signing.text(), sigID: signing.signHex(root.text())}
	f.sigKey = root.signHex(f.publicKey + f.sigID)
	return f
}

func secpKey() key {
	k, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		panic(err)
	}
	return key{"secp256k1", k.PubKey().SerializeCompressed(), func(msg []byte) []byte {
		hash := sha256.Sum256(msg)
		return dcr.Sign(k, hash[:]).Serialize()
	}}
}

func ed25519Key() key {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key{"Ed25519", public, func(msg []byte) []byte { return ed25519.Sign(private, msg) }}
}

func rsaKey(bits int) key {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	public, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic(err)
	}
	return key{"RSA", public, func(msg []byte) []byte {
		hash := sha256.Sum256(msg)
		sig, err := rsa.SignPKCS1v15(nil, k, crypto.SHA256, hash[:])
		if err != nil {
			panic(err)
		}
		return sig
	}}
}

// publicECDSA returns js-libp2p's DER of a point.
func publicECDSA(version int, curve asn1.ObjectIdentifier, point []byte) []byte {
	der, err := asn1.Marshal(struct {
		Version int
		Curve   []asn1.ObjectIdentifier `asn1:"tag:0"`
		Point   []asn1.BitString        `asn1:"tag:1"`
	}{version, []asn1.ObjectIdentifier{curve}, []asn1.BitString{{Bytes: point, BitLength: 8 * len(point)}}})
	if err != nil {
		panic(err)
	}
	return der
}

var (
	oid256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oid384 = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oid521 = asn1.ObjectIdentifier{1, 3, 132, 0, 35}
)

func ecdsaKey(name string, curve elliptic.Curve, oid asn1.ObjectIdentifier) key {
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return key{name, publicECDSA(1, oid, point), func(msg []byte) []byte {
		hash := sha256.Sum256(msg)
		r, s, err := ecdsa.Sign(rand.Reader, k, hash[:])
		if err != nil {
			panic(err)
		}
		sig := make([]byte, 2*((curve.Params().BitSize+7)/8))
		r.FillBytes(sig[:len(sig)/2])
		s.FillBytes(sig[len(sig)/2:])
		return sig
	}}
}

var makeKeys = sync.OnceValue(func() []key {
	return []key{
		secpKey(), ed25519Key(), rsaKey(2048), ecdsaKey("P-256", elliptic.P256(), oid256),
		ecdsaKey("P-384", elliptic.P384(), oid384), ecdsaKey("P-521", elliptic.P521(), oid521),
	}
})

// allKeys returns one key of each kind.
func allKeys(t testing.TB) []key {
	t.Helper()
	return makeKeys()
}

func parse(t testing.TB, k key) *identity.PublicKey {
	t.Helper()
	public, err := identity.ParsePublicKey(k.text())
	if err != nil {
		t.Fatalf("%s: %v", k.name, err)
	}
	return public
}

// highS returns the other signature with the same R.
func highS(t testing.TB, signature string) string {
	t.Helper()
	sig, err := dcr.ParseDERSignature(unhex(t, signature))
	must(t, err)
	r, s := sig.R(), sig.S()
	rb, sb := r.Bytes(), s.Negate().Bytes()
	return hex.EncodeToString(der(t, rb[:], sb[:]))
}

func der(t testing.TB, r, s []byte) []byte {
	t.Helper()
	b, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
	must(t, err)
	return b
}

func TestAHighSOfSecp256k1IsRefused(t *testing.T) {
	k := allKeys(t)[0]
	public := parse(t, k)
	sig := k.signHex("message")
	must(t, public.Verify([]byte("message"), sig))
	high := highS(t, sig)
	// The signature is valid; only JavaScript's rule rejects it.
	parsed, err := dcr.ParseDERSignature(unhex(t, high))
	must(t, err)
	point, err := secp256k1.ParsePubKey(k.public)
	must(t, err)
	if hash := sha256.Sum256([]byte("message")); !parsed.Verify(hash[:], point) {
		t.Fatal("the other signature does not hold")
	}
	if err := public.Verify([]byte("message"), high); !errors.Is(err, identity.ErrInvalidSignature) {
		t.Error(err)
	}
}

func TestAnECDSASignatureHoldsWithEitherS(t *testing.T) {
	for i, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k := allKeys(t)[3+i]
		sig := k.sign([]byte("message"))
		half := sig[len(sig)/2:]
		s := new(big.Int).Sub(curve.Params().N, new(big.Int).SetBytes(half))
		s.FillBytes(half)
		if err := parse(t, k).Verify([]byte("message"), hex.EncodeToString(sig)); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

func TestOtherSignaturesAreRefused(t *testing.T) {
	keys := allKeys(t)
	for i, k := range keys {
		public := parse(t, k)
		sig := k.signHex("message")
		if err := public.Verify([]byte("message"), sig); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		raw := unhex(t, sig)
		raw[len(raw)-1] ^= 1
		zero := strings.Repeat("00", len(raw))
		for what, other := range map[string]string{
			"none":            "",
			"of another":      k.signHex("other message"),
			"of another key":  keys[(i+1)%len(keys)].signHex("message"),
			"changed":         hex.EncodeToString(raw),
			"upper case":      strings.ToUpper(sig),
			"a byte behind":   sig + "00",
			"a digit behind":  sig + "0",
			"a byte in front": "00" + sig,
			"a byte less":     sig[:len(sig)-2],
			"a digit less":    sig[:len(sig)-1],
			"a space":         sig + " ",
			"0x":              "0x" + sig,
			"zeros":           zero,
			"too long":        strings.Repeat(sig, 100),
		} {
			if err := public.Verify([]byte("message"), other); !errors.Is(err, identity.ErrInvalidSignature) {
				t.Errorf("%s: %s: %v", k.name, what, err)
			}
		}
		if err := public.Verify([]byte("Message"), sig); !errors.Is(err, identity.ErrInvalidSignature) {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

func TestAnECDSASignatureHasItsFullLength(t *testing.T) {
	for _, k := range allKeys(t)[3:] {
		public, sig := parse(t, k), k.sign([]byte("message"))
		half := len(sig) / 2
		for _, at := range []int{0, half} {
			// The numbers are the same.
			longer := hex.EncodeToString(slices.Insert(slices.Clone(sig), at, 0))
			if err := public.Verify([]byte("message"), longer); !errors.Is(err, identity.ErrInvalidSignature) {
				t.Errorf("%s: a zero at %d: %v", k.name, at, err)
			}
		}
		if err := public.Verify([]byte("message"), hex.EncodeToString(der(t, sig[:half], sig[half:]))); !errors.Is(err, identity.ErrInvalidSignature) {
			t.Errorf("%s: as DER: %v", k.name, err)
		}
	}
}

func TestNoOtherDEROfASignatureIsTaken(t *testing.T) {
	k := allKeys(t)[0]
	public := parse(t, k)
	sig := k.sign([]byte("message"))
	r, s := sig[4:4+sig[3]], sig[6+sig[3]:]
	build := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	integer := func(b []byte) []byte { return append([]byte{2, byte(len(b))}, b...) }
	sequence := func(b []byte) []byte { return append([]byte{0x30, byte(len(b))}, b...) }
	if !bytes.Equal(sequence(build(integer(r), integer(s))), sig) {
		t.Fatalf("%x is not of %x and %x", sig, r, s)
	}
	zero := []byte{0}
	for what, other := range map[string][]byte{
		"a zero before R":      sequence(build(integer(append(zero, r...)), integer(s))),
		"a zero before S":      sequence(build(integer(r), integer(append(zero, s...)))),
		"a long length":        append([]byte{0x30, 0x81}, sig[1:]...),
		"a byte in it":         sequence(build(integer(r), integer(s), zero)),
		"another tag":          append([]byte{0x31}, sig[1:]...),
		"r and s":              append(new(big.Int).SetBytes(r).FillBytes(make([]byte, 32)), new(big.Int).SetBytes(s).FillBytes(make([]byte, 32))...),
		"R only":               sequence(integer(r)),
		"S is 0":               sequence(build(integer(r), integer(zero))),
		"R is 0":               sequence(build(integer(zero), integer(s))),
		"S twice":              sequence(build(integer(r), integer(s), integer(s))),
		"negative R":           sequence(build(integer(append([]byte{0x80}, r...)), integer(s))),
		"no sequence":          build(integer(r), integer(s)),
		"an indefinite length": append(append([]byte{0x30, 0x80}, sig[2:]...), 0, 0),
	} {
		if err := public.Verify([]byte("message"), hex.EncodeToString(other)); !errors.Is(err, identity.ErrInvalidSignature) {
			t.Errorf("%s: %x: %v", what, other, err)
		}
	}
}

func TestOnlyTheOneTextOfAKeyIsTaken(t *testing.T) {
	var texts []string
	for _, k := range allKeys(t) {
		if got := parse(t, k).String(); got != k.text() {
			t.Errorf("%s: got %s, want %s", k.name, got, k.text())
		}
		text := k.text()
		texts = append(texts, strings.ToUpper(text), "00"+text, text+"0", text[1:], " "+text, "0x"+text)
		// Only the length distinguishes Ed25519 from secp256k1.
		if k.name != "Ed25519" {
			texts = append(texts, text+"00")
		}
		if k.name != "secp256k1" {
			texts = append(texts, text[2:], text[:len(text)-2])
		}
	}
	point, err := secp256k1.ParsePubKey(allKeys(t)[0].public)
	must(t, err)
	compressed := point.SerializeCompressed()
	hybrid := point.SerializeUncompressed()
	texts = append(texts, hex.EncodeToString(hybrid))
	hybrid[0] = 6 + hybrid[64]&1
	texts = append(texts, hex.EncodeToString(hybrid))
	for _, first := range []byte{0, 1, 4, 5, 6, 7, 0xff} {
		texts = append(texts, hex.EncodeToString(append([]byte{first}, compressed[1:]...)))
	}
	texts = append(texts, "", "zz", "02"+strings.Repeat("ff", 32), "02"+strings.Repeat("00", 32), strings.Repeat("11", 31), strings.Repeat("11", 34), strings.Repeat("11", 64))
	for _, text := range texts {
		if k, err := identity.ParsePublicKey(text); !errors.Is(err, identity.ErrInvalidKey) || k != nil {
			t.Errorf("%s: %v, %v", text, k, err)
		}
	}
}

func refusedKey(t *testing.T, what string, der []byte) {
	t.Helper()
	if k, err := identity.ParsePublicKey(hex.EncodeToString(der)); !errors.Is(err, identity.ErrInvalidKey) || k != nil {
		t.Errorf("%s: %v, %v", what, k, err)
	}
}

func TestOnlyTheDERThatJavaScriptWritesIsAnECDSAKey(t *testing.T) {
	for _, k := range allKeys(t)[3:] {
		der := k.public
		content := der[2:]
		if der[1] == 0x81 {
			content = der[3:]
		}
		refusedKey(t, k.name+": an indefinite length", append(append([]byte{0x30, 0x80}, content...), 0, 0))
		refusedKey(t, k.name+": a longer length", append([]byte{0x30, 0x82, 0, byte(len(content))}, content...))
		refusedKey(t, k.name+": a byte more inside", append(slices.Clone(der[:len(der)-len(content)-1]), append([]byte{byte(len(content) + 1)}, append(content, 0)...)...))
		refusedKey(t, k.name+": a null inside", append(slices.Clone(der[:len(der)-len(content)-1]), append([]byte{byte(len(content) + 2)}, append(content, 5, 0)...)...))
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	point, err := k.PublicKey.Bytes()
	must(t, err)
	refusedKey(t, "version 0", publicECDSA(0, oid256, point))
	refusedKey(t, "version 2", publicECDSA(2, oid256, point))
	refusedKey(t, "of another curve", publicECDSA(1, oid384, point))
	refusedKey(t, "of an unknown curve", publicECDSA(1, asn1.ObjectIdentifier{1, 3, 132, 0, 10}, point))
	refusedKey(t, "compressed", publicECDSA(1, oid256, append([]byte{2 + point[64]&1}, point[1:33]...)))
	refusedKey(t, "no point", publicECDSA(1, oid256, nil))
	refusedKey(t, "at infinity", publicECDSA(1, oid256, []byte{0}))
	point[64] ^= 1
	refusedKey(t, "a point that is not on the curve", publicECDSA(1, oid256, point))
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	must(t, err)
	refusedKey(t, "a SubjectPublicKeyInfo", spki)
}

func TestUnusedBitsInAPointAreRefused(t *testing.T) {
	der := slices.Clone(allKeys(t)[3].public)
	at := len(der) - 66 // the count of unused bits
	if der[at] != 0 || der[at+1] != 4 {
		t.Fatalf("%x", der)
	}
	der[at] = 1
	der[len(der)-1] &^= 1
	refusedKey(t, "an unused bit", der)
}

func TestOnlyOneDEROfAnRSAKeyIsTaken(t *testing.T) {
	der := allKeys(t)[2].public
	refusedKey(t, "a longer length", append([]byte{0x30, 0x83, 0}, der[2:]...))
	null := bytes.Index(der, []byte{5, 0})
	without := slices.Delete(slices.Clone(der), null, null+2)
	without[3] -= 2
	without[5] -= 2
	refusedKey(t, "no null", without)
	parsed, err := x509.ParsePKIXPublicKey(der)
	must(t, err)
	public := parsed.(*rsa.PublicKey)
	refusedKey(t, "PKCS #1", x509.MarshalPKCS1PublicKey(public))
	// Go and JavaScript ignore whatever follows the exponent.
	longer, err := asn1.Marshal(struct {
		N       *big.Int
		E, More int
	}{public.N, public.E, 1})
	must(t, err)
	spki, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: longer, BitLength: 8 * len(longer)},
	})
	must(t, err)
	if _, err := x509.ParsePKIXPublicKey(spki); err != nil {
		t.Fatal(err)
	}
	refusedKey(t, "a number more inside", spki)
	wrong, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(allKeys(t)[1].public))
	must(t, err)
	refusedKey(t, "Ed25519 as a SubjectPublicKeyInfo", wrong)
}

func TestRSAKeysHave2048To8192Bits(t *testing.T) {
	public := func(bits int) []byte {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537})
		must(t, err)
		return der
	}
	for _, bits := range []int{2048, 3072, 4096, 8192} {
		if _, err := identity.ParsePublicKey(hex.EncodeToString(public(bits))); err != nil {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
	for _, bits := range []int{1024, 2040, 8200, 16384} {
		refusedKey(t, "RSA of another size", public(bits))
	}
}

func TestHugeTextsAreRefusedUnread(t *testing.T) {
	huge := strings.Repeat("a", 1<<20)
	_, err := identity.ParsePublicKey(huge)
	if !errors.Is(err, identity.ErrInvalidKey) || !strings.Contains(err.Error(), "1048576 characters") || len(err.Error()) > 200 {
		t.Error(err)
	}
	err = parse(t, allKeys(t)[0]).Verify(nil, huge)
	if !errors.Is(err, identity.ErrInvalidSignature) || !strings.Contains(err.Error(), "1048576 characters") || len(err.Error()) > 200 {
		t.Error(err)
	}
	_, err = identity.ParsePublicKey(strings.Repeat("x", 2000))
	if !errors.Is(err, identity.ErrInvalidKey) || len(err.Error()) > 200 {
		t.Error(err)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(unhex(f, s.ID), unhex(f, s.Signature))
		f.Add(unhex(f, s.PublicKey), unhex(f, s.Signature))
	}
	f.Fuzz(func(t *testing.T, public, sig []byte) {
		k, err := identity.ParsePublicKey(hex.EncodeToString(public))
		if err != nil {
			if !errors.Is(err, identity.ErrInvalidKey) {
				t.Fatal(err)
			}
			return
		}
		if err := k.Verify([]byte("message"), hex.EncodeToString(sig)); err != nil && !errors.Is(err, identity.ErrInvalidSignature) {
			t.Fatal(err)
		}
	})
}
