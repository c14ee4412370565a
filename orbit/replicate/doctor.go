package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/heads"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/space"
)

// Level is the importance of a finding.
type Level string

const (
	OK      Level = "ok"      // nothing is wrong
	Note    Level = "note"    // worth knowing
	Problem Level = "problem" // it prevents replication
)

// Finding is a result of an examination.
type Finding struct {
	Check  string // the kind of the check, one of the constants
	Level  Level
	Text   string  // a clause about the database, or about the peer if there is one
	Advice string  // what the owner can do, or ""
	Peer   peer.ID // the peer that the text is about, or ""
}

// The checks of an examination.
const (
	CheckPubsub   = "pubsub"   // whether there is a router
	CheckDisk     = "disk"     // whether the disk has free space
	CheckState    = "state"    // whether the database is open
	CheckQuota    = "quota"    // whether entries of peers are accepted
	CheckPeers    = "peers"    // which peers are connected and have it open
	CheckRelay    = "relay"    // peers that are only reachable over a relay
	CheckIdentify = "identify" // peers that did not identify themselves
	CheckHeads    = "heads"    // exchanges of heads, and which peers are in sync
	CheckBitswap  = "bitswap"  // whether a peer speaks bitswap
	CheckMissing  = "missing"  // blocks that no peer sent, or that are useless
	CheckRefused  = "refused"  // entries that were not accepted
	CheckEffect   = "effect"   // invalid and unauthorized entries
	CheckWritable = "writable" // whether this daemon may write
	CheckValues   = "values"   // whether apps encrypt the values
	CheckType     = "type"     // whether the entries are those of another type
	CheckClock    = "clock"    // clocks of heads
	CheckSummary  = "summary"  // whether there is a problem
)

// Bounds of an examination.
const (
	shownOfAKind = 8       // findings of a kind about peers or blocks
	shownPeers   = 3       // peers in a text
	farClock     = 1 << 52 // no honest clock reaches it; at 2^53, clocks stop
)

// identifyAfter is the time in which a connected peer identifies itself. Tests
// set it.
var identifyAfter = 10 * time.Second

// Advice that several findings share.
const (
	openThere       = "open the database there"
	encryptedAdvice = "only apps that have the key can replicate it; if they use encryption.data in place of encryption.replication, which encrypts the values alone, this daemon can as well"
)

// somePeer stands for a peer in an advised operation.
const somePeer = "<peer>"

// connect is the advice to connect to a peer that has the database.
func (x *examination) connect() string {
	return "connect to a peer that has it: " + x.r.phrase(Connect, somePeer)
}

// Examine checks what prevents the replication of a database, and advises what
// to do. For a database that is neither here nor opened, the error is
// [orbit.ErrUnknown].
func (r *Replicator) Examine(ctx context.Context, address string) ([]Finding, error) {
	return r.examine(ctx, address, false)
}

func (r *Replicator) examine(ctx context.Context, address string, deep bool) ([]Finding, error) {
	x := &examination{ctx: ctx, r: r, address: address}
	ok, release, err := x.open()
	if err != nil {
		return nil, err
	}
	defer release()
	if ok {
		x.status, _ = x.rp.fullStatus(ctx)
		x.db = x.rp.database()
		x.pubsub()
		x.disk()
		x.state()
		x.quota()
		x.peers()
		x.subscribers()
		if x.db != nil {
			x.access()
			x.entries()
			if deep {
				x.compareEntries()
			}
		}
	}
	x.summary()
	return x.findings, nil
}

// summary adds whether there is no problem.
func (x *examination) summary() {
	found := func(is func(Finding) bool) bool { return slices.ContainsFunc(x.findings, is) }
	switch {
	case x.status.Abandoned, found(func(f Finding) bool { return f.Level == Problem }):
	case found(func(f Finding) bool { return f.Check == CheckRefused }):
		x.add(CheckSummary, Note, "entries were refused, see above; nothing else is wrong", "")
	default:
		x.add(CheckSummary, OK, "nothing prevents its replication", "")
	}
}

// examination collects the findings about one database.
type examination struct {
	ctx      context.Context
	r        *Replicator
	address  string
	rp       *replica
	db       *orbit.Database // nil if the database is not here
	status   Status
	findings []Finding
}

func (x *examination) add(check string, level Level, text, advice string) {
	x.findings = append(x.findings, Finding{Check: check, Level: level, Text: text, Advice: advice})
}

