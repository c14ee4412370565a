package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// pubsubMessage is a line of `ipfs pubsub sub --enc=json`.
type pubsubMessage struct {
	From, Data string
	TopicIDs   []string // in multibase
}

func (h pubsubMessage) text(t *testing.T) string { return decoded(t, h.Data) }

// expectPublished waits for the next message of `ipfs pubsub sub --enc=json`.
func expectPublished(t *testing.T, p *harness.Process) pubsubMessage {
	t.Helper()
	return decodeLines[pubsubMessage](t, p.Expect(`"data"`))[0]
}

// publish publishes with kubo's own command.
func publish(t *testing.T, n *harness.Node, topic, text string) {
	t.Helper()
	if r := n.RunStdin(text, "pubsub", "pub", topic); r.Code != 0 {
		t.Fatalf("pubsub pub: %v", r)
	}
}

// routers counts the pubsub routers in the node's daemon.
func routers(t *testing.T, n *harness.Node) int {
	t.Helper()
	resp, err := http.Get(strings.TrimSuffix(n.APIURL(), "api/v0/") + "debug/pprof/goroutine?debug=2")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "goroutine ") {
		t.Fatalf("no goroutines: %s", b)
	}
	return strings.Count(string(b), "pubsub.(*PubSub).processLoop(")
}

// Unless Pubsub.Enabled is false, kubo's pubsub commands and npp share one
// router. It is subscribed to the topic of the daemon's own peer ID before the
// API answers.
func TestPubsubWorksUnlessSwitchedOff(t *testing.T) {
	t.Parallel()
	for _, enabled := range []any{nil, true} {
		t.Run(fmt.Sprintf("Enabled is %v", enabled), func(t *testing.T) {
			t.Parallel()
			start := func() *harness.Node {
				n := harness.New(t)
				if enabled != nil {
					n.Set("Pubsub.Enabled", enabled)
				}
				n.Spawn("daemon").Expect("RPC API server listening")
				own := false
				for _, topic := range strings.Fields(n.MustRun("pubsub", "ls")) {
					own = own || topic == n.PeerID()
					if topic != n.PeerID() && !strings.HasPrefix(topic, "/orbitdb/") {
						t.Errorf("subscribed to %q", topic)
					}
				}
				if !own {
					t.Error("not subscribed to the own topic")
				}
				return n
			}
			a, b := start(), start()
			a.Connect(b)
			for _, n := range []*harness.Node{a, b} {
				if got := routers(t, n); got != 1 {
					t.Errorf("%d pubsub routers are at work", got)
				}
			}
			stocks := b.Spawn("pubsub", "sub", "--enc=json", "heard by kubo")
			ours := b.Spawn("npp", "listen", "--enc=json", "--topic=heard by npp")
			for _, topic := range []string{"heard by kubo", "heard by npp"} {
				awaitSubscriber(t, a, topic, b)
				publish(t, a, topic, "sent by kubo")
				a.MustRun("npp", "send", "--topic", topic, "sent by npp")
			}
			for _, want := range []string{"sent by kubo", `"sent by npp"`} {
				if h := expectPublished(t, stocks); h.text(t) != want || h.From != a.PeerID() {
					t.Errorf("pubsub sub: %+v, want %q", h, want)
				}
				m := decodeLines[arrived](t, ours.Expect(`"id"`))[0]
				if m.data(t) != want || m.From != a.PeerID() || m.Via != "pubsub" || m.TopicIDs[0] != "heard by npp" {
					t.Errorf("npp listen: %+v, want %q", m, want)
				}
			}
		})
	}
}

// Pubsub.Enabled false disables exactly what needs pubsub, and each disabled
// command says so.
func TestPubsubSwitchedOff(t *testing.T) {
	t.Parallel()
	a := harness.New(t).Set("Pubsub.Enabled", false).Start()
	b := harness.New(t).Start()
	stock := harness.NewStock(t).Set("Pubsub.Enabled", false).Start()
	a.Connect(b)
	if got := routers(t, a); got != 0 {
		t.Errorf("%d pubsub routers are at work", got)
	}
	const off = "Error: pubsub is disabled by Pubsub.Enabled; hint: ipfs config --json Pubsub.Enabled true, and restart the daemon\n"
	for _, args := range [][]string{
		{"npp", "send", "--topic=rehearsals", "hello"},
		{"npp", "listen", "--topic=rehearsals"},
	} {
		if r := a.Run(args...); r.Code != 1 || r.Stderr != off || r.Stdout != "" {
			t.Errorf("%v: %v", args, r)
		}
	}
	for _, args := range [][]string{
		{"pubsub", "ls"},
		{"pubsub", "peers"},
		{"pubsub", "sub", "rehearsals"},
		{"name", "pubsub", "state"},
	} {
		if got, want := a.Run(args...), stock.Run(args...); got != want {
			t.Errorf("%v: %v\nstock: %v", args, got, want)
		}
	}
	a.MustRun("npp", "send", b.PeerID(), "there")
	b.MustRun("npp", "send", a.PeerID(), "and back")
	b.Spawn("npp", "listen", "--since=all").Expect(`"there"`)
	a.Spawn("npp", "listen", "--since=all").Expect(`"and back"`)

	// Daemons replicate all the same.
	address := strings.TrimSpace(a.MustRun("npp", "db", "create", "shared", "--write=*"))
	a.MustRun("npp", "db", "put", address, `"before"`)
	b.MustRun("npp", "db", "open", "--wait", address)
	for _, pair := range [][2]*harness.Node{{a, b}, {b, a}} {
		hash := strings.TrimSpace(pair[0].MustRun("npp", "db", "put", address, `"live"`))
		eventually(t, "the entry arrives", func() bool { return strings.Contains(pair[1].MustRun("npp", "db", "log", address), hash) })
	}
	if f := findings(t, a, address); f["pubsub"].Level != "note" || f["peers"].Level != "ok" || f["heads"].Level != "ok" {
		t.Errorf("the doctor: %+v", f)
	}
}

