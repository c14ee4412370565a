package commands

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
)

func TestWhatIsNotLiveIsSaidWithTheNextStep(t *testing.T) {
	limit := &router.TopicLimitError{Topics: 7000}
	const why = "7000 pubsub topics are open, and peers accept no more; hint: close databases that are not needed: ipfs npp db close <db>"
	s := newStatusLine(replicate.Status{State: replicate.Open, NotLive: limit}, nil)
	if s.State != "open" || s.NotLive != why {
		t.Errorf("status: %+v", s)
	}
	for want, got := range map[string]string{
		"\n  not live: " + why + "\n":          text(t, dbOpenCmd, nil, &openLine{Address: "/orbitdb/z", statusLine: s}),
		"not live  " + why + "\n":              text(t, dbInfoCmd, nil, &infoLine{Address: "/orbitdb/z", statusLine: s}),
		"  not live   pieces\n  " + why + "\n": text(t, dbLsCmd, nil, &listLine{Address: "/orbitdb/z", Name: "pieces", State: s.State, NotLive: s.NotLive}),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	live := newStatusLine(replicate.Status{State: replicate.Open}, nil)
	for _, got := range []string{
		text(t, dbOpenCmd, nil, &openLine{statusLine: live}), text(t, dbInfoCmd, nil, &infoLine{statusLine: live}),
		text(t, dbLsCmd, nil, &listLine{State: live.State}),
	} {
		if strings.Contains(got, "live") {
			t.Errorf("got %q", got)
		}
	}
	if err := messageError(limit); !errors.Is(err, router.ErrTooManyTopics) || err.Error() != why {
		t.Errorf("listening: %v", err)
	}
}

func TestStatusSaysWhatIsNotLiveAndWhichStreamsWereReset(t *testing.T) {
	out := newStatusOutput(daemon.Status{Started: time.Now(), Databases: 3, NotLive: []string{"/orbitdb/y", "/orbitdb/z"},
		Messages: message.Stats{Dropped: router.Drops{Streams: 4}}})
	for _, want := range []string{"databases   3 databases, 2 not live\n", "pubsub      4 streams were reset because the peer did not read\n"} {
		if got := out.text(); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	b, err := json.Marshal(out)
	if err != nil || !strings.Contains(string(b), `"notLive":["/orbitdb/y","/orbitdb/z"]`) || !strings.Contains(string(b), `"streamsReset":4`) {
		t.Errorf("%s, %v", b, err)
	}
	out = newStatusOutput(daemon.Status{})
	if got := out.text(); strings.Contains(got, "live") || strings.Contains(got, "reset") {
		t.Errorf("got %q", got)
	}
	if b, err := json.Marshal(out); err != nil || !strings.Contains(string(b), `"notLive":[]`) {
		t.Errorf("%s, %v", b, err)
	}
}
