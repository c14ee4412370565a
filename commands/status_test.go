package commands

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/router"
)

func TestStatusSaysWhichStreamsWereReset(t *testing.T) {
	out := newStatusOutput(daemon.Status{Started: time.Now(), Messages: message.Stats{Dropped: router.Drops{Streams: 4}}})
	if got, want := out.text(), "pubsub      4 streams were reset because the peer did not read\n"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if b, err := json.Marshal(out); err != nil || !strings.Contains(string(b), `"streamsReset":4`) {
		t.Errorf("%s, %v", b, err)
	}
	if got := newStatusOutput(daemon.Status{}).text(); strings.Contains(got, "reset") {
		t.Errorf("got %q", got)
	}
}
