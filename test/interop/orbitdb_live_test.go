package interop

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/test/harness"
)

// event is an event of a database that syncs.
type event struct {
	Event       string
	As, Address string
	Peer        string // of eventJoin and eventLeave
	Hash        string // of eventUpdate
	Error       string // of eventError
}

const (
	eventJoin   = "join" // the heads of a peer have been read
	eventLeave  = "leave"
	eventUpdate = "update" // of databases that are opened with updates
	eventError  = "error"
)

// eventually waits until a condition holds. Otherwise ok returns the state
// instead, for the failure message.
func eventually(t testing.TB, what string, ok func() (instead any, holds bool)) {
	t.Helper()
	for end := time.Now().Add(harness.Patience); ; time.Sleep(20 * time.Millisecond) {
		instead, holds := ok()
		if holds {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v; it is %v", what, harness.Patience, instead)
		}
	}
}

// dial connects to a peer.
func (js *node) dial(addr string) {
	js.t.Helper()
	js.do(nil, "connect", args{"addr": addr})
}

// disconnect closes the connections to a peer.
func (js *node) disconnect(peer string) {
	js.t.Helper()
	js.do(nil, "disconnect", args{"peer": peer})
}

// disconnectAll closes all connections.
func (js *node) disconnectAll() {
	js.t.Helper()
	js.do(nil, "disconnect", nil)
}

// connection is a connection of a node.
type connection struct {
	Peer, Addr string
	Direction  string // "inbound" or "outbound"
}

func (js *node) connections() (list []connection) {
	js.t.Helper()
	js.do(&list, "connections", nil)
	return list
}

// subscribers returns the known subscribers of a topic.
func (js *node) subscribers(topic string) (peers []string) {
	js.t.Helper()
	js.do(&peers, "subscribers", args{"topic": topic})
	return peers
}

// waitForSubscriber waits until a peer is a known subscriber of a topic.
func (js *node) waitForSubscriber(topic, peer string) {
	js.t.Helper()
	eventually(js.t, peer+" subscribes", func() (any, bool) {
		peers := js.subscribers(topic)
		return peers, slices.Contains(peers, peer)
	})
}

// publish publishes a message and returns the peers to which it was sent.
func (js *node) publish(topic string, data []byte) (peers []string) {
	js.t.Helper()
	js.do(&peers, "publish", args{"topic": topic, "data": data})
	return peers
}

// headsProtocol returns the protocol that exchanges the heads of a database.
func headsProtocol(address string) string { return "/orbitdb/heads" + address }

// startStream opens a stream to a connected peer, sends each frame in one
// piece, and closes its side, or holds the stream until it is disconnected. It
// returns a function that waits until the peer closes, and returns the received
// pieces.
func (js *node) startStream(peer, protocol string, hold bool, frames ...[]byte) func() ([][]byte, error) {
	js.t.Helper()
	list := make([]any, len(frames))
	for i, f := range frames {
		list[i] = f
	}
	wait := js.start("heads-stream", args{"peer": peer, "protocol": protocol, "frames": list, "hold": hold})
	return func() ([][]byte, error) {
		js.t.Helper()
		text, err := wait()
		if err != nil {
			return nil, err
		}
		var got []value.Bytes
		must(js.t, json.Unmarshal(text, &got))
		pieces := make([][]byte, len(got))
		for i, piece := range got {
			pieces[i] = piece
		}
		return pieces, nil
	}
}

// happened returns the events of a kind so far, only those of a database unless
// the address is "".
func (js *node) happened(kind, address string) (list []event) {
	js.mu.Lock()
	defer js.mu.Unlock()
	for _, e := range js.events {
		if e.Event == kind && (address == "" || e.Address == address) {
			list = append(list, e)
		}
	}
	return list
}

// live is how a database that syncs is opened.
type live struct {
	memory  bool // store nothing on disk
	updates bool // emit eventUpdate for later entries

	encryption string // "data", "replication", or "" for none
}

