package inventory

import "github.com/newpieceplease/npp/orbit/block"

// none stands for a claim that does not exist.
const none = ^uint32(0)

// database is a database that both sides have. Each side may have claimed it;
// both claims, if they crossed. It is common until both channels end.
type database struct {
	key         Key
	theirs      State
	mine, peers uint32 // numbers of the claims of this side and of the peer
	known       bool   // theirs was heard
	asking      bool   // this side asked for theirs, and was not told since
	asked       bool   // the peer asked for the state here, and was not told since
}

// channels returns the channels of a database as this side sends them.
func (d *database) channels() (all []channel) {
	if d.mine != none {
		all = append(all, channel{number: d.mine})
	}
	if d.peers != none {
		all = append(all, channel{number: d.peers, received: true})
	}
	return all
}

// databases are those that both sides have.
type databases struct {
	byKey  map[Key]*database
	mine   map[uint32]*database // by the number of this side's claim
	theirs map[uint32]*database // by the number of the peer's claim
}

func newDatabases() databases {
	return databases{make(map[Key]*database), make(map[uint32]*database), make(map[uint32]*database)}
}

// open adds a channel, which takes the place of an earlier claim of that side.
func (t *databases) open(k Key, number uint32, received bool) *database {
	d := t.byKey[k]
	if d == nil {
		d = &database{key: k, mine: none, peers: none}
		t.byKey[k] = d
	}
	if received {
		delete(t.theirs, d.peers)
		d.peers, t.theirs[number] = number, d
	} else {
		delete(t.mine, d.mine)
		d.mine, t.mine[number] = number, d
	}
	return d
}

// drop ends all channels of a database.
func (t *databases) drop(d *database) {
	delete(t.byKey, d.key)
	delete(t.mine, d.mine)
	delete(t.theirs, d.peers)
}

// of returns the database of a channel that the peer sent, or nil.
func (t *databases) of(c channel) *database {
	if c.received {
		return t.mine[c.number]
	}
	return t.theirs[c.number]
}

// close ends a channel that the peer sent. It returns the database if that was
// its last channel.
func (t *databases) close(c channel) *database {
	d := t.of(c)
	if d == nil {
		return nil
	}
	if c.received {
		delete(t.mine, d.mine)
		d.mine = none
	} else {
		delete(t.theirs, d.peers)
		d.peers = none
	}
	if d.mine != none || d.peers != none {
		return nil
	}
	delete(t.byKey, d.key)
	return d
}

// claims are what this side claims. The number of a claim is its place in the
// order of claims.
type claims struct {
	keys     []Key  // of the claims that are not answered
	answered uint32 // claims before keys
	sent     uint32
	matched  []matched // by the peer; to be confirmed
}

// matched is a match, and the state of the side that found it.
type matched struct {
	number uint32
	said   State
}

func (c *claims) next() uint32       { return c.answered + uint32(len(c.keys)) }
func (c *claims) unanswered() uint32 { return c.sent - c.answered }

// take removes the claims below a number, which are answered.
func (c *claims) take(upTo uint32) {
	c.keys = rest(c.keys, int(upTo-c.answered))
	c.answered = upTo
}

// answers are the claims of the peer, and what this side answers.
type answers struct {
	received    uint32
	pending     []tag      // claims for the next pass
	passed      uint32     // claims that passes looked for
	found       []foundKey // by passes; not answered
	answered    uint32     // claims
	unconfirmed []matched  // by this side
}

// foundKey is a claimed database that this side has.
type foundKey struct {
	number uint32
	key    Key
}

// rest returns what follows the first n items. It lets go of the memory when
// nothing follows.
func rest[T any](items []T, n int) []T {
	if n == len(items) {
		return nil
	}
	return items[n:]
}

// removal is a database that was removed while it may be in a claim of this
// side, or in the result of a pass.
type removal struct {
	before uint32 // claims of this side below this number are void
	back   bool   // it was added again
}

// changes are the states to be told, in the order of their first change.
type changes struct {
	queue []*database
	told  map[*database]news
	bytes int // of all entries
}

// news is the last state of a database and some of the entries since the one
// that was sent before.
type news struct {
	state   State
	entries []block.Block
	bytes   int
}

func (c *changes) add(d *database, ours State, entries []block.Block) {
	n, queued := c.told[d]
	if !queued {
		c.queue = append(c.queue, d)
	}
	if c.told == nil {
		c.told = make(map[*database]news)
	}
	n.state = ours
	size := 0
	for _, e := range entries {
		size += len(e.Data) + entryOverhead
	}
	if n.bytes+size > maxPayload || len(n.entries)+len(entries) > maxEntries || c.bytes+size > maxQueued {
		c.bytes -= n.bytes
		n.entries, n.bytes = nil, 0
	} else {
		n.entries = append(n.entries, entries...)
		n.bytes += size
		c.bytes += size
	}
	c.told[d] = n
}

// entryOverhead is at least the size of the head of a byte string.
const entryOverhead = 9

// take returns the change that waits longest.
func (c *changes) take() (d *database, n news, ok bool) {
	for len(c.queue) > 0 && !ok {
		d = c.queue[0]
		c.queue = rest(c.queue, 1)
		n, ok = c.told[d]
	}
	c.forget(d)
	return d, n, ok
}

// forget drops what is to be told of a database.
func (c *changes) forget(d *database) {
	c.bytes -= c.told[d].bytes
	delete(c.told, d)
}