func (x *examination) addPeer(p peer.ID, check string, level Level, text, advice string) {
	x.findings = append(x.findings, Finding{check, level, text, advice, p})
}

// open acquires the replica, and reports whether there is one. If not, the
// findings are complete.
func (x *examination) open() (ok bool, release func(), err error) {
	x.rp, release, err = x.r.acquireHere(x.ctx, x.address)
	switch {
	case err != nil:
		return false, nil, err
	case x.rp == nil:
		x.add(CheckState, Problem, "it is closed: its entries stay as they are", x.r.phrase(OpenDatabase, x.address))
		return false, func() {}, nil
	}
	return true, release, nil
}

// damaged adds why the database cannot be opened.
func (x *examination) damaged(err error) {
	advice := ""
	if errors.Is(err, oplog.ErrDamaged) {
		advice = x.r.phrase(RebuildDatabase, x.address)
	}
	x.add(CheckState, Problem, fmt.Sprintf("it cannot be opened: %v", err), advice)
}

func (x *examination) pubsub() {
	if x.r.cfg.Router == nil {
		x.add(CheckPubsub, Note, "pubsub is turned off by Pubsub.Enabled: it is replicated with daemons, but JavaScript peers and daemons of earlier versions do not learn that it is open here",
			x.r.phrase(TurnOnPubsub))
		return
	}
	x.add(CheckPubsub, OK, "pubsub is on", "")
}

func (x *examination) disk() {
	if err := x.status.Full; errors.Is(err, space.ErrFull) {
		x.add(CheckDisk, Problem, fmt.Sprintf("%v: nothing is accepted from other peers until then", err), x.r.phrase(FreeSpace))
	}
}

func (x *examination) state() {
	switch x.status.State {
	case Open:
		s, err := oplog.Of(x.db).Stats(x.ctx)
		if err != nil {
			x.damaged(err)
			return
		}
		if x.status.Encrypted {
			x.add(CheckState, Problem, "it is open, but the entries of its peers are encrypted as a whole (encryption.replication): none can be read, validated or fetched here", encryptedAdvice)
			return
		}
		x.add(CheckState, OK, fmt.Sprintf("it is open, with %s", count(s.Entries, "entry", "entries")), "")
	case Failed:
		x.failed(x.status.Err)
	default:
		if len(x.status.Missing) == 0 {
			x.add(CheckState, Note, "it is being fetched", "")
		}
		for _, m := range x.status.Missing {
			what := "its access controller, or a block that it needs,"
			if manifest.Address(m.Hash) == x.address {
				what = "its manifest"
			}
			x.add(CheckState, Problem, fmt.Sprintf("it cannot be opened yet: %s is missing: %s", what, x.describe(m)), x.connect())
		}
	}
}

// failed adds why the blocks that arrived for the address are not a database.
func (x *examination) failed(err error) {
	var access *orbit.AccessTypeError
	switch {
	case errors.Is(err, oplog.ErrDamaged):
		x.damaged(err)
	case errors.As(err, &access):
		x.add(CheckState, Problem, fmt.Sprintf("it cannot be opened: %v, so its writers are not known", access),
			"create a database with an access controller of type ipfs or orbitdb, and close this one: "+x.r.phrase(CloseDatabase, x.address))
	case errors.Is(err, orbit.ErrType):
		x.add(CheckState, Problem, fmt.Sprintf("it cannot be opened: %v", err), x.r.phrase(OpenAs, x.address))
	default:
		x.add(CheckState, Problem, fmt.Sprintf("its address is not that of a database that can be opened: %v", err),
			"ask for the address again, and close this one: "+x.r.phrase(CloseDatabase, x.address))
	}
}

func (x *examination) quota() {
	if err := x.status.Full; err != nil && !errors.Is(err, space.ErrFull) {
		x.add(CheckQuota, Problem, fmt.Sprintf("it rejects the entries of peers: %v", err), x.r.phrase(RaiseQuota))
	}
}

// describe says since when a block is missing, and which peers were asked for
// it.
func (x *examination) describe(m Missing) string {
	text := fmt.Sprintf("%s, requested since %s", m.Hash, clock(m.Since))
	if m.Tries > 0 {
		text += ", in vain " + count(m.Tries, "time", "times")
	}
	switch {
	case len(m.Asked) > 0:
		text += ", last from " + names(m.Asked)
	case m.Tries > 0:
		text += ", while no connected peer had it open"
	}
	return text
}

