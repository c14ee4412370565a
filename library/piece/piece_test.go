package piece_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit/value"
)

const (
	v0  = "QmNR2n4zywCV61MeMLB6JwPueAPqheqpfiA4fLPMxouEmQ"
	raw = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Decoding base36 takes quadratic time: a megabyte would take minutes.
func TestLongHashIsNotDecoded(t *testing.T) {
	digest, err := multihash.Sum(make([]byte, piece.MaxHash), multihash.IDENTITY, -1)
	must(t, err)
	hash := cid.NewCidV1(cid.Raw, digest).String()
	if c, err := piece.Decode(hash); err == nil {
		t.Errorf("a hash of %d bytes is decoded: %s", len(hash), c)
	}
	if got := piece.Canonical(hash); got != hash {
		t.Errorf("%.40q", got)
	}
	if all := piece.Spellings(hash); len(all) != 1 {
		t.Errorf("%d spellings", len(all))
	}
}

func TestEverySpellingOfAHashIsTheSamePiece(t *testing.T) {
	for _, hash := range []string{v0, raw, blakePB(t)} {
		all := piece.Spellings(hash)
		if all[0] != hash || len(all) < 3 {
			t.Fatalf("%q", all)
		}
		x := piece.NewIndex()
		x.Put(piece.Piece{Hash: hash}, false)
		for _, s := range all {
			if found, ok := x.Find(s); !ok || found != hash {
				t.Errorf("%s: found %q as %s", hash, found, s)
			}
			if piece.Canonical(s) != piece.Canonical(hash) {
				t.Errorf("%s and %s differ", s, hash)
			}
		}
	}
	if piece.Canonical(v0) == piece.Canonical(raw) || piece.Canonical("QmNR2n4z") != "QmNR2n4z" {
		t.Error("different hashes have the same canonical spelling")
	}
}

// blakePB returns a dag-pb CID with a BLAKE2b hash, which has no version 0.
func blakePB(t *testing.T) string {
	t.Helper()
	sum, err := multihash.Sum([]byte("x"), multihash.BLAKE2B_MIN+31, -1)
	must(t, err)
	return cid.NewCidV1(cid.DagProtobuf, sum).String()
}

func TestOneSpellingStaysWhenAnotherIsDeleted(t *testing.T) {
	x := piece.NewIndex()
	v1 := piece.Canonical(v0)
	x.Put(piece.Piece{Hash: v0}, false)
	x.Put(piece.Piece{Hash: v1}, false)
	x.Delete(v0)
	if found, ok := x.Find(v0); !ok || found != v1 || !x.Has(v1) {
		t.Errorf("found %q", found)
	}
	x.Delete(v1)
	if n, _ := x.Len(); n != 0 || x.Has(v1) {
		t.Errorf("%d pieces", n)
	}
}

func TestSearchFindsWhatPeopleType(t *testing.T) {
	x := piece.NewIndex()
	for i, p := range []piece.Piece{
		{Title: "Humoresque", Composer: "Antonín Dvořák", Instrument: "Piano"},
		{Title: "Prelude in C", Composer: "J. S. Bach", Instrument: "Lute", Name: "bwv846.pdf"},
		{Title: "Air", Composer: "J. S. Bach", Instrument: "Piano"},
		{Instrument: "Straße  trio"},
	} {
		p.Hash = fmt.Sprint("Qm", i)
		x.Put(p, false)
	}
	for want, q := range map[string]piece.Query{
		"Qm0":             {Text: "dvorak humor"},
		"Qm1":             {Text: "BACH bwv846"},
		"Qm1 Qm2":         {Text: "bach"},
		"Qm2":             {Text: "bach", Instrument: "piano"},
		"Qm0 Qm2":         {Instrument: "PIANO"},
		"Qm3":             {Instrument: "strasse trio"},
		"":                {Instrument: "Pian"},
		" ":               {Text: "bach humor"},
		"Qm0 Qm1 Qm2 Qm3": {},
		"Qm1 ":            {Title: "prelude IN"},
		" Qm1 Qm2":        {Composer: "bach"},
		"  ":              {Composer: "prelude"},
	} {
		var got []string
		for h := range x.Search(q) {
			got = append(got, h.Hash())
		}
		slices.Sort(got)
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%+v: %q, want %q", q, got, want)
		}
	}
}

