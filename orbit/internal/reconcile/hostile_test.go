package reconcile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/test/loopback"
)

// liar is a hostile server. answer receives each request except the first.
func liar(t *testing.T, answer func(q request, send func([]byte) error) error) peerOf {
	t.Helper()
	p := newPeer(t)
	p.SetStreamHandler(Protocol, func(s network.Stream) {
		defer s.Reset()
		in, out := msgio.NewVarintReader(s), msgio.NewVarintWriter(s)
		for {
			frame, err := in.ReadMsg()
			if err != nil {
				return
			}
			q, err := decodeRequest(frame)
			if err != nil {
				t.Error(err)
				return
			}
			if q.kind == askOpen {
				err = out.WriteMsg(encodeAnswers(nil))
			} else {
				err = answer(q, out.WriteMsg)
			}
			if err != nil {
				return
			}
		}
	})
	return p
}

// sayNodes encodes the answers of say for the requested nodes.
func sayNodes(q request, say func(p oplog.Path) answer) []byte {
	var answers []answer
	for _, p := range q.paths {
		a := say(p)
		a.Path = p
		answers = append(answers, a)
	}
	return encodeAnswers(answers)
}

// allChildren claims that all possible children differ.
func allChildren(p oplog.Path) answer {
	a := answer{Node: oplog.Node{Count: math.MaxUint64}}
	for d := range byte(16) {
		if child := p + oplog.Path([]byte{d}); child.Valid() {
			a.children = append(a.children, oplog.Node{Path: child, Count: math.MaxUint64})
		}
	}
	return a
}