// peers checks which peers are connected, and how.
func (x *examination) peers() {
	net := x.r.cfg.Host.Network()
	var direct, relayed, silent []peer.ID
	for _, p := range net.Peers() {
		switch net.Connectedness(p) {
		case network.Connected:
			direct = append(direct, p)
			if x.isUnidentified(p) {
				silent = append(silent, p)
			}
		case network.Limited:
			relayed = append(relayed, p)
		}
	}
	subscribers := slices.DeleteFunc(x.rp.openAt(), x.isUnidentified)
	// If no peer has the database open, one of the others may be the one that
	// should.
	level := Note
	if len(subscribers) == 0 {
		level = Problem
	}
	switch {
	case len(direct)+len(relayed) == 0:
		x.add(CheckPeers, Problem, "no peer is connected", x.connect())
	case len(direct) == 0:
		x.add(CheckPeers, Problem, "no peer is connected directly", x.connect())
	case len(subscribers) == 0 && x.r.cfg.Router == nil:
		x.add(CheckPeers, Problem, fmt.Sprintf("%s connected directly, and no daemon among them has it open; other peers do not tell without pubsub", count(len(direct), "peer is", "peers are")),
			openThere+", or "+x.connect())
	case len(subscribers) == 0:
		x.add(CheckPeers, Problem, fmt.Sprintf("%s connected directly, and none has it open", count(len(direct), "peer is", "peers are")),
			openThere+", or "+x.connect())
	default:
		x.add(CheckPeers, OK, fmt.Sprintf("%s it open", count(len(subscribers), "connected peer has", "connected peers have")), "")
	}
	x.some(CheckRelay, level, relayed, func(p peer.ID) {
		x.addPeer(p, CheckRelay, level, "it is connected over a relay only, which carries neither pubsub nor heads",
			"connect directly: "+x.r.phrase(Connect, "<an address of its own>")+", or let it dial an address of this daemon ("+x.r.phrase(ShowAddresses)+"); a browser needs one with /webrtc-direct, /webtransport or /wss")
	})
	x.some(CheckIdentify, level, silent, func(p peer.ID) {
		x.addPeer(p, CheckIdentify, level, "it did not identify itself, so pubsub ignores it: it may be a JavaScript peer with more than a hundred open databases, whose list of protocols is too long",
			"open at most 100 databases on each JavaScript peer, or raise its peers' identify option maxIdentifyMessageSize")
	})
}

// isUnidentified reports whether a peer did not identify itself although it had
// the time.
func (x *examination) isUnidentified(p peer.ID) bool {
	if x.r.identification.hasFailed(p) {
		return true
	}
	known, err := x.r.cfg.Host.Peerstore().GetProtocols(p)
	if err != nil || len(known) > 0 {
		return false
	}
	return slices.ContainsFunc(x.r.cfg.Host.Network().ConnsToPeer(p), func(c network.Conn) bool {
		return !c.IsClosed() && time.Since(c.Stat().Opened) > identifyAfter
	})
}

// some adds findings about shownOfAKind peers, and the number of the others.
func (x *examination) some(check string, level Level, peers []peer.ID, add func(peer.ID)) {
	slices.Sort(peers)
	for _, p := range peers[:min(len(peers), shownOfAKind)] {
		add(p)
	}
	if more := len(peers) - shownOfAKind; more > 0 {
		x.add(check, level, fmt.Sprintf("the same with %s", count(more, "other peer", "other peers")), "")
	}
}

