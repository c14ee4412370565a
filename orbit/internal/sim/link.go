package sim

import (
	"time"
)

// link connects two nodes. It can be cut and healed.
type link struct {
	w             *world
	nodes         [2]*node
	least, most   time.Duration // the latency of a message
	loss, repeats float64       // the probabilities that a pubsub message is lost, or duplicated
	cut           bool
	conn          *conn // the latest, or nil
}

// conn is a connection of two hosts over a link. Its ends notice its loss
// later.
type conn struct {
	link    *link
	hosts   [2]*host
	lost    bool
	streams [2]map[*stream]bool
	talks   [2]*talk
}

// end returns the index of a host in a connection.
func (c *conn) end(h *host) int {
	if c.hosts[0] == h {
		return 0
	}
	return 1
}

// other returns the host at the other end.
func (c *conn) other(h *host) *host { return c.hosts[1-c.end(h)] }

// noticed reports whether a host knows that the connection is over.
func (c *conn) noticed(h *host) bool { return h.conns[c.other(h).id] != c }

// key returns the digest of a message that is sent now.
func (c *conn) key(from *host, what string) digest {
	return c.link.w.now(what).text(string(from.id)).text(string(c.other(from).id))
}

// send schedules the arrival of a message at the other end, not before a time.
// The message is lost if the connection is lost meanwhile. The caller holds
// w.mu.
func (c *conn) send(from *host, key digest, what string, earliest time.Time, arrive func()) (when time.Time) {
	l := c.link
	when = time.Now().Add(key.between(l.least, l.most))
	if when.Before(earliest) {
		when = earliest
	}
	if c.lost {
		return when
	}
	to := c.other(from)
	l.w.at(when, key, what+" "+from.node.name+">"+to.node.name, func() {
		l.w.mu.Lock()
		gone := c.lost || c.noticed(to)
		l.w.mu.Unlock()
		if !gone {
			arrive()
		}
	})
	return when
}

// dial connects the nodes of a link, if both run and one of them knows that
// they are not connected. It ends an old connection of which the other one
// still knows.
func (l *link) dial() {
	l.w.mu.Lock()
	a, b := l.nodes[0].host, l.nodes[1].host
	if l.cut || a == nil || b == nil || a.conns[b.id] != nil && b.conns[a.id] != nil {
		l.w.mu.Unlock()
		return
	}
	c := &conn{link: l, hosts: [2]*host{a, b}}
	l.conn = c
	var known [2]bool
	for i, h := range c.hosts {
		c.streams[i] = make(map[*stream]bool)
		c.talks[i] = newTalk(c, h)
		old := h.conns[c.other(h).id]
		known[i] = old != nil
		if old != nil {
			old.drop(h)
		}
		h.conns[c.other(h).id] = c
	}
	for _, t := range c.talks {
		t.changed()
	}
	l.w.mu.Unlock()
	for i, h := range c.hosts {
		h.connected(c, known[i])
	}
}

// drop ends a connection at one end. The caller holds w.mu.
func (c *conn) drop(h *host) {
	c.lost = true
	delete(h.conns, c.other(h).id)
	h.pubsub.forget(c.other(h).id)
	h.swap.forget(c.other(h).id)
	for s := range c.streams[c.end(h)] {
		s.fail()
	}
}

// lose ends a connection: the ends notice it within a time. The caller holds
// w.mu.
func (c *conn) lose(within time.Duration) {
	if c.lost {
		return
	}
	c.lost = true
	for _, h := range c.hosts {
		key := c.key(h, "notice")
		c.link.w.at(time.Now().Add(key.between(time.Millisecond, within)), key, "notice "+h.node.name, func() { c.notice(h) })
	}
}

// notice makes a host notice that a connection is lost, and dial again.
func (c *conn) notice(h *host) {
	w := c.link.w
	w.mu.Lock()
	if h.closed || c.noticed(h) {
		w.mu.Unlock()
		return
	}
	c.drop(h)
	c.link.redial()
	w.mu.Unlock()
	h.disconnected(c.other(h).id)
}

// redial dials after a random pause. The caller holds w.mu.
func (l *link) redial() {
	key := l.w.now("dial").text(l.nodes[0].name).text(l.nodes[1].name)
	l.w.at(time.Now().Add(key.between(50*time.Millisecond, 5*time.Second)), key, "dial "+l.nodes[0].name+" "+l.nodes[1].name, l.dial)
}

// setCut cuts or heals a link.
func (l *link) setCut(on bool) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.cut == on {
		return
	}
	l.cut = on
	if on && l.conn != nil {
		l.conn.lose(noticeCut)
	}
	if !on {
		l.redial()
	}
}

// Bounds of the time until the loss of a connection is noticed.
const (
	noticeCut  = 30 * time.Second
	noticeStop = 500 * time.Millisecond // the other end closed it
)
