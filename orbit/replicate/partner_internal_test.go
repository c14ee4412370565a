package replicate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A peer that was not in step and asked for what it lacked is compared again soon,
// and less and less often if it stays so.
func TestPeerThatAskedForWhatItLackedIsComparedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const id = peer.ID("peer")
		now := time.Now()
		for name, test := range map[string]struct {
			peer  partner
			after time.Duration // 0 for as before
		}{
			"not in step":        {partner{subscribed: true, last: now}, againAfter},
			"in step before":     {partner{subscribed: true, last: now, inStep: now.Add(-1)}, againAfter},
			"in step":            {partner{subscribed: true, last: now, inStep: now}, 0},
			"never compared":     {partner{subscribed: true}, 0},
			"for the third time": {partner{subscribed: true, last: now, behind: 2}, 4 * againAfter},
			"for a long time":    {partner{subscribed: true, last: now, behind: 30}, 0},
			"gone":               {partner{last: now}, 0},
			"it is being done":   {partner{subscribed: true, last: now, busy: true}, 0},
		} {
			rp := newReplica(&Replicator{ctx: t.Context(), random: new(chance)}, "/orbitdb/zdpu")
			q := test.peer
			q.next = now.Add(confirmAfter)
			rp.peers[id] = &q
			rp.sessionEnded(id)
			got := q.next.Sub(now)
			soon := got >= test.after*3/4 && got <= test.after*5/4 && len(rp.due) > 0
			same := got == confirmAfter && len(rp.due) == 0
			if test.after > 0 && !soon || test.after == 0 && !same {
				t.Errorf("%s: the next exchange is after %v, not around %v", name, got, test.after)
			}
			rp.cancel()
		}
	})
}