func (l live) args() args {
	return args{"sync": true, "memory": l.memory, "updates": l.updates, "encryption": l.encryption}
}

// createLive opens the database that is identified by a name and the options,
// and syncs it.
func (js *node) createLive(w writer, name string, opts orbit.Options, l live) jsReplica {
	js.t.Helper()
	return js.createWith(w, name, opts, l.args())
}

// openLive opens a database and syncs it.
func (js *node) openLive(w writer, address string, l live) jsReplica {
	js.t.Helper()
	var got struct{ Type string }
	js.do(&got, "open", jsReplica{as: w.name, address: address}.with(l.args()))
	return jsReplica{js, w.name, got.Type, address}
}

// startPutMany starts to put items, one after the other. It returns a function
// that waits for the puts and returns the hashes. A document or an event is an
// item; a key with its value is a [2]value.Value.
func (r jsReplica) startPutMany(items ...any) func() []string {
	r.js.t.Helper()
	list := make([]any, len(items))
	for i, one := range items {
		switch r.kind {
		case orbit.TypeDocuments:
			one = map[string]any{"doc": one}
		case orbit.TypeKeyValue:
			kv := one.([2]value.Value)
			one = map[string]any{"key": kv[0], "value": kv[1]}
		}
		list[i] = one
	}
	wait := r.js.start("put-many", r.with(args{"items": list}))
	return func() (hashes []string) {
		r.js.t.Helper()
		text, err := wait()
		must(r.js.t, err)
		must(r.js.t, json.Unmarshal(text, &hashes))
		return hashes
	}
}

func (r jsReplica) putMany(items ...any) []string {
	r.js.t.Helper()
	return r.startPutMany(items...)()
}

// entry returns the block of an entry.
func (r jsReplica) entry(hash string) block.Block {
	r.js.t.Helper()
	var data value.Bytes
	r.js.do(&data, "entry", r.with(args{"hash": hash}))
	return block.Block{Hash: hash, Data: data}
}

// count returns the number of entries.
func (r jsReplica) count() (n int) {
	r.js.t.Helper()
	r.js.do(&n, "count", r.with(nil))
	return n
}

// waitForCount waits for a number of entries. The heads are updated afterwards,
// see converge.
func (r jsReplica) waitForCount(want int) {
	r.js.t.Helper()
	eventually(r.js.t, fmt.Sprintf("%d entries", want), func() (any, bool) {
		n := r.count()
		return n, n == want
	})
}

// converge waits until databases have the same content.
func converge(t testing.TB, a, b jsReplica) {
	t.Helper()
	eventually(t, "they agree", func() (any, bool) {
		inA, inB := a.state(query{}), b.state(query{})
		return fmt.Sprintf("%+v\n%+v", inA, inB), reflect.DeepEqual(inA, inB)
	})
}

// waitForEvent waits for an event of the database.
func (r jsReplica) waitForEvent(kind string) {
	r.js.t.Helper()
	eventually(r.js.t, "event "+kind, func() (any, bool) {
		return "none", len(r.js.happened(kind, r.address)) > 0
	})
}

// newDocuments returns n documents whose IDs begin with a prefix.
func newDocuments(prefix string, n int) []any {
	list := make([]any, n)
	for i := range list {
		list[i] = map[string]any{"_id": fmt.Sprintf("%s%d", prefix, i)}
	}
	return list
}

