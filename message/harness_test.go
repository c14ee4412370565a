package message

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-datastore"
	leveldb "github.com/ipfs/go-ds-leveldb"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/swarm"
	"github.com/newpieceplease/npp/test/loopback"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Libraries start them on import or first use and never stop them.
		goleak.IgnoreAnyFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"),
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"),
	)
}

// patience is when a test gives up. Passing tests do not wait for it.
const patience = time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	must(t, err)
	return key
}

// setup configures a daemon that differs from the default.
type setup struct {
	ds     datastore.Batching // nil: a disk in memory
	limits func(*Limits)
	times  func(*times)
	now    func() time.Time
	disk   *space.Disk
	key    crypto.PrivKey
	pubsub bool
	host   []libp2p.Option
}

// daemon is a host with a Service and everything below it.
type daemon struct {
	*Service
	host  host.Host
	store *store.Store
	info  peer.AddrInfo
	stop  func() // closes it properly; the test does so at its end
}

func newDaemon(t testing.TB, s setup) *daemon {
	t.Helper()
	if s.ds == nil {
		s.ds = storetest.NewDisk()
	}
	if s.key != nil {
		s.host = append(s.host, libp2p.Identity(s.key))
	}
	limits := DefaultLimits()
	if s.limits != nil {
		s.limits(&limits)
	}
	patience := defaultTimes
	patience.retry = 10 * time.Millisecond
	if s.times != nil {
		s.times(&patience)
	}
	h := loopback.Host(t, s.host...)
	sw, err := swarm.New(t.Context(), swarm.Config{Host: h, Store: store.New(storetest.NewDisk(), "/swarm"), Protocol: Protocol})
	must(t, err)
	d := &daemon{host: h, store: store.New(s.ds, "/messages"), info: loopback.Info(h)}
	c := Config{Host: h, Swarm: sw, Store: d.store, Limits: limits, Disk: s.disk, Now: s.now}
	ctx, cancel := context.WithCancel(context.Background())
	if s.pubsub {
		c.Router, err = router.New(ctx, h, router.Options{SupportsBursts: func(peer.ID) bool { return true }})
		must(t, err)
	}
	d.Service, err = start(c, patience)
	must(t, err)
	d.stop = sync.OnceFunc(func() {
		d.Service.Close()
		sw.Close()
		d.store.Close()
		cancel()
		h.Close()
	})
	t.Cleanup(d.stop)
	return d
}

func openLevelDB(t testing.TB, dir string) *leveldb.Datastore {
	t.Helper()
	ds, err := leveldb.NewDatastore(filepath.Join(dir, "datastore"), nil)
	must(t, err)
	return ds
}

// onBoth runs a test on a disk in memory and on kubo's default datastore.
func onBoth(t *testing.T, test func(t *testing.T, ds datastore.Batching)) {
	t.Run("disk", func(t *testing.T) { test(t, storetest.NewDisk()) })
	t.Run("leveldb", func(t *testing.T) {
		ds := openLevelDB(t, t.TempDir())
		t.Cleanup(func() { ds.Close() })
		test(t, ds)
	})
}

// stored returns the stored messages of a daemon, oldest first.
func stored(t testing.TB, d *daemon) []*Message {
	t.Helper()
	return contents(t, d.box)
}

func contents(t testing.TB, b *mailbox) []*Message {
	t.Helper()
	var ms []*Message
	for m, err := range b.read(context.Background(), 0) {
		must(t, err)
		ms = append(ms, m)
	}
	return ms
}

// wantStored checks that exactly these data are stored, in any order.
func wantStored(t testing.TB, d *daemon, data ...string) {
	t.Helper()
	have := map[string]int{}
	for _, m := range stored(t, d) {
		have[string(m.Data)]++
	}
	for _, s := range data {
		have[s]--
	}
	for s, n := range have {
		if n != 0 {
			t.Errorf("%.80q is stored %+d times more than wanted", s, n)
		}
	}
}

// deliver sends a message and checks that a receipt arrives.
func deliver(t testing.TB, from, to *daemon, id, data string) Outcome {
	t.Helper()
	out, err := from.Send(testContext(t), Outgoing{To: to.info, ID: id, Data: []byte(data)})
	if err != nil || out.Status != Delivered {
		t.Fatalf("send: %s, %v", out.Status, err)
	}
	return out
}