// kubo needs a router for Ipns.UsePubsub even where Pubsub.Enabled is false.
func TestIPNSOverPubsubWithPubsubSwitchedOff(t *testing.T) {
	t.Parallel()
	set := func(n *harness.Node) *harness.Node {
		return n.Set("Pubsub.Enabled", false).Set("Ipns.UsePubsub", true).Start()
	}
	a, b, stock := set(harness.New(t)), harness.New(t).Start(), set(harness.NewStock(t))
	a.Connect(b)
	for _, args := range [][]string{{"name", "pubsub", "state"}, {"pubsub", "ls"}} {
		if got, want := a.Run(args...), stock.Run(args...); got != want {
			t.Errorf("%v: %v\nstock: %v", args, got, want)
		}
	}
	if got, want := routers(t, a), routers(t, stock); got != want {
		t.Errorf("%d pubsub routers are at work, stock has %d", got, want)
	}
	a.MustRun("npp", "send", b.PeerID(), "there")
	b.MustRun("npp", "send", a.PeerID(), "and back")
	if r := a.Run("npp", "send", "--topic=rehearsals", "hello"); r.Code != 1 || !strings.Contains(r.Stderr, "disabled by Pubsub.Enabled") {
		t.Errorf("send --topic: %v", r)
	}
}

// A thousand messages that are published at once each arrive, unchanged and
// once.
func TestBurstOnATopicArrivesWhole(t *testing.T) {
	t.Parallel()
	const burst = 1000
	a, b := pair(t)
	listener := b.Spawn("npp", "listen", "--enc=json", "--topic=rehearsals")
	awaitSubscriber(t, a, "rehearsals", b)
	m := newMailer(t, a)
	var sending sync.WaitGroup
	for n := range burst {
		sending.Go(func() {
			s, err := m.send(url.Values{"topic": {"rehearsals"}}, []byte(strconv.Itoa(n)))
			if err != nil || s.Status != "published" || s.Topic != "rehearsals" || s.Subscribers != 1 {
				t.Errorf("%d: %+v, %v", n, s, err)
			}
		})
	}
	sending.Wait()
	times := map[string]int{}
	for range burst {
		times[string(decodeLines[arrived](t, listener.Expect(`"id"`))[0].Message)]++
	}
	for n := range burst {
		if got := times[strconv.Itoa(n)]; got != 1 {
			t.Errorf("%d arrived %d times", n, got)
		}
	}
	a.MustRun("npp", "send", "--topic=rehearsals", "end")
	if next := listener.Expect(`"id"`); !strings.Contains(next, `"end"`) {
		t.Errorf("one too many arrived: %s", next)
	}
}

// stockPeer returns a running stock daemon with pubsub.
func stockPeer(t *testing.T) *harness.Node {
	t.Helper()
	return harness.NewStock(t).Set("Pubsub.Enabled", true).Start()
}