func TestOrders(t *testing.T) {
	x := piece.NewIndex()
	x.Put(piece.Piece{Hash: "b", Title: "B", Composer: "X", Instrument: "Piano"}, true) // read from disk, newest first
	x.Put(piece.Piece{Hash: "a", Title: "a", Composer: "Y", Instrument: "Lute"}, true)
	x.Put(piece.Piece{Hash: "n", Instrument: "Oboe"}, false) // put while the rest is read
	x.Put(piece.Piece{Hash: "n", Title: "old"}, true)        // must not replace the newer version
	x.Put(piece.Piece{Hash: "a", Title: "A", Composer: "Y", Instrument: "Lute"}, false)
	for by, want := range map[piece.Sort]string{
		piece.Newest: "a n b", "": "a n b", piece.ByTitle: "a b n", piece.ByComposer: "b a n", piece.ByInstrument: "a n b",
	} {
		var got []string
		for _, h := range slices.SortedFunc(x.Search(piece.Query{}), piece.Order(by)) {
			got = append(got, h.Hash())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("by %q: %q, want %q", by, got, want)
		}
	}
}

func TestDocumentsOfOtherAppsArePieces(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"hash":"Qm1","instrument":"Piano"}`:                   true,
		`{"hash":"Qm1","title":5,"size":"big","composer":null}`: true,
		`{"hash":""}`: false, `{"hash":5}`: false, `{}`: false, `"Qm1"`: false, `null`: false,
		`{"hash":"` + strings.Repeat("x", piece.MaxHash+1) + `"}`: false,
	} {
		v, err := value.FromJSON([]byte(text))
		must(t, err)
		p, got := piece.Of(v)
		if got != ok || ok && (p.Hash != "Qm1" || p.Title != "" || p.Size != 0) {
			t.Errorf("%.60s: %v %+v", text, got, p)
		}
	}
	v, err := value.FromJSON([]byte(`{"hash":"Qm1","size":42,"type":"application/pdf"}`))
	must(t, err)
	if p, _ := piece.Of(v); p.Size != 42 || p.MediaType != "application/pdf" {
		t.Errorf("%+v", p)
	}
}

// Documents come from any companion.
func FuzzIndex(f *testing.F) {
	f.Add("Qm1", "Title", "ﬁ", "dvořák \u0301", "x")
	f.Add(v0, strings.Repeat("İ", 600), "\xff\xfe", "\n\n", "i̇")
	f.Fuzz(func(t *testing.T, hash, title, composer, instrument, text string) {
		x := piece.NewIndex()
		p := piece.Piece{Hash: hash, Title: title, Composer: composer, Instrument: instrument, Name: text}
		x.Put(p, false)
		x.Put(p, false)
		if len(title) <= 64 && utf8.ValidString(title) {
			if hits := slices.Collect(x.Search(piece.Query{Title: title})); len(hits) != 1 {
				t.Errorf("%q is not found by its title", title)
			}
		}
		for h := range x.Search(piece.Query{Text: text, Composer: composer, Instrument: instrument}) {
			if h.Hash() != hash {
				t.Errorf("found %q", h.Hash())
			}
		}
		if _, ok := x.Find(hash); !ok {
			t.Errorf("%q is not found", hash)
		}
		x.Delete(hash)
		if n, _ := x.Len(); n != 0 || x.Has(piece.Canonical(hash)) {
			t.Errorf("%q was not deleted", hash)
		}
	})
}
