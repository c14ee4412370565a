package entry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
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

// jsEntry is an entry in JavaScript's form.
type jsEntry struct {
	V                      int
	ID, Key, Sig, Identity string
	Next, Refs             []string
	Clock                  struct {
		ID   string
		Time float64
	}
	Payload json.RawMessage
}

// vector is an entry that JavaScript made, and its block.
type vector struct {
	Hash   string  `json:"cid_base58btc"`
	Hex    string  `json:"bytes_hex"`
	JSON   jsEntry `json:"json"`
	Signed string  `json:"signed_bytes_hex"`
	Sum    string  `json:"signed_bytes_sha256_hex"`
}

func (v vector) block(t testing.TB) block.Block {
	return block.Block{Hash: v.Hash, Data: unhex(t, v.Hex)}
}

type database struct {
	Address string
	Entries []vector
}

// file contains the vectors that JavaScript made.
type file struct {
	Identities map[string]struct {
		Root    string `json:"root_private_key_hex"`
		Signing string `json:"signing_private_key_hex"`
	}
	Documents database `json:"documents_pieces"`
	KeyValue  database `json:"keyvalue_user"`
	Events    database `json:"events_log"`
	Chain     struct {
		Hashes  []string
		Entries []struct {
			Time       float64
			Next, Refs []int
		}
		Entry20 vector
	} `json:"documents_refs_chain"`
	Merge struct {
		Values []struct {
			Payload, Hash string
			Clock         struct {
				ID   string
				Time float64
			}
			Next, Refs []string
			Hex        string `json:"bytes_hex"`
		}
	}
	Encryption struct {
		Hash      string
		Outer     string  `json:"outer_block_hex"`
		Inner     string  `json:"inner_entry_hex"`
		Entry     jsEntry `json:"inner_entry"`
		Decrypted string  `json:"decrypted_payload_hex"`
	} `json:"encryption_xor_ff"`
}

func load(t testing.TB) (f file) {
	t.Helper()
	b, err := os.ReadFile("../testdata/javascript.json")
	must(t, err)
	must(t, json.Unmarshal(b, &f))
	return f
}

func signer(t testing.TB, name string) *identity.Signer {
	t.Helper()
	keys := load(t).Identities[name]
	root, err := crypto.UnmarshalSecp256k1PrivateKey(unhex(t, keys.Root))
	must(t, err)
	signing, err := crypto.UnmarshalSecp256k1PrivateKey(unhex(t, keys.Signing))
	must(t, err)
	s, err := identity.New(root, signing)
	must(t, err)
	return s
}

// payload returns the value of a payload in the vectors.
func payload(t testing.TB, text json.RawMessage) value.Value {
	t.Helper()
	var v any
	must(t, json.Unmarshal(text, &v))
	var item func(v any) any
	item = func(v any) any {
		switch v := v.(type) {
		case []any:
			for i := range v {
				v[i] = item(v[i])
			}
		case map[string]any:
			if text, ok := v["/bytes_hex"].(string); ok {
				return unhex(t, text)
			}
			for name := range v {
				v[name] = item(v[name])
			}
		}
		return v
	}
	got, err := value.Of(item(v))
	must(t, err)
	return got
}

// signed returns the encoding of an entry without key, sig and identity.
func signed(e *entry.Entry) []byte {
	hashes := func(b []byte, list []string) []byte {
		b = dagcbor.AppendArray(b, len(list))
		for _, hash := range list {
			b = dagcbor.AppendText(b, hash)
		}
		return b
	}
	field := func(b []byte, name string) []byte { return dagcbor.AppendText(b, name) }
	b := dagcbor.AppendMap(nil, 6)
	b = dagcbor.AppendUint(field(b, "v"), 2)
	b = dagcbor.AppendText(field(b, "id"), e.LogID)
	b = hashes(field(b, "next"), e.Next)
	b = hashes(field(b, "refs"), e.Refs)
	b = dagcbor.AppendMap(field(b, "clock"), 2)
	b = dagcbor.AppendText(field(b, "id"), e.Clock.ID)
	b = dagcbor.AppendUint(field(b, "time"), uint64(e.Clock.Time))
	return append(field(b, "payload"), e.Payload...)
}

// agree checks that an entry has the fields of a JavaScript entry.
func agree(t *testing.T, e *entry.Entry, want jsEntry) {
	t.Helper()
	if e.LogID != want.ID || e.Key != want.Key || e.Sig != want.Sig || e.Identity != want.Identity ||
		!slices.Equal(e.Next, want.Next) || !slices.Equal(e.Refs, want.Refs) ||
		e.Clock.ID != want.Clock.ID || e.Clock.Time != want.Clock.Time || want.V != entry.Version {
		t.Errorf("got %+v\nwant %+v", e, want)
	}
	if want := payload(t, want.Payload); !e.Payload.Equal(want) {
		t.Errorf("payload %s, want %s", e.Payload, want)
	}
	if got := e.Position(e.Rank()); got.Time != e.Clock.Time || got.Depth != 0 || got.ID != e.Clock.ID || got.Hash != e.Hash() {
		t.Errorf("position %+v", got)
	}
	if got := e.Parents(); !slices.Equal(got, append(slices.Clone(want.Next), want.Refs...)) {
		t.Errorf("parents %q", got)
	}
}

// again makes an entry from the fields of another.
func again(t testing.TB, s *identity.Signer, e *entry.Entry) *entry.Entry {
	t.Helper()
	var heads []entry.Position
	for _, hash := range e.Next {
		// Only the largest time matters.
		heads = append(heads, entry.Position{Rank: entry.Rank{Time: e.Clock.Time - 1}, Hash: hash})
	}
	made, err := entry.New(s, e.LogID, e.Payload, heads, e.Refs)
	must(t, err)
	return made
}

