package cli

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// Listeners and watchers that are open while messages arrive end by themselves,
// with exit status 0, when the daemon stops. They do not delay it: kubo waits
// 30 seconds for a request that does not end.
func TestListenersEndWithTheDaemon(t *testing.T) {
	t.Parallel()
	for _, stop := range []struct {
		name string
		stop func(*harness.Node)
	}{
		{"SIGTERM", func(n *harness.Node) { n.Daemon().Signal(syscall.SIGTERM) }},
		{"ipfs shutdown", func(n *harness.Node) { n.MustRun("shutdown") }},
	} {
		t.Run(stop.name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			a.MustRun("npp", "send", b.PeerID(), "first")
			var open []*harness.Process
			for range 3 {
				p := b.Spawn("npp", "listen", "--since=all")
				p.Expect(`"first"`)
				open = append(open, p)
			}
			p := b.Spawn("npp", "peers", "--watch")
			p.Expect(a.PeerID())
			open = append(open, p)
			silent := b.Spawn("npp", "listen", "--from", b.PeerID())
			eventually(t, "a listener that has nothing to print", func() bool {
				return strings.Contains(b.MustRun("diag", "cmds", "--enc=json"), `"from":"`+b.PeerID()+`"`)
			})
			open = append(open, silent)
			resp, err := http.Post(b.APIURL()+"npp/listen?since=all", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			rpc := bufio.NewReader(resp.Body)
			if line, err := rpc.ReadString('\n'); err != nil || !strings.Contains(line, `"message":"first"`) {
				t.Fatalf("%q, %v", line, err)
			}

			m, l := newMailer(t, a), newDeliveries()
			var sending sync.WaitGroup
			for sender := range 4 {
				sending.Go(func() {
					for n := 0; l.send(m, b.PeerID(), fmt.Sprintf("%d-%d", sender, n)); n++ {
					}
				})
			}
			<-l.delivered
			begin := time.Now()
			stop.stop(b)
			if r := b.Daemon().Wait(); r.Code != 0 {
				t.Errorf("daemon: %v", r)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("the daemon took %v to stop", took)
			}
			for _, p := range open {
				if r := p.Wait(); r.Code != 0 || r.Stderr != "" {
					t.Errorf("%v: exit status %d: %s", p.Cmd.Args, r.Code, r.Stderr)
				}
			}
			if _, err := io.Copy(io.Discard, rpc); err != nil || resp.Trailer.Get("X-Stream-Error") != "" {
				t.Errorf("RPC: %v, %v", err, resp.Trailer)
			}
			sending.Wait()
		})
	}
}

// Each of several listeners receives every message once and in the order of
// arrival, whether it arrived directly or by pubsub.
func TestEveryListenerGetsEveryMessageOnceInOrder(t *testing.T) {
	t.Parallel()
	const each = 200
	a, b := pair(t)
	var open []*harness.Process
	for range 3 {
		open = append(open, b.Spawn("npp", "listen", "--since=all", "--enc=json"))
	}
	m, l := newMailer(t, a), newDeliveries()
	var sending sync.WaitGroup
	for n := range each {
		sending.Go(func() { l.send(m, b.PeerID(), strconv.Itoa(n)) })
		sending.Go(func() {
			if s, err := m.send(url.Values{"topic": {b.PeerID()}}, []byte("by topic")); err != nil || s.Status != "published" {
				t.Errorf("publish: %+v, %v", s, err)
			}
		})
	}
	sending.Wait()
	for _, p := range open {
		for range 2 * each {
			p.Expect(`"id"`)
		}
	}
	want := b.MustRun("npp", "messages", "ls", "--enc=json")
	if got := len(decodeLines[arrived](t, want)); got != 2*each {
		t.Errorf("%d messages are stored, want %d", got, 2*each)
	}
	b.Stop()
	for _, p := range open {
		if r := p.Wait(); r.Stdout != want {
			t.Errorf("listener has %d bytes in another order or number than the store, %d bytes", len(r.Stdout), len(want))
		}
	}
}

// Without --since, a listener starts with the messages that arrive from then
// on.
func TestListenStartsNow(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.MustRun("npp", "send", b.PeerID(), "old")
	listener := b.Spawn("npp", "listen", "--enc=json")
	m, l := newMailer(t, a), newDeliveries()
	heard := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for n := 0; l.send(m, b.PeerID(), strconv.Itoa(n)); n++ {
			select {
			case <-heard:
				return
			default:
			}
		}
	})
	listener.Expect(`"id"`)
	close(heard)
	sending.Wait()
	a.MustRun("npp", "send", b.PeerID(), "end")
	listener.Expect(`"end"`)
	all := b.MustRun("npp", "messages", "ls", "--enc=json")
	b.Stop()
	got := listener.Wait().Stdout
	if !strings.HasSuffix(all, got) || strings.Contains(got, `"old"`) {
		t.Errorf("listener has %s, stored is %s", got, all)
	}
}

// ids returns the IDs of messages, in order.
func ids(messages []arrived) string {
	var s []string
	for _, m := range messages {
		s = append(s, m.ID)
	}
	return strings.Join(s, " ")
}