// subscribers checks the peers that have the database open.
func (x *examination) subscribers() {
	var inSync, behind []peer.ID
	var last Peer // the last one in sync of those that are gone
	for _, p := range x.status.Peers {
		switch {
		case !p.Open:
			if p.InSync.After(last.InSync) {
				last = p
			}
			continue
		case errors.Is(p.Err, heads.ErrUnsupported):
			x.addPeer(p.ID, CheckHeads, Problem, "it is subscribed to the topic and exchanges no heads: it closed the database, or is not an OrbitDB peer ('ipfs pubsub sub')", openThere)
		case p.Err != nil:
			x.addPeer(p.ID, CheckHeads, Problem, fmt.Sprintf("the last exchange of heads failed: %v", p.Err), "the exchange is repeated; if it keeps failing: "+x.r.phrase(Connect, p.ID.String()))
		case x.db != nil && !p.InSync.IsZero() && !p.InSync.Before(p.Exchanged):
			inSync = append(inSync, p.ID)
		default:
			behind = append(behind, p.ID)
		}
		x.bitswap(p.ID)
	}
	at := make(map[peer.ID]Peer, len(x.status.Peers))
	for _, p := range x.status.Peers {
		at[p.ID] = p
	}
	x.some(CheckHeads, OK, inSync, func(p peer.ID) {
		x.addPeer(p, CheckHeads, OK, fmt.Sprintf("in sync at %s, with %s", clock(at[p].InSync), count(at[p].Heads, "head", "heads")), "")
	})
	x.some(CheckHeads, Note, behind, func(p peer.ID) {
		text, advice := "heads were not exchanged yet", ""
		switch {
		case at[p].Exchanged.IsZero():
		case x.status.Encrypted && at[p].Heads == 0:
			text = "it has no entries that can be read, either"
		case x.status.Encrypted:
			text = fmt.Sprintf("its entries cannot be read (%s)", count(at[p].Heads, "head", "heads"))
		case at[p].By == NotComparable:
			text = fmt.Sprintf("not comparable at %s: it is a daemon of an earlier version, which does not tell which entries are authorized there", clock(at[p].Exchanged))
		case at[p].By == ByState:
			text = fmt.Sprintf("not in sync at %s: other entries are authorized there, or its access list differs (%s)", clock(at[p].Exchanged), count(at[p].Heads, "head", "heads"))
			advice = x.r.phrase(CompareDeeply, x.address) + " names the entries"
		default:
			text = fmt.Sprintf("not in sync at %s: it had other heads (%d)", clock(at[p].Exchanged), at[p].Heads)
		}
		x.addPeer(p, CheckHeads, Note, text, advice)
	})
	if len(inSync) == 0 && last.ID != "" {
		x.addPeer(last.ID, CheckHeads, Note, fmt.Sprintf("in sync at %s; it does not have it open any more", clock(last.InSync)), "")
	}
}

func (x *examination) bitswap(p peer.ID) {
	known, err := x.r.cfg.Host.Peerstore().GetProtocols(p)
	if err != nil || len(known) == 0 {
		return
	}
	for _, id := range known {
		if strings.HasPrefix(string(id), "/ipfs/bitswap") {
			return
		}
	}
	x.addPeer(p, CheckBitswap, Problem, "it does not speak bitswap, so no entries can be fetched from it", "start bitswap there, as Helia does by itself")
}

// access checks the access database, if any.
func (x *examination) access() {
	inner := x.db.Access().Database()
	if inner == nil {
		return
	}
	rp, release := x.r.acquire(inner.Address())
	if rp == nil {
		x.add(CheckState, Problem, fmt.Sprintf("its access database is not replicated: %s", inner.Address()), x.r.phrase(OpenDatabase, x.address))
		return
	}
	defer release()
	s, _ := rp.status()
	x.missing("of its access database ", s)
	x.refused("of its access database ", inner, s)
}

// entries checks the log.
func (x *examination) entries() {
	x.missing("", x.status)
	x.refused("", x.db, x.status)
	s, err := oplog.Of(x.db).Stats(x.ctx)
	if err != nil {
		return // state added it
	}
	if s.Pending > 0 {
		x.add(CheckMissing, Note, fmt.Sprintf("%s pending until others arrive; %s requested", count(s.Pending, "entry is", "entries are"), count(x.status.Asking, "block is", "blocks are")), "")
	}
	if x.status.Abandoned {
		x.add(CheckMissing, Note, "more entries arrived before their ancestors than may be pending at once: those that were abandoned are requested again", "")
	}
	if s.Unauthorized > 0 {
		x.add(CheckEffect, Note, fmt.Sprintf("%s no effect: invalid ones, or those of writers that are not on the access list", count(s.Unauthorized, "entry has", "entries have")), "")
	}
	if s.Clock >= farClock {
		x.add(CheckClock, Note, fmt.Sprintf("the clock of a head is %g, with %s: a writer set it; from 2^53 on, clocks do not tell which entry is newer", s.Clock, count(s.Entries, "entry", "entries")), "")
	}
	x.writable()
	x.values()
	x.kind()
}

func (x *examination) missing(of string, s Status) {
	for i, m := range s.Missing {
		if i == shownOfAKind {
			x.add(CheckMissing, Problem, fmt.Sprintf("%s missing %sas well", count(len(s.Missing)-i, "block is", "blocks are"), of), "")
			return
		}
		if m.Err != nil {
			x.add(CheckMissing, Problem, fmt.Sprintf("the block that arrived as entry %s%s is useless: %v", of, m.Hash, m.Err), "ask the writer of its descendants")
			continue
		}
		x.add(CheckMissing, Problem, fmt.Sprintf("entry %sis missing: %s", of, x.describe(m)), "connect to the peer that wrote it, or to one that has it: "+x.r.phrase(Connect, somePeer))
	}
}