// same checks that a JavaScript entry decodes and encodes to the same.
func same(t *testing.T, s *identity.Signer, hash string, data []byte) *entry.Entry {
	t.Helper()
	e, err := entry.Decode(block.Block{Hash: hash, Data: data})
	must(t, err)
	if err := e.Check(s.Identity); err != nil {
		t.Error(err)
	}
	made := again(t, s, e)
	if made.Hash() != hash || made.Block.Hash != hash || !bytes.Equal(made.Block.Data, data) || made.Sig != e.Sig {
		t.Errorf("%s was made again as %s %x", hash, made.Hash(), made.Block.Data)
	}
	if err := made.Check(s.Identity); err != nil {
		t.Error(err)
	}
	return e
}

func TestEntriesAreThoseOfJavaScript(t *testing.T) {
	f := load(t)
	a := signer(t, "A")
	vectors := slices.Concat(f.Documents.Entries, f.KeyValue.Entries, f.Events.Entries, []vector{f.Chain.Entry20})
	if len(vectors) != 8 {
		t.Fatalf("%d entries", len(vectors))
	}
	for _, v := range vectors {
		e := same(t, a, v.Hash, unhex(t, v.Hex))
		agree(t, e, v.JSON)
		sum := sha256.Sum256(signed(e))
		if got := signed(e); hex.EncodeToString(got) != v.Signed || hex.EncodeToString(sum[:]) != v.Sum {
			t.Errorf("%s: signed %x", v.Hash, got)
		}
		if err := a.Verify(unhex(t, v.Signed), e.Sig); err != nil {
			t.Error(err)
		}
	}
}

func TestAMergeOfTwoWritersIsThatOfJavaScript(t *testing.T) {
	signers := map[string]*identity.Signer{}
	for _, name := range []string{"A", "B"} {
		s := signer(t, name)
		signers[s.PublicKey] = s
	}
	values := load(t).Merge.Values
	if len(values) != 6 {
		t.Fatalf("%d entries", len(values))
	}
	var last entry.Position
	for _, v := range values {
		s := signers[v.Clock.ID]
		e := same(t, s, v.Hash, unhex(t, v.Hex))
		if e.Clock.ID != v.Clock.ID || e.Clock.Time != v.Clock.Time || !slices.Equal(e.Next, v.Next) || !slices.Equal(e.Refs, v.Refs) || !e.Payload.Equal(value.Text(v.Payload)) {
			t.Errorf("got %+v, want %+v", e, v)
		}
		position := e.Position(e.Rank())
		if last.Compare(position) != -1 || position.Compare(last) != 1 {
			t.Errorf("%+v is not behind %+v", position, last)
		}
		last = position
		for name, other := range signers {
			if err := e.Check(other.Identity); (err == nil) != (name == v.Clock.ID) {
				t.Errorf("%s by %s: %v", v.Payload, name, err)
			}
		}
	}
}

func TestAChainOfEntriesIsThatOfJavaScript(t *testing.T) {
	f := load(t)
	a := signer(t, "A")
	var entries []*entry.Entry
	for i, link := range f.Chain.Entries {
		var p value.Value
		if i < len(f.Documents.Entries) {
			p = payload(t, f.Documents.Entries[i].JSON.Payload)
		} else {
			p = payload(t, json.RawMessage(fmt.Sprintf(`{"op":"PUT","key":"d%d","value":{"_id":"d%d","n":%d}}`, i, i, i)))
		}
		var heads []entry.Position
		for _, n := range link.Next {
			heads = append(heads, entries[n].Position(entries[n].Rank()))
		}
		var refs []string
		for _, n := range link.Refs {
			refs = append(refs, entries[n].Hash())
		}
		e, err := entry.New(a, f.Documents.Address, p, heads, refs)
		must(t, err)
		if e.Hash() != f.Chain.Hashes[i] || e.Clock.Time != link.Time {
			t.Fatalf("entry %d is %s at %v, want %s at %v", i, e.Hash(), e.Clock.Time, f.Chain.Hashes[i], link.Time)
		}
		entries = append(entries, e)
	}
	if len(entries) != 21 || len(entries[20].Refs) != entry.MaxRefs {
		t.Errorf("%d entries", len(entries))
	}
}

func xor(data []byte) []byte {
	data = bytes.Clone(data)
	for i := range data {
		data[i] ^= 0xff
	}
	return data
}

func TestAnEncryptedEntryIsThatOfJavaScript(t *testing.T) {
	f := load(t).Encryption
	a := signer(t, "A")
	// The payload is encrypted, and the signature covers the encrypted one.
	e, err := entry.New(a, f.Entry.ID, dagcbor.AppendBytes(nil, xor(unhex(t, f.Decrypted))), nil, nil)
	must(t, err)
	if hex.EncodeToString(e.Block.Data) != f.Inner {
		t.Errorf("got  %x\nwant %s", e.Block.Data, f.Inner)
	}
	agree(t, e, f.Entry)
	same(t, a, e.Hash(), unhex(t, f.Inner))
	// The entry is encrypted too, and its CID is that of the encrypted block.
	outer := block.New(dagcbor.AppendBytes(nil, xor(e.Block.Data)))
	if outer.Hash != f.Hash || hex.EncodeToString(outer.Data) != f.Outer {
		t.Errorf("got %s %x, want %s", outer.Hash, outer.Data, f.Hash)
	}
	if _, err := entry.Decode(outer); !errors.Is(err, entry.ErrEncrypted) || !errors.Is(err, entry.ErrMalformed) || !strings.Contains(err.Error(), outer.Hash) {
		t.Errorf("an encrypted entry: %v", err)
	}
}