// --since, --from and --topic select the same messages for listen, ls and rm.
func TestFiltersChooseMessages(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	c := harness.New(t).Start()
	c.Connect(b)
	for i, from := range []*harness.Node{a, a, c, a} {
		from.MustRun("npp", "send", "--id="+string("wxyz"[i]), b.PeerID(), "hello")
	}
	topical := b.Spawn("npp", "listen", "--topic=rehearsals", "--enc=json")
	awaitSubscriber(t, a, "rehearsals", b)
	a.MustRun("npp", "send", "--topic=rehearsals", "tuesday")
	heard := decodeLines[arrived](t, topical.Expect("tuesday"))[0]
	all := stored(t, b)
	if want := "w x y z " + heard.ID; ids(all) != want {
		t.Fatalf("stored: %s, want %s", ids(all), want)
	}
	for _, test := range []struct{ args, want string }{
		{"", "w x y z " + heard.ID},
		{"--since=all", "w x y z " + heard.ID},
		{"--since=1h", "w x y z " + heard.ID},
		{"--since=0s", ""},
		{"--since=w", "x y z " + heard.ID},
		{"--since=z", heard.ID},
		{"--since=" + heard.ID, ""},
		{"--since=" + all[2].Received, "y z " + heard.ID},
		{"--from=" + c.PeerID(), "y"},
		{"--from=/p2p/" + a.PeerID(), "w x z " + heard.ID},
		{"--from=" + b.PeerID(), ""},
		{"--from=" + a.PeerID() + " --since=x", "z " + heard.ID},
		{"--topic=rehearsals", heard.ID},
		{"--topic=" + b.PeerID(), "w x y z"},
		{"--topic=other", ""},
	} {
		args := append([]string{"npp", "messages", "ls", "--enc=json"}, strings.Fields(test.args)...)
		if got := ids(decodeLines[arrived](t, b.MustRun(args...))); got != test.want {
			t.Errorf("ls %s: %q, want %q", test.args, got, test.want)
		}
		if test.want == "" || test.args == "" {
			continue
		}
		if !strings.Contains(test.args, "--since") {
			test.args += " --since=all"
		}
		listener := b.Spawn(append([]string{"npp", "listen", "--enc=json"}, strings.Fields(test.args)...)...)
		for _, id := range strings.Fields(test.want) {
			if got := decodeLines[arrived](t, listener.Expect(`"id"`))[0].ID; got != id {
				t.Errorf("listen %s: %s, want %s", test.args, got, id)
			}
		}
	}

	for _, test := range []struct{ args, stderr string }{
		{"--since=soon/later", `Error: --since: "soon/later" is not a duration (15m), time (2006-01-02T15:04:05Z), message ID, or all`},
		{"--since=nowhere", "Error: no such message: nowhere"},
		{"--from=nobody", `Error: --from: peer "nobody": no companion has that name; hint: `},
	} {
		for _, command := range []string{"listen", "messages ls", "messages rm --all"} {
			r := b.Run(append(append([]string{"npp"}, strings.Fields(command)...), test.args)...)
			if r.Code != 1 || !strings.HasPrefix(r.Stderr, test.stderr) || r.Stdout != "" {
				t.Errorf("%s %s: %v", command, test.args, r)
			}
		}
	}

	for _, test := range []struct{ args, left string }{
		{"x", "w y z " + heard.ID},
		{"--all --topic=rehearsals", "w y z"},
		{"--all --before=" + all[2].Received, "y z"},
		{"--all --before=1h", "y z"},
		{"--all --from=" + c.PeerID(), "z"},
		{"--all", ""},
	} {
		b.MustRun(append([]string{"npp", "messages", "rm"}, strings.Fields(test.args)...)...)
		if got := ids(stored(t, b)); got != test.left {
			t.Errorf("after rm %s: %q, want %q", test.args, got, test.left)
		}
	}
	stat := decodeLines[struct{ DirectBytes, PubsubBytes *int }](t, b.MustRun("npp", "messages", "stat", "--enc=json"))[0]
	if *stat.DirectBytes != 0 || *stat.PubsubBytes != 0 {
		t.Errorf("the store is empty, and stat says %d and %d bytes", *stat.DirectBytes, *stat.PubsubBytes)
	}
	for _, args := range []string{"", "z --all"} {
		r := b.Run(append([]string{"npp", "messages", "rm"}, strings.Fields(args)...)...)
		if r.Code != 1 || r.Stderr != "Error: either message IDs or --all is needed; hint: ipfs npp messages ls shows the IDs\n" {
			t.Errorf("rm %s: %v", args, r)
		}
	}
}

// awaitSubscriber waits until n knows that the subscriber is subscribed to the
// topic.
func awaitSubscriber(t *testing.T, n *harness.Node, topic string, subscriber *harness.Node) {
	t.Helper()
	eventually(t, "a subscriber to "+topic, func() bool {
		return strings.Contains(n.MustRun("pubsub", "peers", topic), subscriber.PeerID())
	})
}

// The answer to a listener begins before the first message: the client does not
// wait for the response header, and an unknown ID is still reported by the
// status.
func TestListenAnswersBeforeAnythingArrives(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	client := http.Client{Transport: &http.Transport{ResponseHeaderTimeout: time.Minute}}
	resp, err := client.Post(n.APIURL()+"npp/listen", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("listen: status %d", resp.StatusCode)
	}
	if status, answer := n.RPC("npp/listen", url.Values{"since": {"unknown"}}, nil); status != http.StatusInternalServerError {
		t.Errorf("listen since an unknown ID: status %d, %s", status, answer)
	}
	n.Stop()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("listen: %q, %v", rest, err)
	}
}