// refused adds a finding for each reason for which entries were refused.
func (x *examination) refused(of string, db *orbit.Database, s Status) {
	notAllowed := "its access list is fixed: ask its creator for a database whose list has this writer"
	if db.Access().Database() != nil {
		notAllowed = "ask an admin to allow it: " + x.r.phrase(Grant, db.Address(), "<identity>")
	}
	reasons := []struct {
		is     func(error) bool
		what   string
		level  Level
		advice string
	}{
		{isError(orbit.ErrNotAllowed), "refused because the writer may not write", Problem, notAllowed},
		{isError(orbit.ErrPeerQuotaFull), "refused because its writer, or the peer that sent it, has used up its quota", Problem, x.r.phrase(RaiseQuota)},
		{isError(orbit.ErrUnavailable), "refused because the writer's identity is missing", Problem, "connect to the peer that wrote it: " + x.r.phrase(Connect, somePeer)},
		{isError(oplog.ErrOtherLog), "refused because it is of another database", Note, ""},
		{isError(entry.ErrEncrypted), "refused because it is encrypted as a whole", Problem, encryptedAdvice},
		{isError(entry.ErrMalformed), "refused because it is not an entry", Note, ""},
		{isError(entry.ErrInvalid), "refused because it is forged or invalid", Note, ""},
		{func(error) bool { return true }, "refused", Note, ""},
	}
	rest := s.Refused
	for _, reason := range reasons {
		var those, others []Refusal
		for _, r := range rest {
			if reason.is(r.Err) {
				those = append(those, r)
			} else {
				others = append(others, r)
			}
		}
		if rest = others; len(those) == 0 {
			continue
		}
		last := those[len(those)-1]
		from := ""
		if len(last.From) > 0 {
			from = " from " + names(last.From)
		}
		x.add(CheckRefused, reason.level, fmt.Sprintf("%s %swas %s, last at %s%s: %v", count(len(those), "entry", "entries, each"), of, reason.what, clock(last.At), from, last.Err), reason.advice)
	}
}

func isError(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func (x *examination) writable() {
	ok, err := x.db.Writable(x.ctx)
	id := x.r.cfg.Orbit.Identity().ID
	switch {
	case err != nil:
		x.damaged(err)
	case ok:
		x.add(CheckWritable, OK, "this daemon may write", "")
	case x.db.Access().Database() != nil:
		x.add(CheckWritable, Note, "this daemon may not write", "if it should, on a daemon of an admin: "+x.r.phrase(Grant, x.address, id))
	default:
		x.add(CheckWritable, Note, "this daemon may not write, and the access list is fixed", "")
	}
}

// values adds whether apps encrypt the values.
func (x *examination) values() {
	encrypted, err := x.db.Encrypted(x.ctx)
	switch {
	case err != nil:
		x.damaged(err)
	case encrypted:
		x.add(CheckValues, Note, "the apps that write to it encrypt the values (encryption.data): they are replicated, and cannot be read here",
			"the apps cannot read what this daemon puts, so that needs "+x.r.phrase(WritePlain))
	}
}

// kind adds a finding if the type of the manifest is events, and the newest
// entry is not an event.
func (x *examination) kind() {
	if x.db.Type() != orbit.TypeEvents {
		return
	}
	for e, err := range x.db.Iterate(x.ctx, orbit.Range{Limit: 1}) {
		if err != nil {
			return // readers get the same error
		}
		if op, ok := keyed.Parse(e.Payload); ok {
			as := []string{x.address, orbit.TypeKeyValue}
			if op.Value.Kind() == value.KindMap {
				as = []string{x.address, orbit.TypeDocuments, orbit.TypeKeyValue}
			}
			x.add(CheckType, Note, "it is events by its manifest, and the newest entry puts or deletes a key: apps may use it as another type", x.r.phrase(OpenAs, as...))
		}
	}
}

// count returns a number with its noun.
func count[N int | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// names returns the IDs of shownPeers peers, and the number of the others.
func names(peers []peer.ID) string {
	var texts []string
	for _, p := range peers[:min(len(peers), shownPeers)] {
		texts = append(texts, p.String())
	}
	if more := len(peers) - shownPeers; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}

func clock(t time.Time) string { return t.Local().Format(time.DateTime) }
