package entry_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	dcr "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/value"
)

// parts are the fields of an entry as items, in the order of its block.
type parts []part

type part struct {
	name string
	item []byte
}

func text(s string) []byte { return dagcbor.AppendText(nil, s) }

func texts(list ...string) []byte {
	b := dagcbor.AppendArray(nil, len(list))
	for _, s := range list {
		b = dagcbor.AppendText(b, s)
	}
	return b
}

// clock returns the item of a clock with the given time.
func clock(id string, time ...byte) []byte {
	b := dagcbor.AppendText([]byte{0xa2, 0x62, 'i', 'd'}, id)
	return append(append(b, 0x64, 't', 'i', 'm', 'e'), time...)
}

// honest returns the parts of a valid entry.
func honest(s *identity.Signer) parts {
	p := parts{
		{"v", []byte{2}}, {"id", text(logID)}, {"key", text(s.PublicKey)}, {"sig", nil}, {"next", texts(hash(1), hash(2))},
		{"refs", texts(hash(3))}, {"clock", clock(s.PublicKey, 7)}, {"payload", text("value")}, {"identity", text(s.Hash())},
	}
	return p.signed(s)
}

func (p parts) index(name string) int {
	return slices.IndexFunc(p, func(p part) bool { return p.name == name })
}

// with returns the parts with one item replaced.
func (p parts) with(name string, item []byte) parts {
	p = slices.Clone(p)
	p[p.index(name)].item = item
	return p
}

func (p parts) without(name string) parts {
	i := p.index(name)
	return slices.Delete(slices.Clone(p), i, i+1)
}

// signed returns the parts with the signature that JavaScript accepts: the one
// over its own encoding.
func (p parts) signed(s *identity.Signer) parts {
	b := []byte{0xa6}
	for _, name := range []string{"v", "id", "next", "refs", "clock", "payload"} {
		b = append(dagcbor.AppendText(b, name), p[p.index(name)].item...)
	}
	// An item that is nested too deep cannot be encoded here.
	if normal, err := dagcbor.Normalize(b); err == nil {
		b = normal
	}
	sig, err := s.Sign(b)
	if err != nil {
		panic(err)
	}
	return p.with("sig", text(sig))
}

func (p parts) data() []byte {
	b := dagcbor.AppendMap(nil, len(p))
	for _, part := range p {
		b = append(dagcbor.AppendText(b, part.name), part.item...)
	}
	return b
}

func (p parts) block() block.Block { return block.New(p.data()) }

// nested returns an item in arrays.
func nested(depth int) []byte { return append(bytes.Repeat([]byte{0x81}, depth), 0) }

func malformed(t *testing.T, what string, data []byte) {
	t.Helper()
	b := block.New(data)
	if e, err := entry.Decode(b); !errors.Is(err, entry.ErrMalformed) || e != nil || !strings.Contains(err.Error(), b.Hash) {
		t.Errorf("%s: %+v, %v", what, e, err)
	}
}

func TestHonestEntryIsValid(t *testing.T) {
	s := signer(t, "A")
	b := honest(s).block()
	e, err := entry.Decode(b)
	must(t, err)
	must(t, e.Check(s.Identity))
	made := again(t, s, e)
	if made.Hash() != b.Hash {
		t.Errorf("%x was made again as %x", b.Data, made.Block.Data)
	}
}