// wantOutcome sends a message and checks that it ends with an error and a
// status other than delivered.
func wantOutcome(t testing.TB, from *daemon, l Outgoing, status Status, want error) Outcome {
	t.Helper()
	out, err := from.Send(testContext(t), l)
	if out.Status != status || !errors.Is(err, want) {
		t.Fatalf("send: %s, %v; want %s, %v", out.Status, err, status, want)
	}
	return out
}

// interpose puts a function between inbound streams and the service.
func (d *daemon) interpose(wrap func(network.Stream) network.Stream) {
	d.host.SetStreamHandler(Protocol, func(st network.Stream) { d.handle(wrap(st)) })
}

// mute is a stream that loses the first receipts: writing one of them breaks
// it.
type mute struct {
	network.Stream
	lose func() bool
}

var errMute = errors.New("the receipt is lost")

func (m mute) Write(b []byte) (int, error) {
	if m.lose() {
		m.Stream.Reset()
		return 0, errMute
	}
	return m.Stream.Write(b)
}

// answering returns a host that answers each message with a given receipt and
// stores nothing.
func answering(t testing.TB, answer func(n int, m *pb.Message) *pb.Receipt) host.Host {
	t.Helper()
	h := loopback.Host(t)
	var mu sync.Mutex
	n := 0
	h.SetStreamHandler(Protocol, func(st network.Stream) {
		defer st.Reset()
		for {
			var m pb.Message
			if readFrame(st, &m) != nil {
				return
			}
			mu.Lock()
			n++
			r := answer(n, &m)
			mu.Unlock()
			if r == nil || writeFrame(st, r) != nil {
				return
			}
		}
	})
	return h
}

// shortTexts returns n short texts.
func shortTexts(n int) []string {
	var ls []string
	for i := range n {
		ls = append(ls, fmt.Sprintf(`"message %d"`, i))
	}
	return ls
}

// checkBooks checks that a mailbox's counters match its messages, and that
// every key belongs to a message or a counter.
func checkBooks(t testing.TB, b *mailbox) {
	t.Helper()
	ctx := context.Background()
	st, err := b.state(ctx)
	must(t, err)
	want := map[string][]byte{}
	used := map[string]uint64{}
	var direct, pubsub uint64
	var last time.Time
	for r, err := range b.store.Ascend(ctx, logSeries, 0) {
		must(t, err)
		m, err := decodeRecord(r.Number, r.Value)
		must(t, err)
		if m.Number >= st.Next || m.Received.Before(last) {
			t.Errorf("message %d of %d: received %s, the one before %s", m.Number, st.Next, m.Received, last)
		}
		last = m.Received
		size := uint64(len(r.Value)) + recordOverhead
		used[usedKey(m.Via, m.From)] += size
		want[store.Key(logSeries, m.Number)] = r.Value
		want[store.Key(fromSeries(m.Via, m.From), m.Number)] = nil
		want[idKey(m.ID, m.Via, m.From)] = number(m.Number)
		if m.Via == Pubsub {
			pubsub += size
			want[store.Key(pubsubSeries, m.Number)] = nil
		} else {
			direct += size
		}
	}
	for key, n := range used {
		want[key] = number(n)
	}
	var gone uint64
	goneOf := map[string]uint64{}
	for r, err := range b.store.Ascend(ctx, goneSeries, 0) {
		must(t, err)
		gone++
		id := string(r.Value[8:])
		author := id[strings.LastIndexByte(id, '/')+1:]
		goneOf[author]++
		want[store.Key(goneSeries, r.Number)] = r.Value
		want[id] = number(r.Number)
		want[store.Key(goneOfSeries(author), r.Number)] = nil
	}
	for author, n := range goneOf {
		want[goneCountKey(author)] = number(n)
		want[goneClassKey(bits.Len64(n), author)] = nil
	}
	if st.DirectBytes != direct || st.PubsubBytes != pubsub || st.Gone != gone {
		t.Errorf("accounts: %d direct, %d pubsub, %d gone; want %d, %d, %d", st.DirectBytes, st.PubsubBytes, st.Gone, direct, pubsub, gone)
	}
	for e, err := range b.store.Scan(ctx, "") {
		must(t, err)
		value, ok := want[e.Key]
		switch {
		case e.Key == stateKey, bytes.HasPrefix([]byte(e.Key), []byte("speaks/")):
		case !ok || !bytes.Equal(value, e.Value):
			t.Errorf("%s is %x, want %x (%v)", e.Key, e.Value, value, ok)
		}
		delete(want, e.Key)
	}
	for key := range want {
		t.Errorf("%s is missing", key)
	}
}
