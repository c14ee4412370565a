package replicate

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/admission"
	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
)

const (
	linkRate     = 1 // links that a peer may begin, per second
	linkBurst    = 32
	linkPeers    = 1 << 12 // peers whose rate is remembered
	linkPeersMax = 1 << 16 // peers that have one
	linkAgainMin = time.Second
	linkAgainMax = time.Minute
)

// links are the links with the connected daemons, one for each. The daemon with
// the lower peer ID begins it, and begins another one when it ends while the
// daemons are connected.
type links struct {
	r      *Replicator
	passes *inventory.Passes
	begins *admission.Rates

	mu        sync.RWMutex
	all       map[peer.ID]*link
	beginning map[peer.ID]wait.Flag // peers with a goroutine that begins links; set when they were identified
}

func newLinks(r *Replicator) *links {
	return &links{
		r:         r,
		passes:    inventory.NewPasses(),
		begins:    admission.NewRates(linkRate, linkBurst, linkPeers, linkPeersMax),
		all:       make(map[peer.ID]*link),
		beginning: make(map[peer.ID]wait.Flag),
	}
}

func (ls *links) config(l *link) inventory.Config {
	return inventory.Config{Catalog: ls.r.index, Handler: l, Passes: ls.passes, Rand: ls.r.random.reader()}
}

