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
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
)

// Level is how much a finding matters.
type Level string

const (
	OK      Level = "ok"      // it is as it should be
	Note    Level = "note"    // it is worth knowing
	Problem Level = "problem" // it keeps something from replicating
)

// Finding is what an examination found in one respect.
type Finding struct {
	Check  string // what was looked at, in a word; see the constants
	Level  Level
	Text   string
	Advice string  // what to do, or ""
	Peer   peer.ID // that it is about, or ""
}

// What is looked at.
const (
	CheckPubsub   = "pubsub"   // whether there is a router
	CheckDisk     = "disk"     // whether the disk has room
	CheckState    = "state"    // whether the database is open
	CheckQuota    = "quota"    // whether others may still store something
	CheckPeers    = "peers"    // who is connected, and has it open
	CheckRelay    = "relay"    // a peer that is reached over a relay only
	CheckIdentify = "identify" // a peer that does not say what it speaks
	CheckHeads    = "heads"    // the exchange of heads with a peer
	CheckBitswap  = "bitswap"  // whether blocks come from a peer
	CheckMissing  = "missing"  // blocks that nobody sent, or that are of no use
	CheckRefused  = "refused"  // entries that were not taken
	CheckEffect   = "effect"   // entries that do not count
	CheckWritable = "writable" // whether the own identity may write
	CheckValues   = "values"   // whether apps encrypt the values
	CheckType     = "type"     // whether the entries are those of another type
	CheckClock    = "clock"    // times of heads
	CheckSummary  = "summary"  // that there is no problem
)

// Bounds of an examination.
const (
	shownOfAKind = 8       // findings about peers or blocks
	shownPeers   = 3       // in a text
	farClock     = 1 << 52 // no honest clock gets so far; from 2^53 on, they stand still
)

// identifyAfter is when a connected peer has said what it speaks.
var identifyAfter = 10 * time.Second // which tests do not wait for

// Advice that is given more than once.
const (
	connectAdvice = "connect to a peer that has it: ipfs npp connect <peer>"
	openThere     = "open the database there"
	// Nobody without the key can hold what JavaScript encrypts as a whole.
	encryptedAdvice = "only apps that have the key can hold it; with encryption.data in the place of encryption.replication, which leaves the entries readable, so can this daemon"
)

// Examine looks for what keeps a database from being replicated, and says what
// to do. A database that is neither here nor opened is [orbit.ErrUnknown].
func (r *Replicator) Examine(ctx context.Context, address string) ([]Finding, error) {
	return r.examine(ctx, address, false)
}

