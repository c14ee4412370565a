package swarm

import (
	"testing"

	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"

	"github.com/newpieceplease/npp/test/readme"
)

func TestReadmeHasTheLimitsOfARelay(t *testing.T) {
	l := relay.DefaultLimit()
	readme.Says(t, "within the relay's limits (%d KiB and two minutes by default)", l.Data>>10)
	if l.Duration.Minutes() != 2 {
		t.Errorf("README.md says two minutes, a relay allows %v", l.Duration)
	}
	readme.Says(t, "The latency is at most %d seconds old", int(latencyFresh.Seconds()))
}
