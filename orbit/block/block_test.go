package block_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	"github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/orbit/block"
)

// sample is a hash, and the bytes that have it.
const sample = "zdpuAwKJDKp1C2UFkZ18GELaKzyCxaH4A8jQSpLiRKEcnBDxq"

var sampleData = []byte("\xa2dtypedipfsewrite\x81a*")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vectors yields the blocks that JavaScript made, with their hashes.
func vectors(t testing.TB, yield func(hash, base32 string, cidBytes, data []byte)) {
	t.Helper()
	b, err := os.ReadFile("../testdata/javascript.json")
	must(t, err)
	var all any
	must(t, json.Unmarshal(b, &all))
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			if hash, ok := v["cid_base58btc"].(string); ok {
				yield(hash, v["cid_base32"].(string), unhex(t, v["cid_bytes_hex"]), unhex(t, v["bytes_hex"]))
			}
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(all)
}

func unhex(t testing.TB, text any) []byte {
	t.Helper()
	b, err := hex.DecodeString(text.(string))
	must(t, err)
	return b
}

func TestHashesAreThoseOfJavaScript(t *testing.T) {
	n := 0
	vectors(t, func(hash, base32 string, cidBytes, data []byte) {
		n++
		if got := block.Hash(data); got != hash {
			t.Errorf("hash %s, want %s", got, hash)
		}
		c, err := block.ParseHash(hash)
		if err != nil || c.String() != base32 || !bytes.Equal(c.Bytes(), cidBytes) {
			t.Errorf("%s: CID %s, %v, want %s", hash, c, err, base32)
		}
		if got, ok := block.HashOf(c); got != hash || !ok {
			t.Errorf("hash of %s: %s, %v", c, got, ok)
		}
	})
	if n < 18 {
		t.Errorf("%d blocks", n)
	}
}

func TestNewNamesDataByItsHash(t *testing.T) {
	b := block.New(sampleData)
	if b.Hash != sample || !bytes.Equal(b.Data, sampleData) || len(b.Hash) != block.HashLen {
		t.Errorf("%+v", b)
	}
	must(t, b.Check())
	for _, data := range [][]byte{nil, {}, {0}, make([]byte, block.MaxSize)} {
		b := block.New(data)
		must(t, b.Check())
		if !block.ValidHash(b.Hash) {
			t.Errorf("%d bytes: %q", len(data), b.Hash)
		}
	}
}

func TestOtherBytesDoNotHaveTheHash(t *testing.T) {
	for _, data := range [][]byte{nil, sampleData[1:], append(bytes.Clone(sampleData), 0)} {
		if err := (block.Block{Hash: sample, Data: data}).Check(); !errors.Is(err, block.ErrMismatch) {
			t.Errorf("%x: %v", data, err)
		}
	}
	if err := (block.Block{Data: sampleData}).Check(); !errors.Is(err, block.ErrMismatch) {
		t.Error(err)
	}
}

// otherTexts are texts that are no hash, many of the same CID or data.
func otherTexts(t testing.TB) []string {
	c := cid.MustParse(sample)
	texts := []string{
		"", "z", sample[1:], sample[:48], sample + "1", " " + sample[1:], sample + "\n",
		"Z" + sample[1:], strings.Repeat("z", 49), "z" + strings.Repeat("1", 48), strings.Repeat("1", 49),
		sample[:20] + "0" + sample[21:], sample[:20] + "l" + sample[21:], sample[:48] + "\xff",
		"zdpt" + sample[4:], "zdpv" + sample[4:], "/ipfs/" + sample,
		c.String(),
		cid.NewCidV0(c.Hash()).String(),
	}
	for _, base := range []multibase.Encoding{multibase.Base16, multibase.Base32, multibase.Base58Flickr, multibase.Base64} {
		text, err := c.StringOfBase(base)
		must(t, err)
		texts = append(texts, text)
	}
	for _, codec := range []uint64{cid.Raw, cid.DagProtobuf, cid.DagCBOR + 1, cid.DagCBOR - 1, cid.DagJSON} {
		text, err := cid.NewCidV1(codec, c.Hash()).StringOfBase(multibase.Base58BTC)
		must(t, err)
		texts = append(texts, text)
	}
	for _, code := range []uint64{multihash.IDENTITY, multihash.SHA1, multihash.SHA2_512, multihash.SHA3_256} {
		mh, err := multihash.Sum(sampleData, code, -1)
		must(t, err)
		text, err := cid.NewCidV1(cid.DagCBOR, mh).StringOfBase(multibase.Base58BTC)
		must(t, err)
		texts = append(texts, text)
	}
	return texts
}

