package sim

import (
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
)

// gather is the delay before a host tells changes. Concurrent changes are told
// at once, so their order does not matter.
const gather = time.Millisecond

// talk has the topics and the want list that a host told a peer on a
// connection. w.mu guards it.
type talk struct {
	conn   *conn
	from   *host
	topics map[string]bool
	wants  map[string]bool // keys of CIDs
	due    bool            // changes are about to be told
	last   time.Time       // when the last message arrives
}

func newTalk(c *conn, from *host) *talk {
	return &talk{conn: c, from: from, topics: make(map[string]bool), wants: make(map[string]bool)}
}

// changed schedules tell. The caller holds w.mu.
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

// tell tells the changes since the last call. The caller holds w.mu.
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

// news replaces the known set by the present one, and returns the differences.
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
