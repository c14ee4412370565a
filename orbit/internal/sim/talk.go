package sim

import (
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
)

// gather is how long a host waits for more to tell. What changes at one moment is
// told at once, so that its order does not matter.
const gather = time.Millisecond

// talk is what a host has told a peer on a connection: what it is subscribed to,
// and what blocks it wants. w.mu guards it.
type talk struct {
	conn   *conn
	from   *host
	topics map[string]bool
	wants  map[string]bool // keys of CIDs
	due    bool            // something is about to be told
	last   time.Time       // when the last of it arrives
}

func newTalk(c *conn, from *host) *talk {
	return &talk{conn: c, from: from, topics: make(map[string]bool), wants: make(map[string]bool)}
}

// changed has told in a moment what is not told yet. The caller holds w.mu.
func (t *talk) changed() {
	if t.due {
		return
	}
	t.due = true
	w := t.from.w
	w.at(time.Now().Add(gather), t.conn.key(t.from, "tell"), "", func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		t.due = false
		t.tell()
	})
}

// tell tells what has changed. The caller holds w.mu.
func (t *talk) tell() {
	topics, wants := make(map[string]bool), make(map[string]bool)
	for topic := range t.from.pubsub.followed {
		topics[topic] = true
	}
	for c := range t.from.swap.wants {
		wants[c.KeyString()] = true
	}
	topics, wants = news(&t.topics, topics), news(&t.wants, wants)
	if len(topics)+len(wants) == 0 {
		return
	}
	key := t.conn.key(t.from, "told")
	for _, m := range []map[string]bool{topics, wants} {
		for _, what := range sortedKeys(m) {
			key = key.text(what)
			if m[what] {
				key = key.text("on")
			}
		}
	}
	to := t.conn.other(t.from)
	t.last = t.conn.send(t.from, key, fmt.Sprintf("told %d topics, %d wants", len(topics), len(wants)), t.last.Add(1), func() {
		for _, topic := range sortedKeys(topics) {
			to.pubsub.note(t.from.id, topic, topics[topic])
		}
		for _, c := range sortedKeys(wants) {
			to.swap.note(t.from.id, cid.MustParse([]byte(c)), wants[c])
		}
	})
}

// news replaces what is known with what is so, and returns what differs.
func news(known *map[string]bool, is map[string]bool) map[string]bool {
	differs := make(map[string]bool)
	for what := range is {
		if !(*known)[what] {
			differs[what] = true
		}
	}
	for what := range *known {
		if !is[what] {
			differs[what] = false
		}
	}
	*known = is
	return differs
}
