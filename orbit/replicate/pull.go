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

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Bounds of what is fetched at once.
const (
	maxRequested  = 64  // CIDs: a bitswap session that knows no peers yet requests no more
	maxBatch      = 128 // entries that are joined at once
	maxBatchBytes = 2 << 20
	maxOfOne      = 32      // parents of one entry
	maxLaterBytes = 4 << 20 // refused entries that may be needed later
)

// want puts missing entries on the want list, maxOfOne at most. The log knows
// the others.
func (rp *replica) want(ctx context.Context, hashes ...string) {
	unwanted := rp.wants.unwanted(hashes[:min(len(hashes), maxOfOne)])
	if len(unwanted) == 0 {
		return
	}
	missing, err := oplog.Of(rp.database()).MissingOf(ctx, unwanted)
	if err != nil {
		return // pull gets the same error
	}
	rp.wants.add(missing...)
}

// pull fetches the want list in rounds, and repeats requests that no peer
// answered at growing intervals.
func (rp *replica) pull() {
	failures := 0 // rounds in a row that fetched nothing
	last, err := oplog.Of(rp.database()).Stats(rp.ctx)
	if err != nil {
		rp.storeError(err)
	}
	for rp.awaitDisk() && rp.awaitQuota() {
		begun := time.Now()
		complete, progress, err := rp.round()
		if rp.ctx.Err() != nil {
			return
		}
		rp.resume(&last)
		if err != nil {
			rp.storeError(err)
		}
		if progress {
			failures = 0
		}
		var again <-chan time.Time
		if !complete || err != nil {
			again = time.After(rp.r.random.around(doubled(retryMin, failures, retryMax)))
			failures++
		}
		select {
		case <-again:
		case <-rp.wants.wake:
			wait.For(rp.ctx, roundGap-time.Since(begun))
		case <-rp.ctx.Done():
			return
		}
	}
}

// resume asks peers for their heads again if pending entries were abandoned,
// and the log grew since it last did so.
func (rp *replica) resume(last *oplog.Stats) {
	now, err := oplog.Of(rp.database()).Stats(rp.ctx)
	if err != nil || now.Abandoned == last.Abandoned {
		return
	}
	rp.setAbandoned()
	if now.Last != last.Last {
		*last = now
		rp.ask()
	}
}

func (rp *replica) setAbandoned() {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.abandoned = true
	rp.changes.Announce()
}

