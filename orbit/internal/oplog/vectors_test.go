package oplog_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// vectors are entries that JavaScript wrote.
type vectors struct {
	Identities map[string]struct {
		Root    string `json:"root_private_key_hex"`
		Signing string `json:"signing_private_key_hex"`
	}
	Pieces struct {
		Address string
		Entries []struct {
			JSON struct{ Payload json.RawMessage }
		}
	} `json:"documents_pieces"`
	Chain struct {
		Hashes  []string
		Entries []struct {
			Time       float64
			Next, Refs []int
		}
		Last struct {
			Bytes string `json:"bytes_hex"`
		} `json:"entry20"`
	} `json:"documents_refs_chain"`
	Merge struct {
		Heads  []string `json:"heads_before_merge_entry"`
		Values []struct {
			Payload    string
			Hash       string
			Next, Refs []string
			Bytes      string `json:"bytes_hex"`
		}
	}
}

func readVectors(t *testing.T) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/javascript.json")
	must(t, err)
	must(t, json.Unmarshal(b, &v))
	return v
}

func (v vectors) signer(t *testing.T, name string) *identity.Signer {
	t.Helper()
	key := func(text string) crypto.PrivKey {
		raw, err := hex.DecodeString(text)
		must(t, err)
		k, err := crypto.UnmarshalSecp256k1PrivateKey(raw)
		must(t, err)
		return k
	}
	s, err := identity.New(key(v.Identities[name].Root), key(v.Identities[name].Signing))
	must(t, err)
	return s
}

func openNamed(t *testing.T, id string) *oplog.Log {
	t.Helper()
	l, err := oplog.Open(t.Context(), store.New(storetest.NewDisk(), namespace), 1, id, config(nil))
	must(t, err)
	equal(t, "ID", l.ID(), id)
	return l
}

func TestChainIsThatOfJavaScript(t *testing.T) {
	v := readVectors(t)
	a := v.signer(t, "A")
	l := openNamed(t, v.Pieces.Address)
	var payloads []value.Value
	for _, e := range v.Pieces.Entries {
		p, err := value.FromJSON(e.JSON.Payload)
		must(t, err)
		payloads = append(payloads, p)
	}
	for n := len(payloads); n < len(v.Chain.Hashes); n++ {
		id := fmt.Sprint("d", n)
		doc, err := value.Of(map[string]any{"_id": id, "n": n})
		must(t, err)
		payloads = append(payloads, keyed.Put(value.Text(id), doc))
	}
	entries, err := l.Append(t.Context(), a, payloads...)
	must(t, err)
	same(t, "hashes", hashes(entries), v.Chain.Hashes)
	named := func(indices []int) (list []string) {
		for _, i := range indices {
			list = append(list, v.Chain.Hashes[i])
		}
		return list
	}
	for i, e := range entries {
		want := v.Chain.Entries[i]
		equal(t, "time", e.Clock.Time, want.Time)
		same(t, "next", e.Next, named(want.Next))
		same(t, "refs", e.Refs, named(want.Refs))
	}
	equal(t, "the last entry", hex.EncodeToString(entries[len(entries)-1].Block.Data), v.Chain.Last.Bytes)
}

func TestMergeIsThatOfJavaScript(t *testing.T) {
	v := readVectors(t)
	id := "/orbitdb/zTESTLOG"
	logs := map[string]*oplog.Log{"A": openNamed(t, id), "B": openNamed(t, id)}
	written := make(map[string]*entry.Entry)
	for _, want := range v.Merge.Values {
		writer := want.Payload[:1]
		l := logs[writer]
		if len(want.Next) > 1 { // the merge entry, by A
			var of []oplog.Candidate
			for _, name := range []string{"B1", "B2"} {
				of = append(of, oplog.Candidate{Entry: written[name]})
			}
			_, err := l.Join(t.Context(), of)
			must(t, err)
			heads, err := l.Heads(t.Context())
			must(t, err)
			var got []string
			for _, h := range heads {
				e, err := l.Get(t.Context(), h.Hash)
				must(t, err)
				text, _ := e.Payload.Text()
				got = append(got, text+" "+h.Hash)
			}
			same(t, "heads", got, v.Merge.Heads)
		}
		entries, err := l.Append(t.Context(), v.signer(t, writer), value.Text(want.Payload))
		must(t, err)
		e := entries[0]
		written[want.Payload] = e
		equal(t, "hash of "+want.Payload, e.Hash(), want.Hash)
		equal(t, "bytes of "+want.Payload, hex.EncodeToString(e.Block.Data), want.Bytes)
		same(t, "next of "+want.Payload, e.Next, want.Next)
		same(t, "refs of "+want.Payload, e.Refs, want.Refs)
	}
	var order []string
	for _, e := range all(t, logs["A"].Ascend(t.Context())) {
		text, _ := e.Payload.Text()
		order = append(order, text)
	}
	var want []string
	for _, v := range v.Merge.Values {
		want = append(want, v.Payload)
	}
	same(t, "oldest first", order, want)
	slices.Reverse(order)
	var descending []string
	for _, e := range all(t, logs["A"].Iterate(t.Context(), oplog.Range{})) {
		text, _ := e.Payload.Text()
		descending = append(descending, text)
	}
	same(t, "newest first", descending, order)
}