func TestBlockThatIsNotAnEntryIsMalformed(t *testing.T) {
	s := signer(t, "A")
	p := honest(s)
	data := p.data()
	for what, data := range map[string][]byte{
		"nothing":               nil,
		"an empty map":          {0xa0},
		"a list":                {0x80},
		"null":                  {0xf6},
		"bytes":                 dagcbor.AppendBytes(nil, data),
		"an identity":           s.Block().Data,
		"a byte behind":         append(bytes.Clone(data), 0),
		"an entry behind":       append(bytes.Clone(data), data...),
		"a byte less":           data[:len(data)-1],
		"a count too large":     append([]byte{0xaa}, data[1:]...),
		"a count too small":     append([]byte{0xa8}, data[1:]...),
		"a longer count":        append([]byte{0xb8, 9}, data[1:]...),
		"an indefinite map":     append(append([]byte{0xbf}, data[1:]...), 0xff),
		"a number as name":      append([]byte{0xaa, 0, 0}, data[1:]...),
		"a tag":                 append([]byte{0xc1}, data...),
		"a longer v":            p.with("v", []byte{0x18, 2}).data(),
		"a longer text":         p.with("id", append([]byte{0x79, 0, byte(len(logID))}, logID...)).data(),
		"a longer list":         p.with("refs", []byte{0x98, 0}).data(),
		"an indefinite list":    p.with("refs", []byte{0x9f, 0xff}).data(),
		"a longer time":         p.with("clock", clock(s.PublicKey, 0x18, 7)).data(),
		"an even longer time":   p.with("clock", clock(s.PublicKey, 0x1b, 0, 0, 0, 0, 0, 0, 0, 7)).data(),
		"a longer int in it":    p.with("payload", []byte{0x81, 0x18, 1}).data(),
		"a time that is NaN":    p.with("clock", clock(s.PublicKey, 0xf9, 0x7e, 0)).data(),
		"an infinite time":      p.with("clock", clock(s.PublicKey, 0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0)).data(),
		"a payload that is NaN": p.with("payload", []byte{0xf9, 0x7e, 0}).data(),
		"a payload with a tag":  p.with("payload", []byte{0xc1, 0}).data(),
		"a payload JavaScript cannot encode": p.with("payload", []byte{0xa2, 0x61, '/', 0x61, 'x', 0x65, 'b', 'y', 't', 'e', 's', 0x61, 'x'}).
			data(),
		"a field cut off":    append(parts{{"v", nil}}.data(), 0x82, 1),
		"an extra field cut": append(append([]byte{0xaa}, data[1:]...), 0x61, 'x', 0x82, 1),
	} {
		malformed(t, what, data)
	}
}

