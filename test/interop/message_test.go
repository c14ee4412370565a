package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/multiformats/go-multibase"

	"github.com/newpieceplease/npp/test/harness"
)

// outcome is the output of `ipfs npp send --enc=json`.
type outcome struct {
	To, Topic, Status, Via string
	Subscribers            int
	RecipientSubscribed    bool
	Warning, Error         string
}

// stored is a line of `ipfs npp listen` and `messages ls` with --enc=json.
type stored struct {
	ID, From, Via string
	Data, Seqno   string // multibase
	TopicIDs      []string
	Message       json.RawMessage
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// listed returns the messages in the daemon's store.
func listed(t *testing.T, n *harness.Node) (all []stored) {
	t.Helper()
	for line := range strings.Lines(n.MustRun("npp", "messages", "ls", "--enc=json")) {
		all = append(all, decode[stored](t, line))
	}
	return all
}

// numbered returns n different JSON messages.
func numbered(n int) (messages [][]byte) {
	for i := range n {
		messages = append(messages, fmt.Appendf(nil, `{"n":%d}`, i))
	}
	return messages
}

// checkOnceEach fails the test unless got has the messages of want, in any
// order.
func checkOnceEach(t *testing.T, got []string, want [][]byte) {
	t.Helper()
	times := make(map[string]int)
	for _, text := range got {
		times[text]++
	}
	for _, text := range want {
		if n := times[string(text)]; n != 1 {
			t.Errorf("%s arrived %d times", text, n)
		}
		delete(times, string(text))
	}
	if len(times) > 0 {
		t.Errorf("no peer sent %q", slices.Collect(maps.Keys(times)))
	}
}

func TestSendPublishesToJSPeer(t *testing.T) {
	t.Parallel()
	forEachGossipsub(t, func(t *testing.T, gossipsub string) {
		n := harness.New(t).Start()
		js := startPeer(t, gossipsub)
		js.subscribe(js.ID)

		r := n.Run("npp", "send", "--private", js.Addr, `{"secret":true}`)
		if r.Code != 1 || !strings.Contains(r.Stderr, "no private way") {
			t.Errorf("send --private: want exit status 1 and the reason, got %v", r)
		}

		got := decode[outcome](t, n.MustRun("npp", "send", "--enc=json", js.Addr, `{"a":1}`))
		if !strings.Contains(got.Warning, "no receipt") || !strings.Contains(got.Warning, "anyone") {
			t.Errorf("warning: %q", got.Warning)
		}
		got.Warning = ""
		want := outcome{To: js.ID, Topic: js.ID, Status: "published", Via: "pubsub", Subscribers: 1, RecipientSubscribed: true}
		if got != want {
			t.Errorf("send: got %+v, want %+v", got, want)
		}

		m := js.receive() // if the private message were sent, it would be received here
		if m.From != n.PeerID() || m.Topic != js.ID || string(m.Data) != `{"a":1}` {
			t.Errorf("the peer got %q from %s on topic %s", m.Data, m.From, m.Topic)
		}

		text := n.MustRun("npp", "send", js.ID, "no JSON")
		if !strings.HasPrefix(text, "published ") || !strings.Contains(text, "\nwarning: ") {
			t.Errorf("send: got %q", text)
		}
		if m := js.receive(); string(m.Data) != `"no JSON"` {
			t.Errorf("the peer got %q", m.Data)
		}
	})
}

func TestSendFailsWithoutSubscribers(t *testing.T) {
	t.Parallel()
	forEachGossipsub(t, func(t *testing.T, gossipsub string) {
		n := harness.New(t).Start()
		js := startPeer(t, gossipsub)

		r := n.Run("npp", "send", "--enc=json", js.Addr, `"into the void"`)
		if r.Code != 1 || !strings.Contains(r.Stderr, "no peer is subscribed") {
			t.Errorf("send: want exit status 1 and the reason, got %v", r)
		}
		if got := decode[outcome](t, r.Stdout); got.Status != "failed" || got.To != js.ID {
			t.Errorf("send: got %+v", got)
		}

		js.subscribe(js.ID)
		n.MustRun("npp", "send", js.ID, `"now"`)
		if m := js.receive(); string(m.Data) != `"now"` {
			t.Errorf("the peer got %q", m.Data)
		}
	})
}

func TestBurstToTopicReachesJSPeerWhole(t *testing.T) {
	t.Parallel()
	const topic, burst = "rehearsals", 200
	forEachGossipsub(t, func(t *testing.T, gossipsub string) {
		n := harness.New(t).Start()
		js := startPeer(t, gossipsub)
		js.connect(n)
		js.subscribe(topic)

		messages := numbered(burst)
		api := n.APIURL() + "npp/send?"
		results := make(chan error, burst)
		for _, m := range messages {
			go func() { results <- post(api + url.Values{"topic": {topic}, "arg": {string(m)}}.Encode()) }()
		}
		for range messages {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		n.MustRun("npp", "send", "--topic", topic, `"last"`)
		messages = append(messages, []byte(`"last"`))

		var got []string
		defer func() { checkOnceEach(t, got, messages) }()
		for range messages {
			m := js.receive()
			if m.From != n.PeerID() || m.Topic != topic {
				t.Errorf("the peer got %q from %s on topic %s", m.Data, m.From, m.Topic)
			}
			got = append(got, string(m.Data))
		}
	})
}

// post calls `npp send` over the daemon's RPC. The message must be published.
func post(u string) error {
	client := http.Client{Timeout: harness.Patience}
	resp, err := client.Post(u, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var o outcome
	if err := json.Unmarshal(body, &o); err != nil || o.Status != "published" {
		return fmt.Errorf("npp/send: %s: %s", resp.Status, body)
	}
	return nil
}

func TestMessagesOfJSPeerArriveOnceEach(t *testing.T) {
	t.Parallel()
	forEachGossipsub(t, func(t *testing.T, gossipsub string) {
		for _, test := range []struct {
			name     string
			messages [][]byte
			publish  func(js *peer, topic string, messages [][]byte)
		}{{
			name:     "one by one",
			messages: numbered(100),
			publish: func(js *peer, topic string, messages [][]byte) {
				for _, m := range messages {
					js.publish(topic, m)
				}
			},
		}, {
			name:     "all at once",
			messages: numbered(1000),
			publish: func(js *peer, topic string, messages [][]byte) {
				js.publish(topic, messages...)
			},
		}} {
			t.Run(test.name, func(t *testing.T) {
				n := harness.New(t).Start()
				js := startPeer(t, gossipsub)
				js.connect(n)
				test.publish(js, n.PeerID(), test.messages)

				listener := n.Spawn("npp", "listen", "--since", "all", "--from", js.ID, "--enc=json")
				var heard, seqnos []string
				defer func() { checkOnceEach(t, heard, test.messages) }()
				for range test.messages {
					m := decode[stored](t, listener.Expect("{"))
					if m.From != js.ID || m.Via != "pubsub" || !slices.Equal(m.TopicIDs, []string{n.PeerID()}) {
						t.Errorf("listen: got %+v", m)
					}
					heard = append(heard, string(m.Message))
					seqnos = append(seqnos, string(bytesOf(t, m.Seqno)))
				}
				if sorted := slices.IsSorted(seqnos); sorted != (gossipsub == ascendingSeqno) {
					t.Errorf("received in the order of the sequence numbers: %t", sorted)
				}

				var kept []string
				for _, m := range listed(t, n) {
					kept = append(kept, string(m.Message))
				}
				if !slices.Equal(kept, heard) {
					t.Errorf("messages ls prints %d messages, other than those of listen", len(kept))
				}
			})
		}
	})
}

func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	_, b, err := multibase.Decode(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return b
}

func TestMessageOfJSPeerThatIsNoJSONIsShownAsBytes(t *testing.T) {
	t.Parallel()
	data := []byte{0xff, 0x00, '{', 0x1b, '\n'}
	forEachGossipsub(t, func(t *testing.T, gossipsub string) {
		n := harness.New(t).Start()
		js := startPeer(t, gossipsub)
		js.connect(n)
		js.publish(n.PeerID(), data)

		listener := n.Spawn("npp", "listen", "--since", "all", "--enc=json")
		m := decode[stored](t, listener.Expect("{"))
		if m.From != js.ID || m.Message != nil || !bytes.Equal(bytesOf(t, m.Data), data) {
			t.Errorf("listen: got %+v", m)
		}
		text := n.MustRun("npp", "messages", "ls")
		if !strings.HasSuffix(text, " "+m.Data+"\n") {
			t.Errorf("messages ls: got %q", text)
		}
	})
}

func TestReplayOfJSPeersMessageIsStoredOnce(t *testing.T) {
	t.Parallel()
	forEachGossipsub(t, func(t *testing.T, gossipsub string) {
		n := harness.New(t).Start()
		js := startPeer(t, gossipsub)
		// publish publishes a message and waits until it is stored.
		publish := func(text string) {
			t.Helper()
			js.publish(n.PeerID(), []byte(text))
			n.Spawn("npp", "listen", "--since", "all", "--enc=json").Expect(`"message":` + text)
		}
		// reconnect restarts the daemon, so that the router forgets the
		// messages that it has seen.
		reconnect := func() {
			t.Helper()
			js.disconnect()
			n.Stop()
			n.Start()
			js.connect(n)
		}
		// check compares the store, after all earlier messages have been
		// processed.
		check := func(want ...string) {
			t.Helper()
			var got []string
			for _, m := range listed(t, n) {
				got = append(got, string(m.Message))
			}
			if !slices.Equal(got, want) {
				t.Errorf("stored: got %q, want %q", got, want)
			}
		}
		js.connect(n)
		publish(`"first"`)
		js.replay()
		reconnect()
		js.replay()
		publish(`"second"`)
		check(`"first"`, `"second"`)

		n.MustRun("npp", "messages", "rm", "--all")
		reconnect()
		js.replay()
		publish(`"third"`)
		check(`"third"`)
	})
}
