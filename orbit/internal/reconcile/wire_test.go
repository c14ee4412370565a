package reconcile

import (
	"bytes"
	"math"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

func someRequests() []request {
	hash := digest{1, 2, 3}
	return []request{
		{kind: askOpen, address: "/orbitdb/zdpuAw"},
		{kind: askBlocks, hashes: []string{block.Hash(nil), block.Hash([]byte("b"))}},
		{kind: askBlocks},
		{kind: askNodes, paths: []oplog.Path{"", "\x00", "\x02\x01\x00"}},
		{kind: askHashes, paths: []oplog.Path{"\x01\x0f"}, hashes: []string{block.Hash(nil)}},
		{kind: askItems, items: []item{{path: ""}, {hash: &hash}, {path: "\x03\x01"}}},
		{kind: askState},
	}
}

func someAnswers() []answer {
	return []answer{
		{Node: oplog.Node{Path: "\x02"}},
		{Node: oplog.Node{Path: "\x02\x01", Count: math.MaxUint64, Sum: oplog.Sum{1, 15: 255}}, children: []oplog.Node{{Path: "\x02\x01\x00", Count: 1}, {Path: "\x02\x01\x0f", Count: 7}}},
		{Node: oplog.Node{Path: "\x02\x01\x01", Count: 2}, hashList: hashList{[]digest{{1}, {2}}, true}},
	}
}

func pathsOf(answers []answer) (paths []oplog.Path) {
	for _, a := range answers {
		paths = append(paths, a.Path)
	}
	return paths
}

func TestFramesAreReadAsTheyWereWritten(t *testing.T) {
	for _, q := range someRequests() {
		if got, err := decodeRequest(q.encode()); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("got %+v, %v; want %+v", got, err, q)
		}
	}
	answers := someAnswers()
	if got, err := decodeAnswers(encodeAnswers(answers), pathsOf(answers)); err != nil || !reflect.DeepEqual(got, answers) {
		t.Errorf("got %+v, %v; want %+v", got, err, answers)
	}
	n := hashList{[]digest{{1}, {2}}, true}
	if got, err := decodeHashes(n.encode()); err != nil || !reflect.DeepEqual(got, n) {
		t.Errorf("got %+v, %v; want %+v", got, err, n)
	}
}

// The largest requests that are sent can be read.
func TestLargestRequestFits(t *testing.T) {
	hash := digest{}
	for _, q := range []request{
		{kind: askItems, items: slices.Repeat([]item{{hash: &hash}}, maxItems)},
		{kind: askBlocks, hashes: slices.Repeat([]string{block.Hash(nil)}, maxBlocks)},
		{kind: askNodes, paths: slices.Repeat([]oplog.Path{"\x0f\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"}, maxPaths)},
	} {
		frame := q.encode()
		if _, err := decodeRequest(frame); err != nil || len(frame) > maxRequest {
			t.Errorf("%d bytes: %v", len(frame), err)
		}
	}
	a := answer{hashList: hashList{hashes: make([]digest, fewHashes)}}
	for d := range byte(16) {
		a.children = append(a.children, oplog.Node{Path: oplog.Path([]byte{d}), Count: math.MaxUint64})
	}
	if n := len(encodeAnswers(slices.Repeat([]answer{a}, maxPaths))); n > maxAnswer {
		t.Errorf("%d bytes of answers", n)
	}
}

// A small frame does not expand to a large batch.
func TestBatchHasABound(t *testing.T) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := e.EncodeAll(make([]byte, 1<<28), nil)
	if len(bomb) > maxFrame {
		t.Fatalf("%d bytes", len(bomb))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = decodeBatch(bomb)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("it was read")
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 4*maxBatch {
		t.Errorf("%d bytes were allocated", allocated)
	}
	// The same applies to its blocks.
	if _, err := decodeBatch(encodeBatch(bytes.Repeat([]byte{0xa0}, maxBatch))); err == nil {
		t.Error("four million blocks were read")
	}
}

func FuzzRequest(f *testing.F) {
	for _, q := range someRequests() {
		f.Add(q.encode())
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		q, err := decodeRequest(frame)
		if err != nil {
			return
		}
		if len(q.hashes) > maxBlocks || len(q.paths) > maxPaths || len(q.items) > maxItems {
			t.Errorf("%+v is too much", q)
		}
		if again, err := decodeRequest(q.encode()); err != nil || !reflect.DeepEqual(again, q) {
			t.Errorf("%+v became %+v, %v", q, again, err)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	answers := someAnswers()
	f.Add(encodeAnswers(answers))
	f.Add(encodeAnswers(answers[:1]))
	f.Fuzz(func(t *testing.T, frame []byte) {
		got, err := decodeAnswers(frame, pathsOf(answers))
		if err != nil {
			return
		}
		for i, a := range got {
			if a.Path != answers[i].Path || len(a.children) > 16 || len(a.hashList.hashes) > maxHashes {
				t.Errorf("%+v is no answer", a)
			}
			for _, c := range a.children {
				if !c.Path.Valid() {
					t.Errorf("%x is no path", c.Path)
				}
			}
		}
		if again, err := decodeAnswers(encodeAnswers(got), pathsOf(answers)); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add(hashList{}.encode())
	f.Add(hashList{[]digest{{1}, {2}}, true}.encode())
	f.Fuzz(func(t *testing.T, frame []byte) {
		n, err := decodeHashes(frame)
		if err == nil && len(n.hashes) > maxHashes {
			t.Errorf("%d hashes", len(n.hashes))
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add(encodeBatch(nil))
	f.Add(encodeBatch([]byte{0xa0, 0xa1, 0x61, 'a', 1}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		bs, err := decodeBatch(frame)
		if err != nil {
			return
		}
		var all []byte
		for _, b := range bs {
			if b.Check() != nil {
				t.Errorf("%s has another hash", b.Hash)
			}
			all = append(all, b.Data...)
		}
		if again, err := decodeBatch(encodeBatch(all)); err != nil || len(again) != len(bs) {
			t.Errorf("%d blocks became %d, %v", len(bs), len(again), err)
		}
	})
}