// begin begins a link with a connected peer, if the peer speaks the protocol and
// it is for this daemon to begin.
func (ls *links) begin(p peer.ID) {
	if !ls.r.isLoaded() {
		return // load calls begin again
	}
	if ls.r.cfg.Host.ID() > p || !ls.shouldBegin(p) {
		return
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if again := ls.beginning[p]; again != nil {
		again.Set()
		return
	}
	again := wait.NewFlag()
	if ls.r.tasks.Go(func() { ls.keep(p, again) }) {
		ls.beginning[p] = again
	}
}

func (ls *links) shouldBegin(p peer.ID) bool {
	h := ls.r.cfg.Host
	return h.Network().Connectedness(p) == network.Connected && negotiate.Speaks(h, p, inventory.Protocol)
}

// keep begins links with a peer, one after the other, while the peer is
// connected. It does not pause when the peer was identified on another
// connection.
func (ls *links) keep(p peer.ID, again wait.Flag) {
	ctx := ls.r.tasks.Context()
	failures := 0 // in a row
	for ctx.Err() == nil && ls.goesOn(p) {
		l := newLink(ls.r, p)
		var err error
		if l.session, err = inventory.Open(l.ctx, ls.r.cfg.Host, p, ls.config(l)); err == nil {
			err = ls.run(l)
		}
		l.cancel()
		log.Debugw("link ended", "peer", p, "err", err)
		if time.Since(l.begun) > linkAgainMax {
			failures = 0
		}
		timer := time.NewTimer(ls.r.random.around(doubled(linkAgainMin, failures, linkAgainMax)))
		select {
		case <-timer.C:
			failures++
		case <-again:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// goesOn reports whether links with a peer are still to be begun, and otherwise
// lets another goroutine begin them later.
func (ls *links) goesOn(p peer.ID) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	on := ls.shouldBegin(p)
	if !on {
		delete(ls.beginning, p)
	}
	return on
}

// accept runs a link that a peer began.
func (ls *links) accept(s network.Stream) {
	p := s.Conn().RemotePeer()
	end, ok := ls.r.tasks.Begin()
	if !ok {
		s.Reset()
		return
	}
	defer end()
	if ls.r.awaitLoaded(ls.r.tasks.Context()) != nil || ls.begins.Take(p, time.Now()) > 0 {
		s.Reset()
		return
	}
	l := newLink(ls.r, p)
	defer l.cancel()
	l.session = inventory.Accept(s, ls.config(l))
	log.Debugw("link ended", "peer", p, "err", ls.run(l))
}

// run runs a link, after the one that it replaces has ended.
func (ls *links) run(l *link) error {
	ls.mu.Lock()
	before := ls.all[l.peer]
	ls.all[l.peer] = l
	ls.mu.Unlock()
	if before != nil {
		before.cancel()
		<-before.done
	}
	return l.run()
}

// remove removes a link that ended, unless another one has replaced it.
func (ls *links) remove(l *link) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.all[l.peer] == l {
		delete(ls.all, l.peer)
	}
}

// list returns all links, in the order of their peers.
func (ls *links) list() []*link {
	ls.mu.RLock()
	defer ls.mu.RUnlock()
	return slices.SortedFunc(maps.Values(ls.all), func(a, b *link) int { return cmp.Compare(a.peer, b.peer) })
}

// added tells the daemons that a database is replicated from now on.
func (ls *links) added(k inventory.Key) {
	for _, l := range ls.list() {
		l.session.Add(k)
	}
}

// removed tells the daemons that a database is not replicated any more.
func (ls *links) removed(k inventory.Key) {
	for _, l := range ls.list() {
		l.session.Remove(k)
		l.forget(k)
	}
}

// common returns the state of a database at a daemon, if both have it.
func (ls *links) common(p peer.ID, k inventory.Key) (theirs inventory.State, ok bool) {
	ls.mu.RLock()
	l := ls.all[p]
	ls.mu.RUnlock()
	if l == nil {
		return theirs, false
	}
	return l.session.Common(k)
}

// sent notes that a daemon sent entries, which are not sent back.
func (ls *links) sent(p peer.ID, cs []orbit.Candidate) {
	ls.mu.RLock()
	l := ls.all[p]
	ls.mu.RUnlock()
	if l == nil {
		return
	}
	for _, c := range cs {
		l.got.Add(c.Hash(), struct{}{})
	}
}

// with returns the links with the daemons that have a database.
func (ls *links) with(k inventory.Key) []*link {
	return slices.DeleteFunc(ls.list(), func(l *link) bool {
		_, ok := l.session.Common(k)
		return !ok
	})
}

// hearing returns the links whose daemons are to be told of changes of a
// database. Some of these daemons have not told their states yet.
func (ls *links) hearing(k inventory.Key) []*link {
	return slices.DeleteFunc(ls.list(), func(l *link) bool { return !l.session.Has(k) })
}

// having returns the daemons that have a database.
func (ls *links) having(k inventory.Key) (peers []peer.ID) {
	for _, l := range ls.with(k) {
		peers = append(peers, l.peer)
	}
	return peers
}

// seed tells a replica that started which daemons have its database.
func (ls *links) seed(rp *replica) {
	for _, l := range ls.with(rp.key) {
		if theirs, ok := l.session.Common(rp.key); ok {
			rp.peers.link(l.peer, true)
			agree := theirs != inventory.State{} && theirs == ls.r.index.State(rp.ctx, rp.key)
			rp.compared(l.peer, agree, l.heardAt(rp.key))
		}
		// The link may have ended before the replica heard of it.
		_, has := ls.common(l.peer, rp.key)
		rp.peers.link(l.peer, has)
	}
}

// ask asks the daemons that have a database for its state.
func (ls *links) ask(k inventory.Key) {
	for _, l := range ls.with(k) {
		l.session.Ask(k)
	}
}

// compare compares the state of a database with those of the daemons.
func (ls *links) compare(k inventory.Key) {
	for _, l := range ls.with(k) {
		if theirs, ok := l.session.Common(k); ok {
			l.compare(k, theirs, l.behind.delay(k))
		}
	}
}

// tell tells the daemons that have a database its state. Some of those that
// differ get the new entries, except those that they sent; the others get what
// they lack when they ask for it.
func (ls *links) tell(k inventory.Key, state inventory.State, entries []block.Block) {
	all := ls.hearing(k)
	ls.r.random.shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	sent := 0
	for _, l := range all {
		theirs, known := l.session.Common(k)
		var news []block.Block
		if theirs != state && sent < tellEntries {
			news = slices.DeleteFunc(slices.Clone(entries), func(b block.Block) bool { return l.got.Contains(b.Hash) })
			sent++
		}
		l.session.Tell(k, state, news)
		if known {
			l.told(k, state, theirs)
		}
	}
}
