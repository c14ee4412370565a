package cli

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

const messagesConfig = "Plugins.Plugins.npp.Config.Messages"

// limited returns a running daemon with the limits.
func limited(t *testing.T, limits map[string]any) *harness.Node {
	t.Helper()
	return harness.New(t).Set(messagesConfig, limits).Start()
}

// A message beyond the recipient's size limit is refused, and the sender is
// told the limit.
func TestRecipientsSizeLimitIsTold(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), limited(t, map[string]any{"MaxMessageBytes": 1000})
	a.Connect(b)
	for _, size := range []int{1001, 1500, 3000, 1 << 20} {
		r := a.RunStdin(strings.Repeat("a", size-2), "npp", "send", b.PeerID())
		want := fmt.Sprintf("Error: the message is too large for the recipient: %d bytes, its limit is 1000; hint: ", size)
		if r.Code != 1 || !strings.HasPrefix(r.Stderr, want) || r.Stdout != "" {
			t.Errorf("%d bytes: %v", size, r)
		}
	}
	if r := a.RunStdin(strings.Repeat("a", 998), "npp", "send", b.PeerID()); r.Code != 0 {
		t.Errorf("1000 bytes: %v", r)
	}
	if got := len(stored(t, b)); got != 1 {
		t.Errorf("%d messages are stored, want 1", got)
	}
	// the same limit applies to the recipient's own messages
	r := b.RunStdin(strings.Repeat("a", 999), "npp", "send", a.PeerID())
	if r.Code != 1 || !strings.HasPrefix(r.Stderr, "Error: the message is too large: 1001 bytes, the limit is 1000; hint: ") {
		t.Errorf("from b: %v", r)
	}
}

// A sender whose quota in the recipient's store is used up is told so. No
// delivered message is lost, and other senders are not affected.
func TestFullPeerQuotaRefusesItsSenderOnly(t *testing.T) {
	t.Parallel()
	a, c := harness.New(t).Start(), harness.New(t).Start()
	b := limited(t, map[string]any{"MaxMessageBytes": 1000, "PeerBytes": 4000})
	a.Connect(b)
	c.Connect(b)
	fill := func() (delivered string) {
		t.Helper()
		text := strings.Repeat("a", 998)
		for range 10 {
			s, err := newMailer(t, a).send(url.Values{"arg": {b.PeerID()}}, []byte(text))
			if err == nil {
				delivered += s.ID + " "
				continue
			}
			if s.Status != "failed" || !strings.Contains(err.Error(), "the recipient refused the message: full: ") {
				t.Errorf("%+v, %v", s, err)
			}
			r := a.Run("npp", "send", b.PeerID(), text)
			if r.Code != 1 || r.Stdout != "" || !strings.HasPrefix(r.Stderr, "Error: the recipient refused the message: full: ") {
				t.Errorf("CLI: %v", r)
			}
			return strings.TrimSpace(delivered)
		}
		t.Fatalf("ten messages fit in the share: %v", delivered)
		return ""
	}
	first := fill()
	if got := ids(stored(t, b)); first == "" || got != first {
		t.Errorf("delivered %q, stored %q", first, got)
	}
	c.MustRun("npp", "send", b.PeerID(), "from another")
	stat := decodeLines[struct{ DirectBytes, PeerLimit, Refused int }](t, b.MustRun("npp", "messages", "stat", "--enc=json"))[0]
	if stat.PeerLimit != 4000 || stat.Refused != 2 || stat.DirectBytes < 1000*len(strings.Fields(first)) {
		t.Errorf("stat: %+v", stat)
	}
	b.MustRun("npp", "messages", "rm", "--all", "--from", a.PeerID())
	if again := fill(); len(again) != len(first) {
		t.Errorf("after rm, %q were delivered, before %q", again, first)
	}
}