func TestLiesAreRefusedOrBounded(t *testing.T) {
	w := newWriters(t, 1)
	add(t, w.databases[0], 300)
	db := w.databases[0]
	chainOfInvalid(t, db, 3) // so that nothing is taken whole
	for name, c := range map[string]struct {
		answer func(q request, send func([]byte) error) error
		want   error // of the comparison
	}{
		"garbage":           {func(_ request, send func([]byte) error) error { return send([]byte("garbage")) }, ErrProtocol},
		"nothing":           {func(_ request, send func([]byte) error) error { return send(nil) }, ErrProtocol},
		"the end":           {func(request, func([]byte) error) error { return io.EOF }, errAny},
		"an endless answer": {func(_ request, send func([]byte) error) error { return send(make([]byte, maxAnswer+1)) }, ErrProtocol},
		"too few nodes": {func(q request, send func([]byte) error) error {
			q.paths = q.paths[1:]
			return send(sayNodes(q, allChildren))
		}, ErrProtocol},
		"a tree without end": {func(q request, send func([]byte) error) error {
			return send(sayNodes(q, allChildren))
		}, ErrFruitless},
		"hashes without end": {func(q request, send func([]byte) error) error {
			if q.kind == askHashes {
				return send(hashList{make([]digest, maxHashes), true}.encode())
			}
			return send(sayNodes(q, func(oplog.Path) answer {
				return answer{Node: oplog.Node{Count: 5}, hashList: hashList{make([]digest, fewHashes), true}}
			}))
		}, nil},
		"more of nothing": {func(q request, send func([]byte) error) error {
			return send(sayNodes(q, func(oplog.Path) answer {
				return answer{Node: oplog.Node{Count: 5}, hashList: hashList{nil, true}}
			}))
		}, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			s := session(t, liar(t, c.answer), db.Address())
			var err error
			for _, err = range s.Compare(t.Context(), oplog.Of(db)) {
			}
			if !errors.Is(err, c.want) && (c.want != errAny || err == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

var errAny = errors.New("any")

// However many entries a peer's answer contains, a comparison holds at most
// those of one part and of one node.
func TestWhatIsHeldOfAComparisonIsBounded(t *testing.T) {
	w := newWriters(t, 1)
	db := w.databases[0]
	add(t, db, 300)
	chainOfInvalid(t, db, 3) // so that nothing is taken whole
	const each, partSize = 256, 100
	s := session(t, liar(t, func(q request, send func([]byte) error) error {
		return send(sayNodes(q, func(p oplog.Path) answer {
			if p == "" {
				return allChildren(p)
			}
			return answer{Node: oplog.Node{Count: math.MaxUint64}, hashList: hashList{make([]digest, each), false}}
		}))
	}), db.Address())
	c, err := newComparison(t.Context(), s, oplog.Of(db), partSize)
	must(t, err)
	total := 0
	for d, err := range c.parts() {
		must(t, err)
		total += len(d.items)
		if len(d.items) > partSize+each {
			t.Errorf("%d items are held", len(d.items))
		}
	}
	if total != 16*each {
		t.Errorf("%d items wanted of %d", total, 16*each)
	}
}

// Unauthorized entries with many authorized descendants are sent at most twice
// as often as there are such entries, however few of them are remembered.
func TestUnauthorizedEntriesAreNotSentForEachDescendant(t *testing.T) {
	w := newWriters(t, 1)
	db := w.databases[0]
	const invalid, tops, maxSent = 30, 60, 8
	top, err := oplog.Of(db).Get(t.Context(), chainOfInvalid(t, db, invalid))
	must(t, err)
	var chain []*entry.Entry
	for e := top; len(chain) < invalid; chain = append(chain, e) {
		e, err = oplog.Of(db).Get(t.Context(), e.Next[0])
		must(t, err)
	}
	s := newSigner(t)
	bs := []block.Block{s.Block()}
	for i := range tops {
		parent := chain[7*i%invalid] // far from the previous one, so that remembered blocks are of no use
		bs = append(bs, write(t, s, db, fmt.Sprint("above ", i), entry.Position{Rank: entry.Rank{Time: float64(1000 + i)}, Hash: parent.Hash()}).Block)
	}
	joinBatch(t, db, bs)
	stats, err := oplog.Of(db).Stats(t.Context())
	must(t, err)
	if stats.Unauthorized != invalid || stats.Entries != tops+1 {
		t.Fatalf("%d entries, %d of them unauthorized", stats.Entries, stats.Unauthorized)
	}
	v := &server{ctx: t.Context(), out: msgio.NewVarintWriter(io.Discard), source: Source{Block: w.orbits[0].Block}, log: oplog.Of(db)}
	out := v.newTransfer(stats.Unauthorized, maxSent)
	must(t, out.subtree(""))
	if out.entries != stats.Entries {
		t.Errorf("%d entries are sent of %d", out.entries, stats.Entries)
	}
	if out.unauthorizedSent > 2*invalid+maxSent {
		t.Errorf("%d are sent of %d that are unauthorized", out.unauthorizedSent, invalid)
	}
}

func TestInvalidTransfersAreRefused(t *testing.T) {
	w := newWriters(t, 1)
	add(t, w.databases[0], 3)
	db := w.databases[0]
	for name, answer := range map[string]func(send func([]byte) error) error{
		"garbage":        func(send func([]byte) error) error { return send([]byte("garbage")) },
		"half a block":   func(send func([]byte) error) error { return send(encodeBatch([]byte{0x82, 1})) },
		"too many":       func(send func([]byte) error) error { return send(encodeBatch(make([]byte, batchBlocks+1))) },
		"too large":      func(send func([]byte) error) error { return send(make([]byte, maxFrame+1)) },
		"an early end":   func(func([]byte) error) error { return io.EOF },
		"empty batch":    func(send func([]byte) error) error { return send(encodeBatch(nil)) },
		"half an answer": func(send func([]byte) error) error { return errors.Join(send(encodeBatch([]byte{1})), io.EOF) },
	} {
		t.Run(name, func(t *testing.T) {
			s := session(t, liar(t, func(_ request, send func([]byte) error) error { return answer(send) }), db.Address())
			var failed error
			for _, err := range s.Transfer(Difference{items: []item{{path: ""}}}) {
				if failed != nil {
					t.Fatal("the loop continues after an error")
				}
				failed = err
			}
			if failed == nil {
				t.Error("it was taken for whole")
			}
		})
	}
	s := session(t, liar(t, func(_ request, send func([]byte) error) error {
		return send(encodeBatch([]byte{1, 2, 3}))
	}), db.Address())
	if _, err := s.Blocks(db.Address()[len("/orbitdb/"):]); !errors.Is(err, ErrProtocol) {
		t.Errorf("more blocks than it asked for: %v", err)
	}
}

// A client that violates the protocol ends its own stream and no other.
func TestServerRefusesWhatIsNoRequest(t *testing.T) {
	w := newWriters(t, 2)
	add(t, w.databases[0], 200)
	db := w.databases[0]
	server := newPeer(t)
	server.serve(w.orbits[0], db)
	honest := session(t, server, db.Address())
	open := request{kind: askOpen, address: db.Address()}.encode()
	length := func(n uint64) []byte { return binary.AppendUvarint(nil, n) }
	framed := func(frames ...[]byte) (b []byte) {
		for _, f := range frames {
			b = append(append(b, length(uint64(len(f)))...), f...)
		}
		return b
	}
	for name, bytes := range map[string][]byte{
		"garbage":                     []byte("\x05hello"),
		"an endless request":          append(framed(open), length(1<<40)...),
		"a large request":             append(framed(open), length(maxRequest+1)...),
		"no database":                 framed(request{kind: askNodes, paths: []oplog.Path{""}}.encode()),
		"a database that is not open": framed(request{kind: askOpen, address: "/orbitdb/zdpuAw"}.encode()),
		"two databases":               framed(open, open),
		"half a request":              append(framed(open), append(length(50), 1, 2, 3)...),
		"a path that is none":         framed(open, []byte{0x82, 2, 0x81, 0x41, 99}),
		"hashes after an unknown one": framed(open, request{kind: askHashes, paths: []oplog.Path{"\x00"}, hashes: []string{block.Hash([]byte("nowhere"))}}.encode()),
	} {
		t.Run(name, func(t *testing.T) {
			client := newPeer(t)
			loopback.Connect(t, client, server)
			s, err := client.NewStream(t.Context(), server.ID(), Protocol)
			must(t, err)
			s.Write(bytes)
			s.CloseWrite()
			if answer, err := io.ReadAll(s); err == nil || len(answer) > 16 {
				t.Errorf("%d bytes are answered, %v", len(answer), err)
			}
		})
	}
	reconcileWith(t, honest, w.databases[1])
	if !slices.Equal(hashes(t, db), hashes(t, w.databases[1])) {
		t.Error("they differ")
	}
}

// Peers that do not speak the protocol are recognized.
func TestPeerThatDoesNotSpeakTheProtocol(t *testing.T) {
	server, client := newPeer(t), newPeer(t)
	loopback.Connect(t, client, server)
	if _, err := Open(t.Context(), client, server.ID(), "/orbitdb/x"); err == nil {
		t.Error("a session was opened")
	}
}

// A session ends with its context, even in the middle of an answer.
func TestSessionEndsWithItsContext(t *testing.T) {
	w := newWriters(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	silent := liar(t, func(request, func([]byte) error) error {
		cancel()
		<-t.Context().Done()
		return io.EOF
	})
	s := sessionWithin(ctx, t, silent, w.databases[0].Address())
	for _, err := range s.Compare(t.Context(), oplog.Of(w.databases[0])) {
		if err == nil {
			t.Error("it was answered")
		}
	}
}