// A stock daemon that is subscribed to the topic of its own peer ID receives
// what `send` sends byte for byte, and the sender is told that this is not a
// delivery.
func TestSendToStockPeerIsPublished(t *testing.T) {
	t.Parallel()
	a, stock, other := harness.New(t).Start(), stockPeer(t), stockPeer(t)
	a.Connect(stock)
	a.Connect(other)
	to := stock.PeerID()

	// no peer is subscribed
	r := a.Run("npp", "send", to, "hello")
	if want := fmt.Sprintf("no peer is subscribed to topic %q; hint: ", to); r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, want) {
		t.Errorf("send to a stock peer without a subscriber: %v", r)
	}

	// another peer is
	others := other.Spawn("pubsub", "sub", "--enc=json", to)
	awaitSubscriber(t, a, to, other)
	s := decodeLines[sent](t, a.MustRun("npp", "send", "--enc=json", to, "others"))[0]
	if s.Status != "published" || s.Subscribers != 1 || s.RecipientSubscribed {
		t.Errorf("with another subscriber: %+v", s)
	}
	if got := expectPublished(t, others).text(t); got != `"others"` {
		t.Errorf("the other subscriber got %q", got)
	}

	// the recipient is, too
	sub := stock.Spawn("pubsub", "sub", "--enc=json", to)
	awaitSubscriber(t, a, to, stock)
	const warning = "there is no receipt, and anyone who subscribes to the topic can read it"
	want := "published to the topic " + to + ", 2 peers are subscribed, the recipient among them\nwarning: " + warning + "\n"
	if got := a.MustRun("npp", "send", to, " [ 1.50, \"Dvořák\" ] "); got != want {
		t.Errorf("send says %q, want %q", got, want)
	}
	s, err := newMailer(t, a).send(url.Values{"arg": {to}}, []byte("two"))
	if err != nil || s.Status != "published" || s.Via != "pubsub" || s.To != to || s.Topic != to ||
		s.Subscribers != 2 || !s.RecipientSubscribed || s.Warning != warning || s.ID != "" {
		t.Errorf("RPC: %+v, %v", s, err)
	}

	// --private forbids it
	r = a.Run("npp", "send", "--private", to, "secret")
	if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "so there is no private way; hint: ") {
		t.Errorf("send --private: %v", r)
	}
	a.MustRun("npp", "send", to, "three")
	for _, want := range []string{`[1.50,"Dvořák"]`, `"two"`, `"three"`} {
		h := expectPublished(t, sub)
		if h.text(t) != want || h.From != a.PeerID() || decoded(t, h.TopicIDs[0]) != to {
			t.Errorf("the recipient got %+v, want %s", h, want)
		}
	}
}

// A message that a stock daemon publishes to the topic of a peer ID is in that
// peer's store, JSON or not.
func TestMessageOfAStockPeerIsStored(t *testing.T) {
	t.Parallel()
	b, stock := harness.New(t).Start(), stockPeer(t)
	stock.Connect(b)
	awaitSubscriber(t, stock, b.PeerID(), b)
	listener := b.Spawn("npp", "listen", "--enc=json", "--since=all")
	for _, text := range []string{`{"piece": "Prelude in C"}`, "no JSON", "\xff\x00"} {
		publish(t, stock, b.PeerID(), text)
		m := decodeLines[arrived](t, listener.Expect(`"id"`))[0]
		if m.data(t) != text || m.Via != "pubsub" || m.From != stock.PeerID() || m.TopicIDs[0] != b.PeerID() || m.Seqno == "" {
			t.Errorf("published %q, arrived %+v", text, m)
		}
		if isJSON := strings.HasPrefix(text, "{"); isJSON != (m.Message != nil) {
			t.Errorf("message of %q is %s", text, m.Message)
		}
	}
	if stat := b.MustRun("npp", "messages", "stat", "--enc=json"); strings.Contains(stat, `"pubsubBytes":0,`) {
		t.Errorf("stat: %s", stat)
	}
}

// No message is lost if a stock peer is sent no more than it can receive.
func TestManyMessagesToStockPeerArrive(t *testing.T) {
	t.Parallel()
	const many = 200
	a, stock := harness.New(t).Start(), stockPeer(t)
	a.Connect(stock)
	to := stock.PeerID()
	sub := stock.Spawn("pubsub", "sub", "--enc=json", to)
	awaitSubscriber(t, a, to, stock)
	m := newMailer(t, a)
	for n := range many {
		s, err := m.send(url.Values{"arg": {to}}, []byte(strconv.Itoa(n)))
		if err != nil || s.Status != "published" || !s.RecipientSubscribed {
			t.Fatalf("%d: %+v, %v", n, s, err)
		}
		if got := expectPublished(t, sub).text(t); got != strconv.Itoa(n) {
			t.Fatalf("%d was sent, %s was received", n, got)
		}
	}
}

// A peer that once spoke npp's protocol receives nothing by pubsub after it
// returns without npp: its messages were private until then.
func TestPeerThatSpokeNPPGetsNothingByPubsub(t *testing.T) {
	t.Parallel()
	for _, direction := range []string{"it received", "it sent"} {
		t.Run(direction, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			to := b.PeerID()
			if direction == "it sent" {
				b.MustRun("npp", "send", a.PeerID(), "hello")
			} else {
				a.MustRun("npp", "send", to, "hello")
			}
			a.Stop()
			a.Start()
			b.Stop()
			b.Bin = harness.Stock(t)
			b.Set("Pubsub.Enabled", true).Start()
			a.Connect(b)
			sub := b.Spawn("pubsub", "sub", "--enc=json", to)
			awaitSubscriber(t, a, to, b)
			r := a.Run("npp", "send", to, "secret")
			if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "now but did before, so nothing is published; hint: ") {
				t.Errorf("send: %v", r)
			}
			if s, err := newMailer(t, a).send(url.Values{"arg": {to}}, []byte("secret")); err == nil || s.Status == "published" {
				t.Errorf("RPC: %+v, %v", s, err)
			}
			a.MustRun("npp", "send", "--topic", to, "public")
			if got := expectPublished(t, sub).text(t); got != `"public"` {
				t.Errorf("the topic carried %q first", got)
			}
		})
	}
}