func TestNoOtherTextIsAHash(t *testing.T) {
	for _, text := range otherTexts(t) {
		if block.ValidHash(text) {
			t.Errorf("%q is valid", text)
		}
		if c, err := block.ParseHash(text); !errors.Is(err, block.ErrInvalidHash) || c.Defined() {
			t.Errorf("%q: %v, %v", text, c, err)
		}
		if b, err := (block.Block{Hash: text}).IPFS(); !errors.Is(err, block.ErrInvalidHash) || b != nil {
			t.Errorf("%q: %v, %v", text, b, err)
		}
	}
}

func TestTheSmallestAndTheLargestHashAreValid(t *testing.T) {
	for _, sum := range [][]byte{make([]byte, 32), bytes.Repeat([]byte{0xff}, 32)} {
		mh, err := multihash.Encode(sum, multihash.SHA2_256)
		must(t, err)
		hash, ok := block.HashOf(cid.NewCidV1(cid.Raw, mh))
		if !ok || !block.ValidHash(hash) {
			t.Errorf("%x: %q, %v", sum, hash, ok)
		}
		if c, err := block.ParseHash(hash); err != nil || !bytes.Equal(c.Hash(), mh) {
			t.Errorf("%q: %v, %v", hash, c, err)
		}
	}
}

func TestHashOfGoesByTheMultihash(t *testing.T) {
	mh := cid.MustParse(sample).Hash()
	for _, c := range []cid.Cid{cid.NewCidV0(mh), cid.NewCidV1(cid.Raw, mh), cid.NewCidV1(cid.DagCBOR, mh)} {
		if hash, ok := block.HashOf(c); hash != sample || !ok {
			t.Errorf("%s: %q, %v", c, hash, ok)
		}
	}
	for _, code := range []uint64{multihash.IDENTITY, multihash.SHA2_512, multihash.SHA3_256} {
		mh, err := multihash.Sum(sampleData, code, -1)
		must(t, err)
		if hash, ok := block.HashOf(cid.NewCidV1(cid.DagCBOR, mh)); hash != "" || ok {
			t.Errorf("multihash %x: %q, %v", code, hash, ok)
		}
	}
	short, err := multihash.Sum(sampleData, multihash.SHA2_256, 20)
	must(t, err)
	for _, c := range []cid.Cid{cid.NewCidV1(cid.DagCBOR, short), cid.Undef} {
		if hash, ok := block.HashOf(c); hash != "" || ok {
			t.Errorf("%v: %q, %v", c, hash, ok)
		}
	}
}

func TestIPFSKeepsTheBytesAndTheCID(t *testing.T) {
	b, err := block.New(sampleData).IPFS()
	must(t, err)
	if b.Cid() != cid.MustParse(sample) || !bytes.Equal(b.RawData(), sampleData) {
		t.Errorf("%s %x", b.Cid(), b.RawData())
	}
}

func FuzzParseHash(f *testing.F) {
	for _, text := range otherTexts(f) {
		f.Add(text)
	}
	f.Add(sample)
	f.Fuzz(func(t *testing.T, text string) {
		want, slow := cid.Undef, false
		if c, err := cid.Decode(text); err == nil {
			again, _ := c.StringOfBase(multibase.Base58BTC)
			p := c.Prefix()
			slow = again == text && p == (cid.Prefix{Version: 1, Codec: cid.DagCBOR, MhType: multihash.SHA2_256, MhLength: 32})
			want = c
		}
		if block.ValidHash(text) != slow {
			t.Fatalf("%q is valid: %v", text, !slow)
		}
		c, err := block.ParseHash(text)
		if slow != (err == nil) || slow && c != want {
			t.Fatalf("%q: %v, %v", text, c, err)
		}
	})
}

func BenchmarkValidHash(b *testing.B) {
	for b.Loop() {
		if !block.ValidHash(sample) {
			b.Fatal()
		}
	}
}
