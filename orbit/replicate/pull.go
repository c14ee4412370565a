package replicate

import (
	"context"
	"slices"
	"time"

	"github.com/ipfs/boxo/exchange"
	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/oplog"
)

// Bounds of what is fetched at once.
const (
	maxAsked      = 512 // hashes
	maxBatch      = 128 // entries that are joined at once
	maxBatchBytes = 2 << 20
	maxPending    = 1 << 17 // hashes that are remembered as wanted; the log knows all of them
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

// want has entries fetched that are neither here nor on their way.
func (rp *replica) want(ctx context.Context, hashes ...string) {
	l := rp.database().Log()
	for _, hash := range hashes {
		rp.mu.Lock()
		known := rp.wants[hash] || len(rp.wants) >= maxPending
		rp.mu.Unlock()
		if known {
			continue
		}
		if ok, err := l.Has(ctx, hash); ok || err != nil {
			continue
		}
		if ok, err := l.Waits(ctx, hash); ok || err != nil {
			continue
		}
		rp.mu.Lock()
		if !rp.wants[hash] {
			rp.wants[hash] = true
			rp.queue = append(rp.queue, hash)
		}
		rp.mu.Unlock()
	}
	signal(rp.pulling)
}

// pull fetches what is wanted, and tries again, less and less often, what
// nobody sent.
func (rp *replica) pull() {
	pause := retryMin
	for {
		complete, progress, err := rp.round()
		if rp.ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Errorw("fetch entries", "address", rp.address, "err", err)
		}
		if progress {
			pause = retryMin
		}
		var again <-chan time.Time
		if !complete || err != nil {
			again = time.After(jitter(pause))
			pause = min(2*pause, retryMax)
		}
		select {
		case <-again:
		case <-rp.pulling:
		case <-rp.ctx.Done():
			return
		}
	}
}