func (r *Replicator) examine(ctx context.Context, address string, deep bool) ([]Finding, error) {
	x := &examination{ctx: ctx, r: r, address: address}
	ok, err := x.open()
	if err != nil {
		return nil, err
	}
	if ok {
		x.status, _ = x.rp.seen(ctx)
		x.db = x.rp.database()
		x.pubsub()
		x.disk()
		x.state()
		x.quota()
		x.peers()
		x.partners()
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

// summary says that all is well where it is.
func (x *examination) summary() {
	found := func(is func(Finding) bool) bool { return slices.ContainsFunc(x.findings, is) }
	switch {
	case x.status.GaveUp, found(func(f Finding) bool { return f.Level == Problem }):
	case found(func(f Finding) bool { return f.Check == CheckRefused }):
		x.add(CheckSummary, Note, "entries were refused, see above; the rest is as it should be", "")
	default:
		x.add(CheckSummary, OK, "nothing keeps it from being replicated", "")
	}
}

// examination is one of a database.
type examination struct {
	ctx      context.Context
	r        *Replicator
	address  string
	rp       *replica
	db       *orbit.Database // nil if it is not here
	status   Status
	findings []Finding
}

func (x *examination) add(check string, level Level, text, advice string) {
	x.findings = append(x.findings, Finding{Check: check, Level: level, Text: text, Advice: advice})
}

func (x *examination) addPeer(p peer.ID, check string, level Level, text, advice string) {
	x.findings = append(x.findings, Finding{check, level, text, advice, p})
}

// open finds the replica. Without one, what is found is all there is to say.
func (x *examination) open() (bool, error) {
	if x.rp = x.r.find(x.address); x.rp != nil {
		return true, nil
	}
	if _, err := x.r.cfg.Orbit.Resolve(x.ctx, x.address); err != nil {
		return false, err
	}
	if x.r.isPaused(x.address) {
		x.add(CheckState, Problem, "it is closed: what is here stays as it is", "ipfs npp db open "+x.address)
		return false, nil
	}
	if _, err := x.r.cfg.Orbit.Open(x.ctx, x.address, orbit.OpenOptions{}); err != nil {
		x.damaged(err)
		return false, nil
	}
	if x.rp = x.r.find(x.address); x.rp == nil {
		return false, ErrClosed
	}
	return true, nil
}

// damaged adds why the database does not open.
func (x *examination) damaged(err error) {
	advice := ""
	if errors.Is(err, oplog.ErrDamaged) {
		advice = "ipfs npp db rebuild " + x.address
	}
	x.add(CheckState, Problem, fmt.Sprintf("it does not open: %v", err), advice)
}

func (x *examination) pubsub() {
	if x.r.cfg.Router == nil {
		x.add(CheckPubsub, Problem, "pubsub is switched off by Pubsub.Enabled: nobody learns that it is open here, and new entries do not come",
			"ipfs config --json Pubsub.Enabled true, and restart the daemon")
		return
	}
	x.add(CheckPubsub, OK, "pubsub is on", "")
	x.live("it", x.status)
}

// live adds why a database is not live, if it is not.
func (x *examination) live(which string, s Status) {
	if s.NotLive == nil {
		return
	}
	advice := ""
	if errors.Is(s.NotLive, router.ErrTooManyTopics) {
		advice = FreeTopics
	}
	x.add(CheckPubsub, Problem, fmt.Sprintf("%s is not live, so new entries come late or not at all: %v", which, s.NotLive), advice)
}

func (x *examination) disk() {
	if err := x.status.Full; errors.Is(err, space.ErrFull) {
		x.add(CheckDisk, Problem, fmt.Sprintf("%v: nothing is accepted from other peers until then", err), space.Advice)
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
			x.add(CheckState, Problem, "it is open, but what its peers have is encrypted as a whole (encryption.replication): no entry can be read, checked or fetched here", encryptedAdvice)
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
			what := "its list of writers, or what that needs,"
			if manifest.Address(m.Hash) == x.address {
				what = "its manifest"
			}
			x.add(CheckState, Problem, fmt.Sprintf("it cannot be opened yet: %s is missing: %s", what, x.describe(m)), connectAdvice)
		}
	}
}

// failed says why what came with the address cannot be opened.
func (x *examination) failed(err error) {
	var access *orbit.AccessTypeError
	switch {
	case errors.As(err, &access):
		x.add(CheckState, Problem, fmt.Sprintf("it cannot be opened: %v, so who may write cannot be told", access),
			"make it with an access controller of type ipfs or orbitdb, and close this one: ipfs npp db close "+x.address)
	case errors.Is(err, orbit.ErrType):
		x.add(CheckState, Problem, fmt.Sprintf("it cannot be opened: %v", err), "ipfs npp db open "+x.address+" --type with the type that its manifest says")
	default:
		x.add(CheckState, Problem, fmt.Sprintf("what came with its address is no database that can be opened: %v", err),
			"ask for the address again, and close this one: ipfs npp db close "+x.address)
	}
}

// QuotaAdvice says how a full database can take more.
const QuotaAdvice = "raise the quota in Plugins.Plugins.npp.Config.Databases and restart the daemon, or drop what is not needed: ipfs npp db drop <database>"

func (x *examination) quota() {
	if err := x.status.Full; err != nil && !errors.Is(err, space.ErrFull) {
		x.add(CheckQuota, Problem, fmt.Sprintf("it takes nothing of others: %v", err), QuotaAdvice)
	}
}

// describe says since when a block is missing and who was asked.
func (x *examination) describe(m Missing) string {
	text := fmt.Sprintf("%s, asked for since %s", m.Hash, clock(m.Since))
	if m.Tries > 0 {
		text += ", in vain " + count(m.Tries, "time", "times")
	}
	switch {
	case len(m.Asked) > 0:
		text += ", last from " + names(m.Asked)
	case m.Tries > 0:
		text += ", with nobody there who has it open"
	}
	return text
}

// peers looks at who is connected, and how.
func (x *examination) peers() {
	net := x.r.cfg.Host.Network()
	var direct, relayed, mute []peer.ID
	for _, p := range net.Peers() {
		switch net.Connectedness(p) {
		case network.Connected:
			direct = append(direct, p)
			if x.isMute(p) {
				mute = append(mute, p)
			}
		case network.Limited:
			relayed = append(relayed, p)
		}
	}
	subscribers := x.rp.subscribers()
	// A peer may be the one that is looked for where no other is.
	level := Note
	if len(subscribers) == 0 {
		level = Problem
	}
	switch {
	case len(direct)+len(relayed) == 0:
		x.add(CheckPeers, Problem, "no peer is connected", connectAdvice)
	case len(direct) == 0:
		x.add(CheckPeers, Problem, "no peer is connected directly", connectAdvice)
	case x.r.cfg.Router == nil:
		x.add(CheckPeers, Note, fmt.Sprintf("%s connected directly; who has it open is not known without pubsub", count(len(direct), "peer is", "peers are")), "")
	case len(subscribers) == 0:
		x.add(CheckPeers, Problem, fmt.Sprintf("%s connected directly, and none has it open", count(len(direct), "peer is", "peers are")),
			openThere+", or "+connectAdvice)
	default:
		x.add(CheckPeers, OK, fmt.Sprintf("%s it open", count(len(subscribers), "connected peer has", "connected peers have")), "")
	}
	x.some(CheckRelay, level, relayed, func(p peer.ID) {
		x.addPeer(p, CheckRelay, level, "it is reached over a relay only, where neither pubsub nor heads run",
			"connect directly: ipfs npp connect <an address of its own>, or have it dial an address of this daemon (ipfs id); a browser needs one with /webrtc-direct, /webtransport or /wss")
	})
	x.some(CheckIdentify, level, mute, func(p peer.ID) {
		x.addPeer(p, CheckIdentify, level, "it does not say what it speaks, so it takes no part in pubsub: it may be a JavaScript peer with more than a hundred databases open, whose list of protocols is too long to be read",
			"open at most 100 databases on each JavaScript peer, or raise its peers' identify option maxIdentifyMessageSize")
	})
}

// isMute reports whether a peer has not said what it speaks, though it had the
// time to.
func (x *examination) isMute(p peer.ID) bool {
	if x.r.mute.has(p) {
		return true
	}
	spoken, err := x.r.cfg.Host.Peerstore().GetProtocols(p)
	if err != nil || len(spoken) > 0 {
		return false
	}
	return slices.ContainsFunc(x.r.cfg.Host.Network().ConnsToPeer(p), func(c network.Conn) bool {
		return !c.IsClosed() && time.Since(c.Stat().Opened) > identifyAfter
	})
}

// some adds findings about the first of many peers.
func (x *examination) some(check string, level Level, peers []peer.ID, add func(peer.ID)) {
	slices.Sort(peers)
	for _, p := range peers[:min(len(peers), shownOfAKind)] {
		add(p)
	}
	if more := len(peers) - shownOfAKind; more > 0 {
		x.add(check, level, fmt.Sprintf("the same with %s", count(more, "other peer", "other peers")), "")
	}
}

// partners looks at those who have the database open.
func (x *examination) partners() {
	var inStep, behind []peer.ID
	var last Peer // that was in step, of those that are gone
	for _, p := range x.status.Peers {
		switch {
		case !p.Open:
			if p.InStep.After(last.InStep) {
				last = p
			}
			continue
		case errors.Is(p.Err, heads.ErrUnsupported):
			x.addPeer(p.ID, CheckHeads, Problem, "it is subscribed to the topic and exchanges no heads: it has closed the database, or is no OrbitDB peer ('ipfs pubsub sub')", openThere)
		case p.Err != nil:
			x.addPeer(p.ID, CheckHeads, Problem, fmt.Sprintf("the last exchange of heads failed: %v", p.Err), "it is tried again by itself; if it stays: ipfs npp connect "+p.ID.String())
		case x.db != nil && !p.InStep.IsZero() && !p.InStep.Before(p.Exchanged):
			inStep = append(inStep, p.ID)
		default:
			behind = append(behind, p.ID)
		}
		x.bitswap(p.ID)
	}
	at := make(map[peer.ID]Peer, len(x.status.Peers))
	for _, p := range x.status.Peers {
		at[p.ID] = p
	}
	x.some(CheckHeads, OK, inStep, func(p peer.ID) {
		x.addPeer(p, CheckHeads, OK, fmt.Sprintf("in step at %s, with %s", clock(at[p].InStep), count(at[p].Heads, "head", "heads")), "")
	})
	x.some(CheckHeads, Note, behind, func(p peer.ID) {
		text, advice := "heads were not exchanged yet", ""
		switch {
		case at[p].Exchanged.IsZero():
		case x.status.Encrypted && at[p].Heads == 0:
			text = "it has no entries that can be read, either"
		case x.status.Encrypted:
			text = fmt.Sprintf("what it has cannot be read (%s)", count(at[p].Heads, "head", "heads"))
		case at[p].By == NotComparable:
			text = fmt.Sprintf("not comparable at %s: it is a daemon of an earlier version, which does not tell what counts there", clock(at[p].Exchanged))
		case at[p].By == ByState:
			text = fmt.Sprintf("not in step at %s: other entries count there, or its access list is another (%s)", clock(at[p].Exchanged), count(at[p].Heads, "head", "heads"))
			advice = "ipfs npp db doctor --deep " + x.address + " names the entries"
		default:
			text = fmt.Sprintf("not in step at %s: it had other heads (%d)", clock(at[p].Exchanged), at[p].Heads)
		}
		x.addPeer(p, CheckHeads, Note, text, advice)
	})
	if len(inStep) == 0 && last.ID != "" {
		x.addPeer(last.ID, CheckHeads, Note, fmt.Sprintf("in step at %s; it is not here any more", clock(last.InStep)), "")
	}
}

func (x *examination) bitswap(p peer.ID) {
	spoken, err := x.r.cfg.Host.Peerstore().GetProtocols(p)
	if err != nil || len(spoken) == 0 {
		return
	}
	for _, id := range spoken {
		if strings.HasPrefix(string(id), "/ipfs/bitswap") {
			return
		}
	}
	x.addPeer(p, CheckBitswap, Problem, "it does not speak bitswap, so no entries can be fetched from it", "start bitswap there, as Helia does by itself")
}

// access looks at a list of writers that is a database of its own.
func (x *examination) access() {
	inner := x.db.Access().Database()
	if inner == nil {
		return
	}
	rp := x.r.find(inner.Address())
	if rp == nil {
		x.add(CheckState, Problem, fmt.Sprintf("its list of writers is not replicated: %s", inner.Address()), "ipfs npp db open "+x.address)
		return
	}
	s, _ := rp.status()
	x.live("its list of writers", s)
	x.missing("of its list of writers ", s)
	x.refused("of its list of writers ", inner, s)
}

// entries looks at the log.
func (x *examination) entries() {
	x.missing("", x.status)
	x.refused("", x.db, x.status)
	s, err := oplog.Of(x.db).Stats(x.ctx)
	if err != nil {
		return // it was said
	}
	if s.Waiting > 0 {
		x.add(CheckMissing, Note, fmt.Sprintf("%s for what is missing, %s being asked for", count(s.Waiting, "entry waits", "entries wait"), count(x.status.Asking, "block is", "blocks are")), "")
	}
	if x.status.GaveUp {
		x.add(CheckMissing, Note, "more entries came before those that they need than may wait at once: what was given up is asked for again", "")
	}
	if s.Faults > 0 {
		x.add(CheckEffect, Note, fmt.Sprintf("%s no effect, such as those of who may not write", count(s.Faults, "entry has", "entries have")), "")
	}
	if s.Clock >= farClock {
		x.add(CheckClock, Note, fmt.Sprintf("the clock of a head says %g, with %s: a writer has set it; from 2^53 on, clocks do not tell what came later", s.Clock, count(s.Entries, "entry", "entries")), "")
	}
	x.writable()
	x.values()
	x.kind()
}

func (x *examination) missing(of string, s Status) {
	for i, m := range s.Missing {
		if i == shownOfAKind {
			x.add(CheckMissing, Problem, fmt.Sprintf("%s missing %sbesides", count(len(s.Missing)-i, "block is", "blocks are"), of), "")
			return
		}
		if m.Err != nil {
			x.add(CheckMissing, Problem, fmt.Sprintf("what came as entry %s%s is of no use: %v", of, m.Hash, m.Err), "ask who wrote what is on top of it")
			continue
		}
		x.add(CheckMissing, Problem, fmt.Sprintf("entry %sis missing: %s", of, x.describe(m)), "connect to the peer that wrote it, or to one that has it: ipfs npp connect <peer>")
	}
}

// refused says what was refused for each reason.
func (x *examination) refused(of string, db *orbit.Database, s Status) {
	notAllowed := "its list of writers is fixed: ask who made the database for one that this writer is in"
	if db.Access().Database() != nil {
		notAllowed = "have an admin allow it: ipfs npp db grant " + db.Address() + " <identity>"
	}
	reasons := []struct {
		is     func(error) bool
		what   string
		level  Level
		advice string
	}{
		{isError(orbit.ErrNotAllowed), "refused because the writer may not write", Problem, notAllowed},
		{isError(orbit.ErrShareFull), "refused because its writer, or who offered it, has used up the share of the quota", Problem, QuotaAdvice},
		{isError(orbit.ErrUnavailable), "refused because the writer's identity is missing", Problem, "connect to the peer that wrote it: ipfs npp connect <peer>"},
		{isError(oplog.ErrOtherLog), "refused because it is of another database", Note, ""},
		{isError(entry.ErrEncrypted), "refused because it is encrypted as a whole", Problem, encryptedAdvice},
		{isError(entry.ErrMalformed), "refused because it is no entry", Note, ""},
		{isError(entry.ErrFault), "refused because it is forged or faulty", Note, ""},
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
		x.add(CheckWritable, Note, "this daemon may not write", fmt.Sprintf("if it should, on a daemon of an admin: ipfs npp db grant %s %s", x.address, id))
	default:
		x.add(CheckWritable, Note, "this daemon may not write, and the list of writers is fixed", "")
	}
}

// values says that apps encrypt the values.
func (x *examination) values() {
	encrypted, err := x.db.Encrypted(x.ctx)
	switch {
	case err != nil:
		x.damaged(err)
	case encrypted:
		x.add(CheckValues, Note, "the apps that write to it encrypt the values (encryption.data): they are replicated as they are, and not read here",
			"what this daemon puts, the apps cannot read: it wants --plain")
	}
}

// kind says that the newest entry is not one of events, though the manifest says
// that they are.
func (x *examination) kind() {
	if x.db.Type() != orbit.TypeEvents {
		return
	}
	for e, err := range x.db.Iterate(x.ctx, orbit.Range{Amount: 1}) {
		if err != nil {
			return // whoever reads it is told
		}
		if op, ok := keyed.Parse(e.Payload); ok {
			kind := orbit.TypeKeyValue
			if op.Value.Kind() == value.KindMap {
				kind = orbit.TypeDocuments + " or --type " + kind
			}
			x.add(CheckType, Note, "it is events by its manifest, and the newest entry puts or deletes a key: the app may have opened it as another type", "ipfs npp db open "+x.address+" --type "+kind)
		}
	}
}

// count is a number with its word.
func count[N int | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// names is some peers.
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