func TestOnlyOneByteStringMayBeAnEncryptedEntry(t *testing.T) {
	whole := dagcbor.AppendBytes(nil, []byte("secret"))
	for what, test := range map[string]struct {
		data []byte
		want bool
	}{
		"a byte string":       {whole, true},
		"an empty one":        {dagcbor.AppendBytes(nil, nil), false},
		"one that is cut off": {whole[:len(whole)-1], false},
		"one and more":        {append(bytes.Clone(whole), 0xf6), false},
		"two":                 {append(bytes.Clone(whole), whole...), false},
		"a longer length":     {append([]byte{0x58, 6}, "secret"...), false},
		"one in a list":       {append([]byte{0x81}, whole...), false},
		"a text":              {text("secret"), false},
		"a link":              {longLink(1, 0x71, 0x12, 0x20), false},
		"one that is too big": {dagcbor.AppendBytes(nil, make([]byte, block.MaxSize)), false},
	} {
		if _, err := entry.Decode(block.New(test.data)); errors.Is(err, entry.ErrEncrypted) != test.want || !errors.Is(err, entry.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestEveryFieldMustBeThereOnce(t *testing.T) {
	p := honest(signer(t, "A"))
	for i, part := range p {
		malformed(t, "no "+part.name, p.without(part.name).data())
		malformed(t, "null for "+part.name, append(p.without(part.name), parts{{"other", []byte{0xf6}}}...).data())
		malformed(t, part.name+" twice", slices.Insert(slices.Clone(p), i, part).data())
		malformed(t, part.name+" twice", append(slices.Clone(p), part).data())
		other := slices.Clone(p)
		other[(i+1)%len(p)] = part
		malformed(t, part.name+" instead of another", other.data())
	}
}

func TestFieldsOfAnotherTypeAreMalformed(t *testing.T) {
	s := signer(t, "A")
	p := honest(s)
	numbers := [][]byte{{0}, {0xf6}, {0xf5}, {0xa0}, nested(0), nested(1000)}
	for _, item := range slices.Concat(numbers, [][]byte{{0x80}, {0x40}, dagcbor.AppendBytes(nil, []byte(logID)), texts(logID)}) {
		malformed(t, "id", p.with("id", item).signed(s).data())
	}
	c := cid.MustParse(hash(1))
	link, err := dagcbor.AppendLink([]byte{0x81}, c)
	must(t, err)
	raw, err := cid.NewCidV1(cid.Raw, c.Hash()).StringOfBase(multibase.Base58BTC)
	must(t, err)
	lists := slices.Concat(numbers, [][]byte{
		text("x"), text(hash(1)), {0x41, 0}, dagcbor.AppendBytes(nil, []byte(hash(1))), link, {0x81, 0xf6}, {0x81, 0x80},
		{0x81, 0x60}, texts("x"), texts(hash(1), "x"), texts(c.String()), texts(raw), texts(hash(1)[1:]), texts(hash(1) + "x"),
		append([]byte{0x81}, dagcbor.AppendBytes(nil, []byte(hash(1)))...), append([]byte{0x81}, texts(hash(1))...),
		{0x9a, 0xff, 0xff, 0xff, 0xff},
	})
	for _, item := range lists {
		malformed(t, "next", p.with("next", item).signed(s).data())
		malformed(t, "refs", p.with("refs", item).signed(s).data())
	}
}

// No memory is allocated for the length of a list that a block claims.
func TestAListIsNotLongerThanItsBytes(t *testing.T) {
	const n = block.MaxSize - 64
	data := dagcbor.AppendText(dagcbor.AppendMap(nil, 9), "next")
	data = append(dagcbor.AppendArray(data, n), make([]byte, n)...)
	b := block.New(data)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := entry.Decode(b)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, entry.ErrMalformed) {
		t.Error(err)
	}
	if bytes := after.TotalAlloc - before.TotalAlloc; bytes > block.MaxSize {
		t.Errorf("%d bytes for a block of %d", bytes, len(data))
	}
}

func TestAnOversizeBlockIsMalformed(t *testing.T) {
	s := signer(t, "A")
	sample := strings.Repeat("x", 1<<20)
	overhead := len(honest(s).with("payload", text(sample)).signed(s).data()) - len(sample)
	sized := func(size int) []byte {
		// The length of a signature depends on the signed data.
		for filler := 'a'; ; filler++ {
			sample := strings.Repeat(string(filler), size-overhead)
			if data := honest(s).with("payload", text(sample)).signed(s).data(); len(data) == size {
				return data
			}
		}
	}
	e, err := entry.Decode(block.New(sized(block.MaxSize)))
	must(t, err)
	must(t, e.Check(s.Identity))
	malformed(t, "oversize", sized(block.MaxSize+1))
}

// float returns the item of a 64-bit float.
func float(v float64) []byte {
	return binary.BigEndian.AppendUint64([]byte{0xfb}, math.Float64bits(v))
}

// wrongClocks are items that are not a clock, or not the clock of the key.
func wrongClocks(s *identity.Signer) map[string][]byte {
	id := s.PublicKey
	withoutTime := clock(id)[1 : len(clock(id))-5]
	const time = "\x64time\x07"
	return map[string][]byte{
		"1.0 as time":          clock(id, float(1)...),
		"f16 time":             clock(id, 0xf9, 0x3c, 0x00),
		"f32 time":             clock(id, 0xfa, 0x3f, 0x80, 0, 0),
		"f32 2^53":             clock(id, 0xfa, 0x5a, 0, 0, 0),
		"an int of 2^53":       clock(id, 0x1b, 0, 0x20, 0, 0, 0, 0, 0, 0),
		"an int of 2^53+1":     clock(id, 0x1b, 0, 0x20, 0, 0, 0, 0, 0, 1),
		"an int of 2^64-1":     clock(id, 0x1b, 255, 255, 255, 255, 255, 255, 255, 255),
		"-1":                   clock(id, 0x20),
		"-2^64":                clock(id, 0x3b, 255, 255, 255, 255, 255, 255, 255, 255),
		"-1.0":                 clock(id, float(-1)...),
		"-0.0":                 clock(id, float(math.Copysign(0, -1))...),
		"-1.5":                 clock(id, float(-1.5)...),
		"-1e300":               clock(id, float(-1e300)...),
		"a text as time":       clock(id, text("7")...),
		"null as time":         clock(id, 0xf6),
		"true as time":         clock(id, 0xf5),
		"a list as time":       clock(id, 0x81, 7),
		"bytes as time":        clock(id, 0x41, 7),
		"another id":           clock(s.ID, 7),
		"an upper-case id":     clock(strings.ToUpper(id), 7),
		"no id":                clock("", 7),
		"a path as id":         clock("../../x", 7),
		"null as id":           []byte("\xa2\x62id\xf6" + time),
		"an extra clock field": append([]byte("\xa3\x61x\x00"), clock(id, 7)[1:]...),
		"another clock field":  []byte("\xa2\x61x\x00" + time),
		"only a time":          []byte("\xa1" + time),
		"only an id":           append([]byte{0xa1}, withoutTime...),
		"an unsorted clock":    append([]byte("\xa2"+time), withoutTime...),
		"an empty clock":       {0xa0},
		"null":                 {0xf6},
		"undefined":            {0xf7},
		"a number":             {7},
		"a text":               text(id),
		"a list":               texts(id),
		"deep":                 nested(1000),
		"a deep time":          clock(id, nested(1000)...),
	}
}

var wrongVersions = map[string][]byte{
	"0": {0}, "1": {1}, "3": {3}, "-3": {0x22}, "2^64-1": {0x1b, 255, 255, 255, 255, 255, 255, 255, 255},
	"2.0": float(2), "f16": {0xf9, 0x40, 0}, "text": text("2"), "null": {0xf6}, "list": {0x81, 2}, "deep": nested(1000),
}

var wrongPayloads = map[string][]byte{
	"unsorted":     []byte("\xa2\x62bb\x01\x61a\x01"),
	"float":        float(1),
	"f32":          {0xfa, 0x3f, 0xc0, 0, 0},
	"undefined":    {0xf7},
	"no UTF-8":     {0x61, 0xff},
	"with a mark":  []byte("\x64\ufeffa"),
	"__proto__":    []byte("\xa1\x69__proto__\x01"),
	"129 deep":     nested(dagcbor.MaxDepth + 1),
	"a long codec": longLink(0x01, 0xf1, 0x00, 0x12, 0x20),
	"a long size":  longLink(0x81, 0x80, 0x00, 0x71, 0x12, 0xa0, 0x00),
	"version 0":    longLink(0x00, 0x70, 0x12, 0x20),
	"deep":         nested(1000),
	"deep in maps": append(bytes.Repeat([]byte("\xa1\x61a"), 1000), 0x82, 1, 2),
}

// wrongIdentities all name the same block in JavaScript, except the last one.
func wrongIdentities(s *identity.Signer) map[string][]byte {
	c := cid.MustParse(s.Hash())
	raw, _ := cid.NewCidV1(cid.Raw, c.Hash()).StringOfBase(multibase.Base58BTC)
	return map[string][]byte{
		"raw": text(raw), "v0": text(cid.NewCidV0(c.Hash()).String()), "base32": text(c.String()),
		"in a list": texts(s.Hash()), "bytes": dagcbor.AppendBytes(nil, []byte(s.Hash())),
		"empty": {0x60}, "null": {0xf6}, "deep": nested(1000), "of another": text(hash(1)),
	}
}

func wrongKeys(s, other *identity.Signer) map[string][]byte {
	return map[string][]byte{
		"in a list": texts(s.PublicKey), "upper case": text(strings.ToUpper(s.PublicKey)), "empty": {0x60}, "null": {0xf6},
		"deep": nested(1000), "root": text(s.ID), "of another": text(other.PublicKey),
	}
}

func wrongSignatures(t testing.TB, sig string) map[string][]byte {
	raw := unhex(t, sig)
	parsed, err := dcr.ParseDERSignature(raw)
	must(t, err)
	r, s := parsed.R(), parsed.S()
	rb, sb := r.Bytes(), s.Negate().Bytes()
	return map[string][]byte{
		"in a list": texts(sig), "in two": append([]byte{0x81}, texts(sig)...), "bytes": dagcbor.AppendBytes(nil, raw),
		"upper case": text(strings.ToUpper(sig)), "high S": text(hex.EncodeToString(derOf(rb[:], sb[:]))),
		"a byte behind": text(sig + "00"), "empty": {0x60}, "null": {0xf6}, "deep": nested(1000),
	}
}

// wrong are invalid entries. Where the signed part is invalid, the signature is
// one that JavaScript accepts.
func wrong(t testing.TB, s, other *identity.Signer) map[string]parts {
	p := honest(s)
	all := map[string]parts{
		"another's key and signature":       p.with("key", text(other.PublicKey)).with("clock", clock(other.PublicKey, 7)).signed(other),
		"another's key, the identity's sig": p.with("key", text(other.PublicKey)).with("clock", clock(other.PublicKey, 7)).signed(s),
		"another's signature":               p.signed(other),
		"another's identity":                p.with("identity", text(other.Hash())),
		"signature of another payload":      p.with("payload", text("valuf")),
		"signature of another log":          p.with("id", text(logID+"x")),
		"signature of another next":         p.with("next", texts(hash(2), hash(1))),
		"signature of another refs":         p.with("refs", texts()),
		"signature of another time":         p.with("clock", clock(s.PublicKey, 8)),
		"extra V":                           append(parts{{"V", []byte{2}}}, p...),
		"extra hash":                        slices.Insert(slices.Clone(p), 5, part{"hash", text(hash(1))}),
	}
	signed := map[string]map[string][]byte{"clock": wrongClocks(s), "v": wrongVersions, "payload": wrongPayloads}
	for _, name := range []string{"next", "refs"} {
		signed[name] = map[string][]byte{"empty text": {0x60}, "empty bytes": {0x40}, "a byte order mark": []byte("\x63\ufeff")}
	}
	for name, items := range signed {
		for what, item := range items {
			all[name+": "+what] = p.with(name, item).signed(s)
		}
	}
	sig, _ := value.Value(p[p.index("sig")].item).Text()
	for name, items := range map[string]map[string][]byte{
		"identity": wrongIdentities(s), "key": wrongKeys(s, other), "sig": wrongSignatures(t, sig),
	} {
		for what, item := range items {
			all[name+": "+what] = p.with(name, item)
		}
	}
	for i := range len(p) - 1 {
		all["moved "+p[i].name] = append(slices.Delete(slices.Clone(p), i, i+1), p[i])
	}
	for what, item := range map[string][]byte{"null": {0xf6}, "text": text("x"), "deep": nested(1000)} {
		all["extra: "+what] = append(slices.Clone(p), part{"zzzzzzzzz", item})
		all["extra in front: "+what] = append(parts{{"a", item}}, p...)
		all["extra __proto__: "+what] = append(slices.Clone(p), part{"__proto__", item})
	}
	return all
}

func derOf(r, s []byte) []byte {
	integer := func(b []byte) []byte {
		b = bytes.TrimLeft(b, "\x00")
		if b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return append([]byte{2, byte(len(b))}, b...)
	}
	content := append(integer(r), integer(s)...)
	return append([]byte{0x30, byte(len(content))}, content...)
}

func TestInvalidEntriesStayInTheGraph(t *testing.T) {
	s := signer(t, "A")
	for what, p := range wrong(t, s, signer(t, "B")) {
		b := p.block()
		e, err := entry.Decode(b)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := e.Check(s.Identity); !errors.Is(err, entry.ErrInvalid) || !strings.Contains(err.Error(), b.Hash) {
			t.Errorf("%s: %v", what, err)
		}
		if len(e.Check(s.Identity).Error()) > 400 {
			t.Errorf("%s: %v", what, e.Check(s.Identity))
		}
		if e.Identity == "" {
			if err := e.Check(nil); !errors.Is(err, entry.ErrInvalid) {
				t.Errorf("%s: without an identity: %v", what, err)
			}
		} else if !block.ValidHash(e.Identity) {
			t.Errorf("%s: identity %q", what, e.Identity)
		}
		next, refs := []string{hash(1), hash(2)}, []string{hash(3)}
		if strings.Contains(what, "next") {
			next = e.Next
		}
		if strings.Contains(what, "refs") {
			refs = e.Refs
		}
		if !slices.Equal(e.Next, next) || !slices.Equal(e.Refs, refs) || !slices.Equal(e.Parents(), slices.Concat(next, refs)) {
			t.Errorf("%s: next %q, refs %q, parents %q", what, e.Next, e.Refs, e.Parents())
		}
		if !strings.HasPrefix(e.LogID, logID) || e.Hash() != b.Hash || e.Clock.Time < 0 || e.Position(e.Rank()).Compare(e.Position(e.Rank())) != 0 {
			t.Errorf("%s: %+v", what, e)
		}
	}
}

// longLink returns a link to a CID with a prefix before 32 bytes of hash.
func longLink(prefix ...byte) []byte {
	b := []byte{0xd8, 0x2a, 0x58, byte(1 + len(prefix) + 32), 0}
	return append(append(b, prefix...), make([]byte, 32)...)
}

func TestCheckStatesWhyAnEntryIsInvalid(t *testing.T) {
	s := signer(t, "A")
	all := wrong(t, s, signer(t, "B"))
	for what, why := range map[string]string{
		"v: 3":                              "version is unknown",
		"payload: deep":                     "not a value",
		"extra: null":                       `field "zzzzzzzzz"`,
		"sig: in a list":                    "sig is not a text",
		"key: null":                         "key is not a text",
		"identity: raw":                     "identity is not a CID",
		"next: empty text":                  "next is not a list",
		"refs: empty bytes":                 "refs is not a list",
		"clock: null":                       "clock is malformed",
		"clock: only a time":                "clock is malformed",
		"clock: another clock field":        `unknown field "x"`,
		"clock: -1.5":                       "time is negative",
		"clock: an int of 2^53":             "a BigInt",
		"clock: a text as time":             "clock is malformed",
		"clock: another id":                 "clock is not that of its key",
		"clock: f32 time":                   "not encoded as OrbitDB encodes it",
		"payload: unsorted":                 "not encoded as OrbitDB encodes it",
		"moved v":                           "not encoded as OrbitDB encodes it",
		"key: of another":                   "not that of its identity",
		"another's identity":                "not that of its identity",
		"another's key, the identity's sig": "not that of its identity",
		"sig: high S":                       identity.ErrInvalidSignature.Error(),
		"signature of another payload":      identity.ErrInvalidSignature.Error(),
	} {
		e, err := entry.Decode(all[what].block())
		must(t, err)
		if err := e.Check(s.Identity); !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", what, err, why)
		}
	}
}

func TestInvalidClockIsTheZeroClock(t *testing.T) {
	s := signer(t, "A")
	for _, what := range []string{"-1", "-1.5", "an int of 2^53", "a text as time", "an extra clock field", "another clock field", "only a time", "only an id", "null as id", "an int of 2^53+1", "deep"} {
		e, err := entry.Decode(honest(s).with("clock", wrongClocks(s)[what]).signed(s).block())
		must(t, err)
		if e.Clock != (entry.Clock{}) {
			t.Errorf("%s: %+v", what, e.Clock)
		}
	}
}

func TestEmptyNextHasNoParents(t *testing.T) {
	s := signer(t, "A")
	for _, item := range [][]byte{{0x60}, {0x40}} {
		e, err := entry.Decode(honest(s).with("next", item).with("refs", item).signed(s).block())
		must(t, err)
		if len(e.Parents()) != 0 {
			t.Errorf("%q", e.Parents())
		}
	}
}

func TestEntryWithAnUnsignedFieldIsInvalid(t *testing.T) {
	s := signer(t, "A")
	e, err := entry.Decode(append(honest(s), part{"zzzzzzzzz", []byte{0xf6}}).block())
	must(t, err)
	if err := e.Check(s.Identity); !errors.Is(err, entry.ErrInvalid) || !strings.Contains(err.Error(), "zzzzzzzzz") {
		t.Error(err)
	}
}

func TestEntryWithTheIdentityOfAnotherWriterIsInvalid(t *testing.T) {
	a, b := signer(t, "A"), signer(t, "B")
	p := honest(b).with("identity", text(a.Hash()))
	e, err := entry.Decode(p.block())
	must(t, err)
	for _, i := range []*identity.Identity{a.Identity, b.Identity, nil} {
		if err := e.Check(i); !errors.Is(err, entry.ErrInvalid) {
			t.Errorf("%+v: %v", i, err)
		}
	}
}

func TestEntryWithTheClockOfAnotherKeyIsInvalid(t *testing.T) {
	s := signer(t, "A")
	for _, id := range []string{"zzz", s.ID, "", signer(t, "B").PublicKey} {
		e, err := entry.Decode(honest(s).with("clock", clock(id, 7)).signed(s).block())
		must(t, err)
		if err := e.Check(s.Identity); !errors.Is(err, entry.ErrInvalid) || !strings.Contains(err.Error(), "clock") {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestTimesThatJavaScriptWritesAreValid(t *testing.T) {
	s := signer(t, "A")
	for time, item := range map[float64][]byte{
		0:                           {0},
		1:                           {1},
		24:                          {0x18, 24},
		1<<53 - 1:                   {0x1b, 0, 0x1f, 255, 255, 255, 255, 255, 255},
		1 << 53:                     {0xfb, 0x43, 0x40, 0, 0, 0, 0, 0, 0},
		1<<53 + 2:                   float(1<<53 + 2),
		1 << 64:                     float(1 << 64),
		0.5:                         float(0.5),
		1.5:                         float(1.5),
		1e300:                       float(1e300),
		math.MaxFloat64:             float(math.MaxFloat64),
		math.SmallestNonzeroFloat64: float(math.SmallestNonzeroFloat64),
	} {
		e, err := entry.Decode(honest(s).with("clock", clock(s.PublicKey, item...)).signed(s).block())
		must(t, err)
		if err := e.Check(s.Identity); err != nil || e.Clock.Time != time {
			t.Errorf("%v as %v: %v", time, e.Clock.Time, err)
		}
	}
}

func TestMalformedBlockIsNotReportedAsInvalid(t *testing.T) {
	s := signer(t, "A")
	p := append(parts{{"a", []byte{0}}}, honest(s).with("v", []byte{3})...)
	malformed(t, "a fault, then a bad list", p.with("refs", texts("x")).data())
	malformed(t, "a fault, then a missing field", p.without("identity").data())
	malformed(t, "a fault, then a byte", append(p.data(), 0))
}

func TestPayloadsMayBeAsDeepAsValues(t *testing.T) {
	s := signer(t, "A")
	e, err := entry.Decode(honest(s).with("payload", nested(dagcbor.MaxDepth)).signed(s).block())
	must(t, err)
	if err := e.Check(s.Identity); err != nil || !e.Payload.Equal(value.Value(nested(dagcbor.MaxDepth))) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	s := signer(f, "A")
	for _, p := range wrong(f, s, signer(f, "B")) {
		f.Add(p.data())
	}
	f.Add(honest(s).data())
	f.Add(dagcbor.AppendBytes(nil, honest(s).data()))
	f.Add([]byte{0x40})
	for _, d := range []database{load(f).Documents, load(f).KeyValue, load(f).Events} {
		for _, v := range d.Entries {
			f.Add(v.block(f).Data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := block.New(data)
		e, err := entry.Decode(b)
		if err != nil {
			if !errors.Is(err, entry.ErrMalformed) {
				t.Fatal(err)
			}
			v, valueErr := value.FromCBOR(data)
			encrypted := valueErr == nil && v.Kind() == value.KindBytes && len(v) > 1
			if errors.Is(err, entry.ErrEncrypted) != encrypted {
				t.Fatalf("%x: %v", data, err)
			}
			return
		}
		for _, hash := range append(e.Parents(), e.Hash()) {
			if !block.ValidHash(hash) {
				t.Fatalf("hash %q", hash)
			}
		}
		if !(e.Clock.Time >= 0) || math.IsInf(e.Clock.Time, 1) {
			t.Fatalf("time %v", e.Clock.Time)
		}
		fault := e.Check(s.Identity)
		if fault == nil {
			// New derives the clock from the heads.
			usual := e.Clock.Time == 1 || e.Clock.Time > 1 && e.Clock.Time-1+1 == e.Clock.Time && len(e.Next) > 0
			if usual && !bytes.Equal(again(t, s, e).Block.Data, data) {
				t.Fatalf("%x was made again otherwise", data)
			}
		} else if !errors.Is(fault, entry.ErrInvalid) {
			t.Fatal(fault)
		}
		if err := e.Check(nil); !errors.Is(err, entry.ErrInvalid) {
			t.Fatal(err)
		}
	})
}
