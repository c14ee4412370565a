package replicate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/boxo/exchange"
	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Bounds of what is fetched at once.
const (
	maxAsked      = 64  // hashes: a bitswap session that knows no peers yet asks for no more
	maxBatch      = 128 // entries that are joined at once
	maxBatchBytes = 2 << 20
	maxOfOne      = 32      // hashes that one entry names
	maxPending    = 1 << 16 // hashes that are remembered as wanted; the log knows all of them
	maxUnsent     = 1 << 14 // hashes that are remembered as asked for in vain
	maxLaterBytes = 4 << 20 // entries without effect that may turn out to be needed
)

// Missing is a block that others have not sent yet.
type Missing struct {
	Hash  string
	Since time.Time // when it was first asked for
	Tries int       // that nobody answered
	Asked []peer.ID // peers with the database that were asked by the last try
	Err   error     // why what came is of no use, or nil
}

// want has entries fetched that the log misses, but of very many only some: the log
// knows the others.
func (rp *replica) want(ctx context.Context, hashes ...string) {
	rp.mu.Lock()
	fresh := slices.DeleteFunc(slices.Clone(hashes[:min(len(hashes), maxOfOne)]), func(hash string) bool { return rp.wants[hash] })
	rp.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	missing, err := oplog.Of(rp.database()).MissingOf(ctx, fresh)
	if err != nil {
		return // pull sees the same error
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	for _, hash := range missing {
		if len(rp.wants) < maxPending {
			rp.enqueue(hash)
		}
	}
	signal(rp.pulling)
}

// enqueue has a hash asked for, unless it is on its way: behind all others if
// nobody sent it before. The caller holds rp.mu.
func (rp *replica) enqueue(hash string) {
	if rp.wants[hash] {
		return
	}
	rp.wants[hash] = true
	if m := rp.missing[hash]; m != nil && m.Tries > 0 {
		rp.stale = append(rp.stale, hash)
	} else {
		rp.queue = append(rp.queue, hash)
	}
}

// pull fetches what is wanted, and tries again, less and less often, what
// nobody sent.
func (rp *replica) pull() {
	pause := retryMin
	given, err := oplog.Of(rp.database()).Stats(rp.ctx)
	if err != nil {
		rp.storeError(err)
	}
	for rp.awaitRoom() && rp.awaitQuota() {
		begun := time.Now()
		complete, progress, err := rp.round()
		if rp.ctx.Err() != nil {
			return
		}
		rp.resume(&given)
		if err != nil {
			rp.storeError(err)
		}
		if progress {
			pause = retryMin
		}
		var again <-chan time.Time
		if !complete || err != nil {
			again = time.After(rp.r.random.around(pause))
			pause = min(2*pause, retryMax)
		}
		select {
		case <-again:
		case <-rp.pulling:
			select {
			case <-time.After(roundGap - time.Since(begun)):
			case <-rp.ctx.Done():
			}
		case <-rp.ctx.Done():
			return
		}
	}
}

// resume asks peers for their heads again where waiting entries were given up for
// want of room, and the log grew since that was last done.
func (rp *replica) resume(last *oplog.Stats) {
	now, err := oplog.Of(rp.database()).Stats(rp.ctx)
	if err != nil || now.GivenUp == last.GivenUp {
		return
	}
	rp.mu.Lock()
	rp.gaveUp = true
	rp.notify()
	rp.mu.Unlock()
	if now.Last != last.Last {
		*last = now
		rp.ask()
	}
}

// round fetches until nothing is missing, which is complete, or what is missing
// does not come. Progress is that something came that is of use.
func (rp *replica) round() (complete, progress bool, err error) {
	p := &puller{rp: rp, log: oplog.Of(rp.database()), asked: make(map[string]time.Time), done: make(map[string]bool)}
	if !p.seed() || p.err != nil {
		return p.err == nil && p.missed == 0, false, p.err
	}
	if rp.r.cfg.Exchange == nil {
		return false, false, nil
	}
	ctx, cancel := context.WithCancel(rp.ctx)
	defer cancel()
	p.ctx = ctx
	p.session = rp.r.cfg.Exchange.NewSession(ctx)
	p.arrived = make(chan ipfsblocks.Block, maxBatch)
	defer p.end()
	tick := time.NewTicker(hurriedStall / 4)
	defer tick.Stop()
	for rp.isFull() == nil {
		if !rp.accepts() {
			return false, p.progress, nil
		}
		if rp.awaitShipment() {
			p.heard = time.Now()
		}
		select {
		case <-rp.pulling: // what is wanted by now is asked for
		default:
		}
		p.ask()
		if len(p.asked) == 0 {
			if p.reoffer() {
				p.progress = true
				continue
			}
			if !p.seed() || p.err != nil {
				return p.err == nil && p.missed == 0, p.progress, p.err
			}
			continue
		}
		if !p.next(tick.C) {
			return false, p.progress, nil
		}
		if p.err == nil && p.idle() {
			p.seed()
		}
		if p.err != nil {
			return false, p.progress, p.err
		}
	}
	return false, p.progress, nil
}

// idle reports whether more can be asked for than is known to be missing. What came may
// have made other hashes missing.
func (p *puller) idle() bool {
	p.rp.mu.Lock()
	defer p.rp.mu.Unlock()
	return len(p.rp.queue)+len(p.rp.stale) == 0 && len(p.asked) < maxAsked/2
}

// next takes what comes next, what arrived before all else. It reports whether the
// round goes on.
func (p *puller) next(tick <-chan time.Time) bool {
	var b ipfsblocks.Block
	select {
	case b = <-p.arrived:
	default:
		select {
		case b = <-p.arrived:
		case <-p.rp.pulling:
			return true
		case <-tick:
			p.expire()
			p.nudge()
			return true
		case <-p.ctx.Done():
			return false
		}
	}
	p.take(p.batch(b))
	p.heard = time.Now()
	return true
}

// puller is a round of fetching.
type puller struct {
	rp       *replica
	log      *oplog.Log
	ctx      context.Context
	session  exchange.Fetcher
	arrived  chan ipfsblocks.Block
	asked    map[string]time.Time // when it was
	calls    []call               // that asked, oldest first
	done     map[string]bool      // nobody sent it, or it cannot be taken, or not yet
	missed   int                  // of what the log misses, what is done
	later    []block.Block        // had no effect, and nothing waited for them yet
	held     int                  // bytes of later
	heard    time.Time            // when something came, or all was asked for anew
	waiting  bool                 // something is wanted and not asked for yet
	progress bool
	err      error
}

// seed wants what the log misses, some of very much, and reports whether there is
// anything that can be asked for.
func (p *puller) seed() bool {
	missing, err := p.log.Missing(p.rp.ctx)
	if err != nil {
		p.err = err
		return false
	}
	if p.err = p.rp.forgetFound(p.log); p.err != nil {
		return false
	}
	p.missed = 0
	p.rp.mu.Lock()
	defer p.rp.mu.Unlock()
	for _, hash := range missing {
		switch m := p.rp.missing[hash]; {
		case p.done[hash], m != nil && m.Err != nil:
			p.missed++
		default:
			p.rp.enqueue(hash)
		}
	}
	return len(p.rp.queue)+len(p.rp.stale) > 0
}

// forgetFound forgets that nobody sent what came in another way.
func (rp *replica) forgetFound(l *oplog.Log) error {
	rp.mu.Lock()
	unsent := slices.Collect(maps.Keys(rp.missing))
	rp.mu.Unlock()
	missing, err := l.MissingOf(rp.ctx, unsent)
	if err != nil {
		return err
	}
	still := make(map[string]bool, len(missing))
	for _, hash := range missing {
		still[hash] = true
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	for _, hash := range unsent {
		if !still[hash] {
			delete(rp.missing, hash)
		}
	}
	return nil
}

// ask asks for as much of the queue as may be asked for at once, half of it what
// was wanted last, and half at random: what nobody has must not be in front of
// what somebody has.
func (p *puller) ask() {
	rp := p.rp
	var hashes []string
	rp.mu.Lock()
	for _, from := range []*[]string{&rp.queue, &rp.stale} {
		for len(*from) > 0 && len(hashes) < maxAsked-len(p.asked) {
			last := len(*from) - 1
			i := last
			if len(hashes)%2 == 1 {
				i = int(rp.r.random.below(int64(len(*from))))
			}
			hashes = append(hashes, (*from)[i])
			(*from)[i] = (*from)[last]
			*from = (*from)[:last]
		}
	}
	p.waiting = len(rp.queue)+len(rp.stale) > 0
	rp.mu.Unlock()
	var cids []cid.Cid
	now := time.Now()
	for _, hash := range p.stillMissing(hashes) {
		c, err := block.ParseHash(hash)
		if _, asked := p.asked[hash]; err != nil || asked || p.done[hash] {
			rp.forget(hash)
			continue
		}
		p.asked[hash] = now
		rp.r.wanted.Store(hash, rp)
		cids = append(cids, c)
	}
	if len(cids) == 0 {
		return
	}
	if len(p.asked) == len(cids) { // there was silence because nothing was asked for
		p.heard = now
	}
	p.call(cids)
}

// stillMissing returns those of some hashes that the log still misses: others were
// shipped meanwhile, or what needed them was given up. Those are forgotten.
func (p *puller) stillMissing(hashes []string) []string {
	missing, err := p.log.MissingOf(p.ctx, hashes)
	if err != nil {
		p.err = err
	}
	for _, hash := range hashes {
		if !slices.Contains(missing, hash) {
			p.rp.forget(hash)
			p.rp.found(hash)
		}
	}
	return missing
}

// call asks for blocks.
func (p *puller) call(cids []cid.Cid) {
	ctx, cancel := context.WithCancel(p.ctx)
	found, err := p.session.GetBlocks(ctx, cids)
	if err != nil {
		cancel()
		p.err = err
		return
	}
	p.calls = append(p.calls, call{time.Now(), cancel})
	p.rp.tasks.Go(func() {
		for b := range found {
			select {
			case p.arrived <- b:
			case <-p.ctx.Done():
				return
			}
		}
	})
}

// nudge asks anew for all that was asked for, where nothing came for a while:
// on a busy machine, bitswap was seen to have received blocks, or sent wants,
// that were lost on the way.
func (p *puller) nudge() {
	if len(p.asked) == 0 || time.Since(p.heard) < nudgeAfter {
		return
	}
	p.heard = time.Now()
	for _, c := range p.calls {
		c.cancel()
	}
	p.calls = nil
	p.session = p.rp.r.cfg.Exchange.NewSession(p.ctx)
	var cids []cid.Cid
	for hash := range p.asked {
		if c, err := block.ParseHash(hash); err == nil {
			cids = append(cids, c)
		}
	}
	p.call(cids)
}

// expire gives up for now what was asked for long enough, which is not long
// where something else waits to be asked for.
func (p *puller) expire() {
	enough := stallAfter
	if p.waiting {
		enough = hurriedStall
	}
	asked := slices.Sorted(maps.Keys(p.asked))
	missing := p.stillMissing(asked)
	for _, hash := range asked {
		if !slices.Contains(missing, hash) {
			delete(p.asked, hash)
			p.rp.r.wanted.Delete(hash)
		}
	}
	expired := false
	for hash, at := range p.asked {
		if time.Since(at) > enough {
			delete(p.asked, hash)
			p.unanswered(hash)
			expired = true
		}
	}
	for len(p.calls) > 0 && time.Since(p.calls[0].at) > enough {
		p.calls[0].cancel()
		p.calls = p.calls[1:]
	}
	if expired { // a session asks for few at once, and sticks to its peers
		p.session = p.rp.r.cfg.Exchange.NewSession(p.ctx)
	}
}

// call is one that asks for blocks.
type call struct {
	at     time.Time
	cancel context.CancelFunc
}

func (p *puller) unanswered(hash string) {
	p.done[hash] = true
	p.rp.forget(hash)
	p.rp.r.wanted.Delete(hash)
	p.rp.unanswered(hash)
}

// batch returns a block that came with those that came meanwhile.
func (p *puller) batch(first ipfsblocks.Block) []block.Block {
	var bs []block.Block
	size := 0
	for next := first; ; {
		hash, ok := block.HashOf(next.Cid())
		if _, asked := p.asked[hash]; ok && (asked || p.done[hash]) {
			delete(p.asked, hash)
			delete(p.done, hash)
			p.rp.r.wanted.Delete(hash)
			bs = append(bs, block.Block{Hash: hash, Data: next.RawData()})
			size += len(next.RawData())
		}
		if len(bs) == maxBatch || size > maxBatchBytes {
			return bs
		}
		select {
		case next = <-p.arrived:
		default:
			return bs
		}
	}
}

// take joins entries that came.
func (p *puller) take(bs []block.Block) {
	var hashes []string
	for _, b := range bs {
		hashes = append(hashes, b.Hash)
	}
	missing := p.stillMissing(hashes)
	bs = slices.DeleteFunc(bs, func(b block.Block) bool { return !slices.Contains(missing, b.Hash) })
	if len(bs) == 0 {
		return
	}
	joined, err := p.rp.joinOf(p.ctx, "", p.rp.someSubscribers(), bs...)
	if err != nil {
		p.err = err
		return
	}
	for i, j := range joined {
		hash := bs[i].Hash
		p.rp.forget(hash)
		switch {
		case j.Outcome != orbit.Refused:
			p.progress = true
			p.rp.found(hash)
		case errors.Is(j.Err, entry.ErrFault) && p.held+len(bs[i].Data) <= maxLaterBytes:
			p.later = append(p.later, bs[i])
			p.held += len(bs[i].Data)
		case errors.Is(j.Err, entry.ErrFault), errors.Is(j.Err, orbit.ErrNotAllowed), errors.Is(j.Err, orbit.ErrUnavailable),
			errors.Is(j.Err, orbit.ErrFull), errors.Is(j.Err, orbit.ErrShareFull), j.Err == nil:
			p.unanswered(hash) // it may be of use another time
		default:
			p.done[hash] = true
			p.rp.useless(hash, j.Err)
		}
	}
}

// reoffer offers again what had no effect: something may wait for it now. It
// reports whether anything was taken.
func (p *puller) reoffer() (taken bool) {
	bs := p.later
	p.later, p.held = nil, 0
	if len(bs) == 0 {
		return false
	}
	joined, err := p.rp.joinOf(p.ctx, "", p.rp.someSubscribers(), bs...)
	if err != nil {
		p.err = err
		return false
	}
	for i, j := range joined {
		if j.Outcome == orbit.Refused {
			p.later = append(p.later, bs[i])
			p.held += len(bs[i].Data)
		} else {
			taken = true
			p.rp.found(bs[i].Hash)
		}
	}
	if !taken { // what waits for them is not ready to say so
		for _, b := range p.later {
			p.unanswered(b.Hash)
		}
		p.later, p.held = nil, 0
	}
	return taken
}

// end forgets what is asked for: the log knows.
func (p *puller) end() {
	for hash := range p.asked {
		p.rp.r.wanted.Delete(hash)
	}
	p.rp.mu.Lock()
	defer p.rp.mu.Unlock()
	p.rp.queue, p.rp.stale = nil, nil
	clear(p.rp.wants)
	p.rp.notify()
}

// forget makes a hash one that is not on its way any more.
func (rp *replica) forget(hash string) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	delete(rp.wants, hash)
}

// miss changes what is known of a block that is missing.
func (rp *replica) miss(hash string, change func(*Missing)) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	m := rp.missing[hash]
	if m == nil {
		for some := range rp.missing {
			if len(rp.missing) < maxUnsent {
				break
			}
			delete(rp.missing, some)
		}
		m = &Missing{Hash: hash, Since: time.Now()}
		rp.missing[hash] = m
	}
	change(m)
	rp.notify()
}

// asking notes whom a block is asked of.
func (rp *replica) asking(hash string) {
	peers := rp.someSubscribers()
	rp.miss(hash, func(m *Missing) { m.Asked = peers })
}

// unanswered notes that nobody sent a block.
func (rp *replica) unanswered(hash string) {
	peers := rp.someSubscribers()
	rp.miss(hash, func(m *Missing) {
		m.Asked = peers
		m.Tries++
	})
}

// useless notes that what came is no entry of the log.
func (rp *replica) useless(hash string, why error) {
	rp.miss(hash, func(m *Missing) { m.Err = why })
}

// found notes that a block came.
func (rp *replica) found(hash string) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if rp.missing[hash] != nil {
		delete(rp.missing, hash)
		rp.notify()
	}
}

// someSubscribers returns the peers that have opened the database, not all of
// many.
func (rp *replica) someSubscribers() []peer.ID {
	peers := rp.subscribers()
	return peers[:min(len(peers), maxShown)]
}