// round fetches until nothing is missing, which is complete, or nothing comes
// any more. Progress is that something came.
func (rp *replica) round() (complete, progress bool, err error) {
	p := &puller{rp: rp, log: rp.database().Log(), asked: make(map[string]bool), useless: make(map[string]bool)}
	if !p.seed() || p.err != nil {
		return p.err == nil, false, p.err
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
	stalled := time.NewTimer(stallAfter)
	defer stalled.Stop()
	for {
		p.ask()
		if len(p.asked) == 0 {
			if p.reoffer() {
				continue
			}
			if !p.seed() || p.err != nil {
				return p.err == nil && len(p.useless) == 0, progress, p.err
			}
			continue
		}
		select {
		case b := <-p.arrived:
			progress = true
			p.take(p.batch(b))
			stalled.Reset(stallAfter)
		case <-rp.pulling:
		case <-stalled.C:
			return false, progress, nil
		case <-ctx.Done():
			return false, progress, nil
		}
		if p.err != nil {
			return false, progress, p.err
		}
	}
}

// puller is a round of fetching.
type puller struct {
	rp      *replica
	log     *oplog.Log
	ctx     context.Context
	session exchange.Fetcher
	arrived chan ipfsblocks.Block
	asked   map[string]bool
	useless map[string]bool // came, and cannot be taken, or not yet
	later   []block.Block   // had no effect, and nothing waited for them yet
	held    int             // bytes of later
	err     error
}

// seed wants what the log misses, and reports whether there is anything that can
// be asked for.
func (p *puller) seed() bool {
	missing, err := p.log.Missing(p.rp.ctx)
	if err != nil {
		p.err = err
		return false
	}
	isMissing := make(map[string]bool, len(missing))
	p.rp.mu.Lock()
	defer p.rp.mu.Unlock()
	for _, hash := range missing {
		isMissing[hash] = true
		if !p.rp.wants[hash] && !p.useless[hash] {
			p.rp.wants[hash] = true
			p.rp.queue = append(p.rp.queue, hash)
		}
	}
	// What was missing and came in another way.
	for hash := range p.rp.missing {
		if !isMissing[hash] {
			delete(p.rp.missing, hash)
		}
	}
	return len(p.rp.queue) > 0
}

// ask asks for as much of the queue as may be asked for at once.
func (p *puller) ask() {
	rp := p.rp
	rp.mu.Lock()
	n := min(len(rp.queue), maxAsked-len(p.asked))
	hashes := slices.Clone(rp.queue[:n])
	rp.queue = rp.queue[n:]
	rp.mu.Unlock()
	var cids []cid.Cid
	for _, hash := range hashes {
		c, err := block.ParseHash(hash)
		if err != nil || p.asked[hash] || p.useless[hash] {
			rp.forget(hash)
			continue
		}
		p.asked[hash] = true
		rp.r.wanted.Store(hash, rp)
		cids = append(cids, c)
	}
	if len(cids) == 0 {
		return
	}
	found, err := p.session.GetBlocks(p.ctx, cids)
	if err != nil {
		p.err = err
		return
	}
	rp.tasks.Go(func() {
		for b := range found {
			select {
			case p.arrived <- b:
			case <-p.ctx.Done():
				return
			}
		}
	})
}

// batch returns a block that came with those that came meanwhile.
func (p *puller) batch(first ipfsblocks.Block) []block.Block {
	var bs []block.Block
	size := 0
	for next := first; ; {
		if hash, ok := block.HashOf(next.Cid()); ok && p.asked[hash] {
			delete(p.asked, hash)
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
	joined, err := p.rp.join(p.ctx, p.rp.someSubscribers(), bs...)
	if err != nil {
		p.err = err
		return
	}
	for i, j := range joined {
		p.rp.forget(bs[i].Hash)
		switch {
		case j.Outcome != oplog.Refused:
			p.rp.found(bs[i].Hash)
		case isFault(j.Err) && p.held+len(bs[i].Data) <= maxLaterBytes:
			p.later = append(p.later, bs[i])
			p.held += len(bs[i].Data)
		default:
			p.useless[bs[i].Hash] = true
			p.rp.useless(bs[i].Hash, j.Err)
		}
	}
}

// reoffer offers again what had no effect: something may wait for it now. It
// reports whether anything was taken.
func (p *puller) reoffer() bool {
	if len(p.later) == 0 {
		return false
	}
	bs := p.later
	p.later, p.held = nil, 0
	joined, err := p.rp.join(p.ctx, p.rp.someSubscribers(), bs...)
	if err != nil {
		p.err = err
		return false
	}
	taken := false
	for i, j := range joined {
		if j.Outcome == oplog.Refused {
			p.later = append(p.later, bs[i])
			p.held += len(bs[i].Data)
		} else {
			taken = true
			p.rp.found(bs[i].Hash)
		}
	}
	if !taken { // what waits for them is not ready to say so
		for _, b := range p.later {
			p.useless[b.Hash] = true
		}
		p.later, p.held = nil, 0
	}
	return taken
}

// end notes what was asked for and did not come, and forgets that it is wanted:
// the log knows.
func (p *puller) end() {
	for hash := range p.asked {
		p.rp.r.wanted.Delete(hash)
		p.rp.unanswered(hash)
	}
	p.rp.mu.Lock()
	defer p.rp.mu.Unlock()
	p.rp.queue = nil
	clear(p.rp.wants)
	p.rp.notify()
}

// forget makes a hash one that is not on its way any more.
func (rp *replica) forget(hash string) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	delete(rp.wants, hash)
}

// miss notes that a block is asked for.
func (rp *replica) miss(hash string) *Missing {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	m := rp.missing[hash]
	if m == nil {
		m = &Missing{Hash: hash, Since: time.Now()}
		rp.missing[hash] = m
		rp.notify()
	}
	return m
}

// asking notes whom a block is asked of.
func (rp *replica) asking(hash string) *Missing {
	peers := rp.someSubscribers()
	m := rp.miss(hash)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	m.Asked = peers
	rp.notify()
	return m
}

// unanswered notes that nobody sent a block.
func (rp *replica) unanswered(hash string) {
	m := rp.asking(hash)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	m.Tries++
}

// useless notes that what came is no entry of the log.
func (rp *replica) useless(hash string, why error) {
	m := rp.miss(hash)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	m.Err = why
	rp.notify()
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
