package identity_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/value"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	must(t, err)
	return b
}

func load(t testing.TB, name string, to any) {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	must(t, json.Unmarshal(b, to))
}

// vector is an identity that JavaScript made.
type vector struct {
	Root    string `json:"root_private_key_hex"`
	Signing string `json:"signing_private_key_hex"`
	Block   struct {
		Hash string `json:"cid_base58btc"`
		Hex  string `json:"bytes_hex"`
		JSON struct {
			ID, PublicKey string
			Signatures    identity.Signatures
		}
	}
}

func vectors(t testing.TB) map[string]vector {
	t.Helper()
	var file struct{ Identities map[string]vector }
	load(t, "../testdata/javascript.json", &file)
	if len(file.Identities) != 2 {
		t.Fatalf("%d identities", len(file.Identities))
	}
	return file.Identities
}

func secp(t testing.TB, text string) crypto.PrivKey {
	t.Helper()
	key, err := crypto.UnmarshalSecp256k1PrivateKey(unhex(t, text))
	must(t, err)
	return key
}

func signer(t testing.TB, name string) *identity.Signer {
	t.Helper()
	v := vectors(t)[name]
	s, err := identity.New(secp(t, v.Root), secp(t, v.Signing))
	must(t, err)
	return s
}

// fields are the fields of an identity block.
type fields struct {
	id, kind, publicKey, sigID, sigKey string
}

func of(i *identity.Identity) fields {
	return fields{i.ID, identity.Type, i.PublicKey, i.Signatures.ID, i.Signatures.PublicKey}
}

func (f fields) block() block.Block {
	v, err := value.Of(map[string]any{
		"id": f.id, "type": f.kind, "publicKey": f.publicKey,
		"signatures": map[string]any{"id": f.sigID, "publicKey": f.sigKey},
	})
	if err != nil {
		panic(err)
	}
	return block.New(v)
}

func TestIdentitiesAreThoseOfJavaScript(t *testing.T) {
	for name, v := range vectors(t) {
		data := unhex(t, v.Block.Hex)
		i, err := identity.Decode(block.Block{Hash: v.Block.Hash, Data: data})
		must(t, err)
		s := signer(t, name)
		for _, i := range []*identity.Identity{i, s.Identity} {
			if i.ID != v.Block.JSON.ID || i.PublicKey != v.Block.JSON.PublicKey || i.Signatures != v.Block.JSON.Signatures {
				t.Errorf("%s: %+v", name, i)
			}
			if i.Hash() != v.Block.Hash || i.Block().Hash != v.Block.Hash || !bytes.Equal(i.Block().Data, data) {
				t.Errorf("%s: block %s", name, i.Hash())
			}
		}
	}
}

// sample is an identity whose keys JavaScript made, and data that it signed.
type sample struct {
	Name, ID, PublicKey, Message, Signature string
	Identity, Entry                         struct{ Hash, Hex string }
}

func samples(t testing.TB) []sample {
	t.Helper()
	var file struct{ Samples []sample }
	load(t, "testdata/keys.json", &file)
	if len(file.Samples) != 10 {
		t.Fatalf("%d samples", len(file.Samples))
	}
	return file.Samples
}