func TestJavaScriptPeersReplicate(t *testing.T) {
	t.Parallel()
	for _, stacks := range [][2]string{
		{orbitdb4, orbitdb4}, {orbitdb4, orbitdb4Random}, {orbitdb3, orbitdb3}, {orbitdb4, orbitdb3}, {orbitdb3, orbitdb4},
	} {
		t.Run(strings.Join(stacks[:], " and "), func(t *testing.T) {
			t.Parallel()
			a, b := startNodeWith(t, stacks[0]), startNodeWith(t, stacks[1])
			a.newIdentity(writerA)
			b.newIdentity(writerB)
			inA := a.createLive(writerA, "shared", orbit.Options{
				Type: orbit.TypeDocuments, Access: orbit.Access{Write: []string{orbit.Anyone}},
			}, live{})
			inA.putMany(newDocuments("a", 20)...)
			b.dial(a.addr)
			inB := b.openLive(writerB, inA.address, live{memory: true, updates: true})
			inB.waitForCount(20)
			inB.waitForEvent(eventJoin)

			a.waitForSubscriber(inA.address, b.peerID())
			b.waitForSubscriber(inB.address, a.peerID())
			puts := inA.startPutMany(newDocuments("live", 20)...)
			inB.putMany(newDocuments("b", 20)...)
			puts()
			inA.waitForCount(60)
			inB.waitForCount(60)
			converge(t, inA, inB)
			if n := len(b.happened(eventUpdate, inB.address)); n < 40 {
				t.Errorf("%d updates", n)
			}

			// Entries that were written while disconnected reach the other peer
			// after they reconnect.
			b.disconnect(a.peerID())
			for _, js := range []*node{a, b} {
				eventually(t, "no connections", func() (any, bool) {
					list := js.connections()
					return list, len(list) == 0
				})
			}
			inA.putMany(newDocuments("a alone", 5)...)
			inB.putMany(newDocuments("b alone", 5)...)
			a.dial(b.addr)
			inA.waitForCount(70)
			inB.waitForCount(70)
			converge(t, inA, inB)
		})
	}
}

// forEachVersion runs a test with each version of OrbitDB.
func forEachVersion(t *testing.T, test func(t *testing.T, stack string)) {
	nodeJS(t)
	for _, stack := range []string{orbitdb4, orbitdb3} {
		t.Run(stack, func(t *testing.T) {
			t.Parallel()
			test(t, stack)
		})
	}
}

func TestJavaScriptSpeaksItsProtocols(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		a, b := startNodeWith(t, stack), startNodeWith(t, stack)
		a.newIdentity(writerA)
		inA := a.createLive(writerA, "told", orbit.Options{Type: orbit.TypeEvents}, live{memory: true, updates: true})
		hashes := inA.putMany("one", "two")
		head := inA.entry(hashes[1])
		b.dial(a.addr)

		pieces, err := b.startStream(a.peerID(), headsProtocol(inA.address), false)()
		must(t, err)
		if len(pieces) != 1 || string(pieces[0]) != string(head.Data) {
			t.Errorf("its heads are %q, want %q", pieces, head.Data)
		}
		held := b.startStream(a.peerID(), headsProtocol(inA.address), true, head.Data)
		if pieces, err := held(); err != nil || len(pieces) != 1 {
			t.Errorf("its heads are %q: %v", pieces, err)
		}

		b.waitForSubscriber(inA.address, a.peerID())
		if peers := b.publish(inA.address, []byte("no entry")); !slices.Equal(peers, []string{a.peerID()}) {
			t.Errorf("published to %q", peers)
		}
		inA.waitForEvent(eventError)

		b.disconnectAll()
		inA.close()
		if _, err := a.try("count", inA.with(nil)); err == nil {
			t.Error("a closed database is still open")
		}
	})
}

func TestCommandsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		js := startNodeWith(t, stack)
		js.fetched(identityBlock(t, writerC).Hash) // this block never arrives
		js.newIdentity(writerB)
		inJS := js.create(writerB, "alone", orbit.Options{Type: orbit.TypeKeyValue}, false)
		inJS.putMany([2]value.Value{fromJSON(`"key"`), fromJSON("1")}, [2]value.Value{fromJSON(`"key"`), fromJSON("2")})
		if n := inJS.count(); n != 2 {
			t.Errorf("%d entries", n)
		}
		inJS.close()
		js.do(nil, "open", inJS.with(nil))
		if n := inJS.count(); n != 2 {
			t.Errorf("%d entries after the database is reopened", n)
		}
	})
}