// round fetches until nothing is missing, which is complete, or until the rest
// does not arrive. progress reports whether something useful arrived.
func (rp *replica) round() (complete, progress bool, err error) {
	p := &puller{rp: rp, log: oplog.Of(rp.database()), requested: make(map[string]time.Time), failed: make(map[string]bool)}
	if !p.seed() || p.err != nil {
		return p.err == nil && p.skipped == 0, false, p.err
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
	tick := time.NewTicker(requestBriefly / 4)
	defer tick.Stop()
	for rp.isFull() == nil {
		if !rp.accepts() {
			return false, p.progress, nil
		}
		if rp.slot.await(rp.ctx) {
			p.active = time.Now()
		}
		select {
		case <-rp.wants.wake: // request covers what is wanted by now
		default:
		}
		p.request()
		if len(p.requested) == 0 {
			if p.offerAgain() {
				p.progress = true
				continue
			}
			if !p.seed() || p.err != nil {
				return p.err == nil && p.skipped == 0, p.progress, p.err
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

// puller is a round of fetching. One goroutine uses it.
type puller struct {
	rp        *replica
	log       *oplog.Log
	ctx       context.Context
	session   exchange.Fetcher
	arrived   chan ipfsblocks.Block
	requested map[string]time.Time // CIDs that are requested, and since when
	calls     []call               // oldest first
	failed    map[string]bool      // CIDs that no peer sent, or whose block was not accepted, in this round
	skipped   int                  // missing CIDs that the round does not request
	later     []orbit.Candidate    // refused entries that may be needed later
	laterSize int                  // bytes of their blocks
	active    time.Time            // when something arrived last, or all requests were repeated
	queued    bool                 // CIDs are on the want list that are not requested yet
	progress  bool
	err       error
}

// idle reports whether more can be requested than the want list has. Entries
// that arrived may have made others missing.
func (p *puller) idle() bool {
	return p.rp.wants.queued() == 0 && len(p.requested) < maxRequested/2
}

// next handles the next event, arrived blocks first. It reports whether the
// round goes on.
func (p *puller) next(tick <-chan time.Time) bool {
	var b ipfsblocks.Block
	select {
	case b = <-p.arrived:
	default:
		select {
		case b = <-p.arrived:
		case <-p.rp.wants.wake:
			return true
		case <-tick:
			p.expire()
			p.repeat()
			return true
		case <-p.ctx.Done():
			return false
		}
	}
	p.take(p.batch(b))
	p.active = time.Now()
	return true
}

// seed puts missing entries of the log on the want list, and reports whether
// there is something to request.
func (p *puller) seed() bool {
	missing, err := p.log.Missing(p.rp.ctx)
	if err != nil {
		p.err = err
		return false
	}
	if p.err = p.rp.forgetFound(p.log); p.err != nil {
		return false
	}
	p.skipped = p.rp.wants.seed(missing, func(hash string) bool { return p.failed[hash] })
	return p.rp.wants.queued() > 0
}

// forgetFound forgets failed requests for entries that arrived by another
// route.
func (rp *replica) forgetFound(l *oplog.Log) error {
	failed := rp.wants.failed()
	missing, err := l.MissingOf(rp.ctx, failed)
	if err != nil {
		return err
	}
	still := make(map[string]bool, len(missing))
	for _, hash := range missing {
		still[hash] = true
	}
	rp.wants.found(slices.DeleteFunc(failed, func(hash string) bool { return still[hash] })...)
	return nil
}

// request requests as much of the want list as the bound allows.
func (p *puller) request() {
	var hashes []string
	hashes, p.queued = p.rp.wants.next(maxRequested - len(p.requested))
	var cids []cid.Cid
	now := time.Now()
	for _, hash := range p.stillMissing(hashes) {
		c, err := block.ParseHash(hash)
		if _, requested := p.requested[hash]; err != nil || requested || p.failed[hash] {
			p.rp.wants.remove(hash)
			continue
		}
		p.requested[hash] = now
		p.rp.r.requested.Store(hash, p.rp)
		cids = append(cids, c)
	}
	if len(cids) == 0 {
		return
	}
	if len(p.requested) == len(cids) { // nothing arrived because nothing was requested
		p.active = now
	}
	p.call(cids)
}

// stillMissing returns the CIDs that the log still misses. The others were
// transferred meanwhile, or the entries that need them were abandoned; they
// leave the want list.
func (p *puller) stillMissing(hashes []string) []string {
	missing, err := p.log.MissingOf(p.ctx, hashes)
	if err != nil {
		p.err = err
	}
	for _, hash := range hashes {
		if !slices.Contains(missing, hash) {
			p.rp.wants.remove(hash)
			p.rp.wants.found(hash)
		}
	}
	return missing
}

// call is a request for blocks.
type call struct {
	at     time.Time
	cancel context.CancelFunc
}

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

// repeat repeats all requests if nothing arrived for repeatAfter: on a busy
// machine, bitswap was seen to lose blocks that it had received, and wants that
// it had sent.
func (p *puller) repeat() {
	if len(p.requested) == 0 || time.Since(p.active) < repeatAfter {
		return
	}
	p.active = time.Now()
	for _, c := range p.calls {
		c.cancel()
	}
	p.calls = nil
	p.session = p.rp.r.cfg.Exchange.NewSession(p.ctx)
	var cids []cid.Cid
	for hash := range p.requested {
		if c, err := block.ParseHash(hash); err == nil {
			cids = append(cids, c)
		}
	}
	p.call(cids)
}

// expire ends requests that were not answered for requestFor, or requestBriefly
// if others are queued.
func (p *puller) expire() {
	timeout := requestFor
	if p.queued {
		timeout = requestBriefly
	}
	requested := slices.Sorted(maps.Keys(p.requested))
	missing := p.stillMissing(requested)
	for _, hash := range requested {
		if !slices.Contains(missing, hash) {
			p.answered(hash)
		}
	}
	expired := false
	for hash, at := range p.requested {
		if time.Since(at) > timeout {
			p.answered(hash)
			p.unanswered(hash)
			expired = true
		}
	}
	for len(p.calls) > 0 && time.Since(p.calls[0].at) > timeout {
		p.calls[0].cancel()
		p.calls = p.calls[1:]
	}
	if expired { // a session requests few CIDs at once, and keeps to its peers
		p.session = p.rp.r.cfg.Exchange.NewSession(p.ctx)
	}
}

// answered ends the request for a CID.
func (p *puller) answered(hash string) {
	delete(p.requested, hash)
	p.rp.r.requested.Delete(hash)
}

// unanswered notes that no peer sent a useful block. It is not requested again
// in this round.
func (p *puller) unanswered(hash string) {
	p.failed[hash] = true
	p.rp.wants.remove(hash)
	p.rp.r.requested.Delete(hash)
	p.rp.wants.unanswered(hash, p.rp.someOpenAt())
}

// batch returns a block that arrived, with others that arrived meanwhile.
func (p *puller) batch(first ipfsblocks.Block) []block.Block {
	var bs []block.Block
	size := 0
	for next := first; ; {
		hash, ok := block.HashOf(next.Cid())
		if _, requested := p.requested[hash]; ok && (requested || p.failed[hash]) {
			p.answered(hash)
			delete(p.failed, hash)
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

// take joins the entries that arrived and are still missing.
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
	cs := orbit.NewCandidates(bs...)
	joined, err := p.rp.joinOf(p.ctx, "", p.rp.someOpenAt(), cs)
	if err != nil {
		p.err = err
		return
	}
	for i, j := range joined {
		p.rp.wants.remove(j.Hash)
		switch size := len(bs[i].Data); {
		case j.Outcome != orbit.Refused:
			p.progress = true
			p.rp.wants.found(j.Hash)
		case errors.Is(j.Err, entry.ErrInvalid) && p.laterSize+size <= maxLaterBytes:
			p.later = append(p.later, cs[i])
			p.laterSize += size
		case mayBeAcceptedLater(j.Err):
			p.unanswered(j.Hash)
		default:
			p.failed[j.Hash] = true
			p.rp.wants.useless(j.Hash, j.Err)
		}
	}
}

// mayBeAcceptedLater reports whether a fetched entry that was refused with an
// error may be accepted when it is fetched again.
func mayBeAcceptedLater(err error) bool {
	return err == nil || errors.Is(err, entry.ErrInvalid) || errors.Is(err, orbit.ErrNotAllowed) ||
		errors.Is(err, orbit.ErrUnavailable) || errors.Is(err, orbit.ErrQuotaFull) || errors.Is(err, orbit.ErrPeerQuotaFull)
}

// offerAgain offers invalid entries to the log again, for pending entries may
// need them now. It reports whether any was accepted.
func (p *puller) offerAgain() (accepted bool) {
	cs := p.later
	p.later, p.laterSize = nil, 0
	if len(cs) == 0 {
		return false
	}
	joined, err := p.rp.joinOf(p.ctx, "", p.rp.someOpenAt(), cs)
	if err != nil {
		p.err = err
		return false
	}
	for i, j := range joined {
		if j.Outcome == orbit.Refused {
			p.later = append(p.later, cs[i])
			p.laterSize += len(cs[i].Block().Data)
		} else {
			accepted = true
			p.rp.wants.found(j.Hash)
		}
	}
	if !accepted { // the pending entries that need them are not ready to say so
		for _, c := range p.later {
			p.unanswered(c.Hash())
		}
		p.later, p.laterSize = nil, 0
	}
	return accepted
}

// end clears the want list: the log knows what it misses.
func (p *puller) end() {
	for hash := range p.requested {
		p.rp.r.requested.Delete(hash)
	}
	p.rp.wants.clear()
}