func TestEveryKindOfKeyThatJavaScriptSignsWithIsVerified(t *testing.T) {
	for _, s := range samples(t) {
		i, err := identity.Decode(block.Block{Hash: s.Identity.Hash, Data: unhex(t, s.Identity.Hex)})
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		if i.ID != s.ID || i.PublicKey != s.PublicKey || hex.EncodeToString(i.Block().Data) != s.Identity.Hex {
			t.Errorf("%s: %+v", s.Name, i)
		}
		if err := i.Verify([]byte(s.Message), s.Signature); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		if err := i.Verify([]byte(s.Message+"."), s.Signature); !errors.Is(err, identity.ErrInvalidSignature) {
			t.Errorf("%s: another message: %v", s.Name, err)
		}
		e, err := entry.Decode(block.Block{Hash: s.Entry.Hash, Data: unhex(t, s.Entry.Hex)})
		must(t, err)
		if err := e.Check(i); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

func TestIdentitiesOfEveryKindOfKeyAreTaken(t *testing.T) {
	keys := allKeys(t)
	for _, root := range keys {
		for _, signing := range keys {
			b := made(root, signing).block()
			i, err := identity.Decode(b)
			if err != nil || i.ID != root.text() || i.PublicKey != signing.text() {
				t.Errorf("root %s, signing %s: %v", root.name, signing.name, err)
				continue
			}
			if err := i.Verify([]byte("message"), signing.signHex("message")); err != nil {
				t.Errorf("signing %s: %v", signing.name, err)
			}
		}
	}
}

func refused(t *testing.T, what string, b block.Block) {
	t.Helper()
	if i, err := identity.Decode(b); !errors.Is(err, identity.ErrInvalid) || i != nil {
		t.Errorf("%s: %+v, %v", what, i, err)
	}
}

func TestSwappedAndForeignSignaturesAreRefused(t *testing.T) {
	a, b := of(signer(t, "A").Identity), of(signer(t, "B").Identity)
	if _, err := identity.Decode(a.block()); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*fields){
		"swapped signatures": func(f *fields) { f.sigID, f.sigKey = f.sigKey, f.sigID },
		"swapped keys":       func(f *fields) { f.id, f.publicKey = f.publicKey, f.id },
		"all swapped": func(f *fields) {
			f.id, f.publicKey, f.sigID, f.sigKey = f.publicKey, f.id, f.sigKey, f.sigID
		},
		"foreign id":                  func(f *fields) { f.id = b.id },
		"foreign key":                 func(f *fields) { f.publicKey = b.publicKey },
		"foreign signature of id":     func(f *fields) { f.sigID = b.sigID },
		"foreign signature of key":    func(f *fields) { f.sigKey = b.sigKey },
		"foreign root":                func(f *fields) { f.id, f.sigKey = b.id, b.sigKey },
		"foreign signing":             func(f *fields) { f.publicKey, f.sigID = b.publicKey, b.sigID },
		"foreign signatures":          func(f *fields) { f.sigID, f.sigKey = b.sigID, b.sigKey },
		"no signature of id":          func(f *fields) { f.sigID = "" },
		"no signature of key":         func(f *fields) { f.sigKey = "" },
		"no id":                       func(f *fields) { f.id = "" },
		"no key":                      func(f *fields) { f.publicKey = "" },
		"no type":                     func(f *fields) { f.kind = "" },
		"another type":                func(f *fields) { f.kind = "Publickey" },
		"type did":                    func(f *fields) { f.kind = "did" },
		"upper-case id":               func(f *fields) { f.id = strings.ToUpper(f.id) },
		"upper-case key":              func(f *fields) { f.publicKey = strings.ToUpper(f.publicKey) },
		"upper-case signature of id":  func(f *fields) { f.sigID = strings.ToUpper(f.sigID) },
		"upper-case signature of key": func(f *fields) { f.sigKey = strings.ToUpper(f.sigKey) },
		"high S in signature of id":   func(f *fields) { f.sigID = highS(t, f.sigID) },
		"high S in signature of key":  func(f *fields) { f.sigKey = highS(t, f.sigKey) },
		"no hex":                      func(f *fields) { f.id = "x" + f.id },
	} {
		f := a
		change(&f)
		refused(t, what, f.block())
	}
}

func TestOwnershipOfBothKeysIsProven(t *testing.T) {
	keys := allKeys(t)
	mallory, victim := keys[0], keys[1]
	// The attacker has the victim's public key but not its private key.
	f := made(victim, mallory)
	f.sigKey = mallory.signHex(f.publicKey + f.sigID)
	refused(t, "the root key claimed", f.block())
	f = made(mallory, victim)
	f.sigID = mallory.signHex(f.id)
	f.sigKey = mallory.signHex(f.publicKey + f.sigID)
	refused(t, "the signing key claimed", f.block())
	f = made(mallory, mallory)
	f.sigKey = mallory.signHex(f.publicKey)
	refused(t, "the key signed without the other signature", f.block())
	f.sigKey = mallory.signHex(f.sigID + f.publicKey)
	refused(t, "the key signed in another order", f.block())
}

func TestNoOtherEncodingIsAnIdentity(t *testing.T) {
	i := signer(t, "A")
	data := i.Block().Data
	f := of(i.Identity)
	item := func(name, text string) []byte {
		return dagcbor.AppendText(dagcbor.AppendText(nil, name), text)
	}
	sigs := bytes.Join([][]byte{dagcbor.AppendText(nil, "signatures"), {0xa2}, item("id", f.sigID), item("publicKey", f.sigKey)}, nil)
	id, kind, key := item("id", f.id), item("type", f.kind), item("publicKey", f.publicKey)
	all := func(head byte, parts ...[]byte) []byte { return append([]byte{head}, bytes.Join(parts, nil)...) }
	if !bytes.Equal(all(0xa4, id, kind, key, sigs), data) {
		t.Fatal("the parts are not those of the block")
	}
	for what, data := range map[string][]byte{
		"nothing":                   nil,
		"no map":                    {0x80},
		"an empty map":              {0xa0},
		"no field signatures":       all(0xa3, id, kind, key),
		"no field type":             all(0xa3, id, key, sigs),
		"another order":             all(0xa4, kind, id, key, sigs),
		"id twice":                  all(0xa4, id, id, key, sigs),
		"id once more":              all(0xa5, id, id, kind, key, sigs),
		"an extra field":            all(0xa5, id, kind, item("extra", ""), key, sigs),
		"another field":             all(0xa4, id, item("kind", f.kind), key, sigs),
		"signatures no map":         all(0xa4, id, kind, key, item("signatures", f.sigID)),
		"an extra signature":        all(0xa4, id, kind, key, dagcbor.AppendText(nil, "signatures"), []byte{0xa3}, item("id", f.sigID), item("more", ""), item("publicKey", f.sigKey)),
		"only one signature":        all(0xa4, id, kind, key, dagcbor.AppendText(nil, "signatures"), []byte{0xa1}, item("id", f.sigID)),
		"signatures in other order": all(0xa4, id, kind, key, dagcbor.AppendText(nil, "signatures"), []byte{0xa2}, item("publicKey", f.sigKey), item("id", f.sigID)),
		"bytes as id":               all(0xa4, dagcbor.AppendBytes(dagcbor.AppendText(nil, "id"), []byte(f.id)), kind, key, sigs),
		"null as signature":         all(0xa4, id, kind, key, dagcbor.AppendText(nil, "signatures"), []byte{0xf6}),
		"a longer head":             append([]byte{0xb8, 4}, data[1:]...),
		"an indefinite length":      append(append([]byte{0xbf}, data[1:]...), 0xff),
		"a trailing byte":           append(bytes.Clone(data), 0),
		"twice":                     append(bytes.Clone(data), data...),
		"cut off":                   data[:len(data)-1],
		"a byte order mark":         all(0xa4, item2("id", "\ufeff"+f.id), kind, key, sigs),
	} {
		refused(t, what, block.New(data))
	}
}

// item2 appends a text without cleaning it.
func item2(name, text string) []byte {
	b := dagcbor.AppendText(nil, name)
	return append(append(b, 0x78, byte(len(text))), text...)
}

func TestAnUnknownTypeIsNamed(t *testing.T) {
	f := of(signer(t, "A").Identity)
	f.kind = "did"
	if _, err := identity.Decode(f.block()); err == nil || !strings.Contains(err.Error(), `"did"`) {
		t.Error(err)
	}
}

func TestABlockOfAnotherHashIsNoIdentity(t *testing.T) {
	a, b := signer(t, "A").Block(), signer(t, "B").Block()
	refused(t, "another hash", block.Block{Hash: b.Hash, Data: a.Data})
	refused(t, "no hash", block.Block{Data: a.Data})
	// The hash of the canonical encoding does not make the bytes canonical.
	refused(t, "other bytes", block.Block{Hash: a.Hash, Data: append([]byte{0xb8, 4}, a.Data[1:]...)})
}

func TestNewIsDeterministic(t *testing.T) {
	ed, _, err := crypto.GenerateEd25519Key(zeros{})
	must(t, err)
	k := secp(t, strings.Repeat("55", 32))
	for _, keys := range [][2]crypto.PrivKey{{k, k}, {ed, ed}, {ed, k}, {k, ed}} {
		one, err := identity.New(keys[0], keys[1])
		must(t, err)
		two, err := identity.New(keys[0], keys[1])
		must(t, err)
		if one.Hash() != two.Hash() {
			t.Errorf("%s, %s", one.Hash(), two.Hash())
		}
		i, err := identity.Decode(one.Block())
		must(t, err)
		sig, err := one.Sign([]byte("message"))
		must(t, err)
		must(t, i.Verify([]byte("message"), sig))
		if again, err := two.Sign([]byte("message")); again != sig || err != nil {
			t.Errorf("signed %s, then %s, %v", sig, again, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestNewTakesNoOtherKeys(t *testing.T) {
	k := secp(t, strings.Repeat("55", 32))
	ec, _, err := crypto.GenerateECDSAKeyPair(zeros{})
	must(t, err)
	for _, keys := range [][2]crypto.PrivKey{{k, ec}, {ec, k}} {
		if _, err := identity.New(keys[0], keys[1]); !errors.Is(err, identity.ErrInvalidKey) || !strings.Contains(err.Error(), "must be") {
			t.Error(err)
		}
	}
}

// keystore is a Keystore in memory.
type keystore map[string]crypto.PrivKey

var errNoKey = errors.New("no such key")

func (ks keystore) Has(name string) (bool, error) { return ks[name] != nil, nil }

func (ks keystore) Get(name string) (crypto.PrivKey, error) {
	if ks[name] == nil {
		return nil, errNoKey
	}
	return ks[name], nil
}

func (ks keystore) Put(name string, key crypto.PrivKey) error {
	if ks == nil {
		return errNoKey
	}
	ks[name] = key
	return nil
}

func TestLoadMakesTheIdentityOfKeysByName(t *testing.T) {
	v := vectors(t)["A"]
	ks := keystore{"root": secp(t, v.Root), "signing": secp(t, v.Signing)}
	s, err := identity.Load(ks, "root", "signing")
	if err != nil || s.Hash() != v.Block.Hash {
		t.Errorf("%v, %v", s, err)
	}
	for _, names := range [][2]string{{"root", "other"}, {"other", "signing"}} {
		if _, err := identity.Load(ks, names[0], names[1]); !errors.Is(err, errNoKey) || !strings.Contains(err.Error(), `"other"`) {
			t.Error(err)
		}
	}
}

func TestGenerateMakesANewSecp256k1Key(t *testing.T) {
	ks := make(keystore)
	must(t, identity.Generate(ks, "a"))
	must(t, identity.Generate(ks, "b"))
	if ks["a"].Equals(ks["b"]) || ks["a"].Type() != crypto.Secp256k1 {
		t.Errorf("%v, %v", ks["a"].Type(), ks["b"].Type())
	}
	_, err := identity.Load(ks, "a", "b")
	must(t, err)
	if err := identity.Generate(keystore(nil), "a"); !errors.Is(err, errNoKey) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(unhex(f, v.Block.Hex))
	}
	for _, s := range samples(f) {
		f.Add(unhex(f, s.Identity.Hex))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := block.New(data)
		i, err := identity.Decode(b)
		if err != nil {
			if !errors.Is(err, identity.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if i.Hash() != b.Hash || !bytes.Equal(i.Block().Data, data) || of(i).block().Hash != b.Hash {
			t.Fatalf("%x became %x", data, i.Block().Data)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	block := signer(b, "A").Block()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := identity.Decode(block); err != nil {
			b.Fatal(err)
		}
	}
}