// With drop-oldest, a sender's newest messages replace its own oldest.
func TestFullPeerQuotaDropsOldestIfConfigured(t *testing.T) {
	t.Parallel()
	a, c := harness.New(t).Start(), harness.New(t).Start()
	b := limited(t, map[string]any{"MaxMessageBytes": 1000, "PeerBytes": 4000, "WhenPeerFull": "drop-oldest"})
	a.Connect(b)
	c.Connect(b)
	c.MustRun("npp", "send", "--id=other", b.PeerID(), "from another")
	var all []string
	m := newMailer(t, a)
	for range 20 {
		s, err := m.send(url.Values{"arg": {b.PeerID()}}, []byte(strings.Repeat("a", 998)))
		if err != nil || s.Status != "delivered" {
			t.Fatalf("%+v, %v", s, err)
		}
		all = append(all, s.ID)
	}
	kept := strings.Fields(ids(stored(t, b)))
	newest := strings.Join(kept[1:], " ")
	if len(kept) < 3 || kept[0] != "other" || !strings.HasSuffix(strings.Join(all, " "), newest) || len(kept) > 4 {
		t.Errorf("stored: %v, sent: %v", kept, all)
	}
}

// A sender that exceeds the recipient's rate and has no time to wait is told
// so; delivered messages are stored.
func TestTooFastSenderIsTold(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), limited(t, map[string]any{"MaxPerSecond": 1})
	a.Connect(b)
	m := newMailer(t, a)
	var (
		sending            sync.WaitGroup
		mu                 sync.Mutex
		delivered, tooFast int
	)
	for n := range 30 {
		sending.Go(func() {
			s, err := m.send(url.Values{"arg": {b.PeerID()}, "deadline": {"4500ms"}}, []byte(strconv.Itoa(n)))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && s.Status == "delivered":
				delivered++
			case err == nil || s.Status == "delivered":
				t.Errorf("%+v, %v", s, err)
			case strings.Contains(err.Error(), "the recipient accepts no more messages for now"):
				tooFast++
			}
		})
	}
	sending.Wait()
	if delivered == 0 || tooFast == 0 {
		t.Errorf("%d of 30 were delivered, %d told that they are too fast", delivered, tooFast)
	}
	if got := len(stored(t, b)); got < delivered {
		t.Errorf("%d were delivered, %d are stored", delivered, got)
	}
	// with time to wait, the message is delivered
	a.MustRun("npp", "send", b.PeerID(), "patient")
}

// Messages older than KeepFor are deleted when the daemon starts.
func TestOldMessagesExpire(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.MustRun("npp", "send", b.PeerID(), "hello")
	b.Stop()
	b.Set(messagesConfig, map[string]any{"KeepFor": "1h"}).Start()
	if got := len(stored(t, b)); got != 1 {
		t.Errorf("%d messages are left of one that is not old", got)
	}
	b.Stop()
	b.Set(messagesConfig, map[string]any{"KeepFor": "1ns"}).Start()
	eventually(t, "an empty store", func() bool { return len(stored(t, b)) == 0 })
	if stat := b.MustRun("npp", "messages", "stat", "--enc=json"); !strings.Contains(stat, `"expired":1`) {
		t.Errorf("stat: %s", stat)
	}
}

// On a datastore that may split a batch, npp works, and the daemon warns at
// start about the guarantees that it cannot give. On other datastores there is
// no warning.
func TestBadgerIsWarnedAbout(t *testing.T) {
	t.Parallel()
	for profile, warn := range map[string]bool{"test": false, "test,pebbleds": false, "test,badgerds": true} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			a, b := harness.New(t).Start(), withProfile(t, profile).Start()
			a.Connect(b)
			a.MustRun("npp", "send", b.PeerID(), "there")
			b.MustRun("npp", "send", a.PeerID(), "and back")
			before := b.MustRun("npp", "messages", "ls")
			r := b.Stop()
			if r.Code != 0 || strings.Contains(r.Stderr, "may write parts of a batch") != warn {
				t.Errorf("daemon: %v", r)
			}
			b.Start()
			if after := b.MustRun("npp", "messages", "ls"); after != before || len(lines(after)) != 1 {
				t.Errorf("before the restart %q, after it %q", before, after)
			}
		})
	}
}
