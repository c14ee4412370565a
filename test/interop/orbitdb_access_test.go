package interop

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/test/harness"
)

// band is two daemons, and JavaScript peers that are connected to the first:
//
//	JavaScript peers — daemon 0 — link — daemon 1
//
// Disconnected peers do not reconnect by themselves.
type band struct {
	t       *testing.T
	daemons [2]*harness.Node
	ids     [2]string // of the daemons' identities
	link    *harness.Link
}

func newBand(t *testing.T) *band {
	t.Helper()
	b := &band{t: t}
	for i := range b.daemons {
		b.daemons[i] = harness.New(t).Hide().Start()
		b.ids[i] = lines[struct{ ID string }](t, b.daemons[i], "npp", "id")[0].ID
	}
	b.link = harness.NewLink(t, b.daemons[1])
	b.heal()
	return b
}

// in returns the band for a subtest.
func (b *band) in(t *testing.T) *band {
	of := *b
	of.t = t
	return &of
}

// heal connects the daemons.
func (b *band) heal() {
	b.t.Helper()
	b.link.Heal()
	eventually(b.t, "the daemons are connected", func() (any, bool) {
		res := b.daemons[0].Run("swarm", "connect", b.link.Addr)
		return res, res.Code == 0
	})
}

// join starts a JavaScript peer. It returns the peer and the ID of its
// identity.
func (b *band) join(stack string, w writer) (*node, string) {
	b.t.Helper()
	js := startNodeWith(b.t, "--hide "+stack)
	id := js.newIdentity(w)
	b.dial(js)
	return js, id
}

// dial connects a JavaScript peer to its daemon.
func (b *band) dial(js *node) {
	b.t.Helper()
	js.dial(b.daemons[0].ListenAddr())
}

// create makes the first daemon create a database of documents. The daemon and
// the other admins can change its access list. create returns the database on
// both daemons.
func (b *band) create(name string, admins ...string) []daemonReplica {
	b.t.Helper()
	command := []string{"npp", "db", "create", name, "--type", orbit.TypeDocuments, "--managed"}
	for _, id := range append(admins, b.ids[0]) {
		command = append(command, "--write", id)
	}
	address := strings.TrimSpace(b.daemons[0].MustRun(command...))
	b.daemons[1].MustRun("npp", "db", "open", address, "--wait")
	return daemonsOf(daemonReplica{b.t, b.daemons[0], address}, daemonReplica{b.t, b.daemons[1], address})
}

// change makes the daemon grant or revoke.
func (r daemonReplica) change(command, id string, options ...string) {
	r.t.Helper()
	r.n.MustRun(append([]string{"npp", "db", command, r.address, id}, options...)...)
}

// tryPut puts a document with an ID and reports whether the daemon was
// authorized.
func (r daemonReplica) tryPut(id string) bool {
	r.t.Helper()
	status, answer := r.n.RPC("npp/db/put", url.Values{"arg": {r.address, fmt.Sprintf(`{"_id":%q}`, id)}}, nil)
	if status != http.StatusOK && !strings.Contains(answer, orbit.ErrNotAllowed.Error()) {
		r.t.Fatalf("put: %d: %s", status, answer)
	}
	return status == http.StatusOK
}

// accessOf returns the access databases of a database.
func accessOf(r []daemonReplica) (access []daemonReplica) {
	address := lines[struct{ Access struct{ Address string } }](r[0].t, r[0].n, "npp", "db", "info", r[0].address)[0].Access.Address
	for _, r := range r {
		access = append(access, daemonReplica{r.t, r.n, address})
	}
	return access
}

// agreeOnAccess waits until daemons and JavaScript have the same access
// database, with the given number of entries.
func agreeOnAccess(t *testing.T, entries int, daemons []daemonReplica, peers ...jsReplica) {
	t.Helper()
	var access []jsReplica
	for _, p := range peers {
		access = append(access, p.access())
	}
	agree(t, entries, accessOf(daemons), access...)
}

// checkCapability checks which identities have a capability in JavaScript, in
// any order.
func (r jsReplica) checkCapability(capability string, want ...string) {
	r.js.t.Helper()
	got := slices.Sorted(slices.Values(r.capabilities()[capability]))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.js.t.Errorf("%s: %q has %q, want %q", r.as, capability, got, want)
	}
}

// again makes a peer exchange heads with its daemon once more, and waits for
// the exchange: a JavaScript peer does not retry an entry that it has refused.
func (b *band) again(r jsReplica) {
	b.t.Helper()
	before := len(r.js.happened(eventJoin, r.address))
	r.js.disconnectAll()
	b.dial(r.js)
	eventually(b.t, "heads were exchanged", func() (any, bool) {
		n := len(r.js.happened(eventJoin, r.address))
		return n, n > before
	})
}

func document(id string) op { return op{kind: "put", value: fromJSON(fmt.Sprintf(`{"_id":%q}`, id))} }

// writeOne writes a document.
func (r jsReplica) writeOne(id string) {
	r.js.t.Helper()
	_, err := r.write(document(id))
	must(r.js.t, err)
}

// The access lists of databases change while daemons and JavaScript have them.
func TestAccessListsChangeBesideJavaScript(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		b := newBand(t)
		early, earlyID := b.join(stack, writerA)
		late, lateID := b.join(stack, writerB)
		t.Run("kept entries do not affect JavaScript", func(t *testing.T) {
			keptEntriesDoNotDisturbJavaScript(b.in(t), early.in(t), late.in(t), earlyID, lateID)
		})
		t.Run("JavaScript keeps and refuses entries of a former writer", func(t *testing.T) {
			javaScriptKeepsAndRefuses(b.in(t), early.in(t), late.in(t), earlyID)
		})
		t.Run("JavaScript grants and revokes", func(t *testing.T) {
			javaScriptGrantsAndRevokes(b.in(t), early.in(t), earlyID)
		})
		t.Run("changes that JavaScript overwrites are restored once", func(t *testing.T) {
			overwrittenIsRestoredOnce(b.in(t), early.in(t), earlyID)
		})
	})
}

// A daemon keeps entries of a former writer, listed in the access database.
// Meanwhile, a JavaScript peer that had the database before and one that joins
// later open the database, list capabilities, grant, revoke, write and join.
func keptEntriesDoNotDisturbJavaScript(b *band, early, late *node, earlyID, lateID string) {
	t, member := b.t, b.ids[1]
	somebody := signerOf(t, writerC).ID
	d := b.create("kept", earlyID, lateID)
	inEarly := early.openLive(writerA, d[0].address, live{memory: true})
	d[0].change("grant", member)
	agreeOnAccess(t, 1, d, inEarly)
	d[1].putMany(documentLines("tip", 1)...)
	agree(t, 1, d, inEarly)
	tip := d[0].info().Heads

	d[0].change("revoke", member)
	agreeOnAccess(t, 3, d, inEarly)
	if d[1].tryPut("revoked") {
		t.Error("the former writer writes")
	}
	kept := "npp:kept:" + member
	useAll := func(r jsReplica, name string) {
		t.Helper()
		r.checkCapability(kept, tip...)
		r.checkCapability(orbit.CapabilityAdmin, b.ids[0], earlyID, lateID)
		r.change("grant", somebody)
		if got := r.capabilities()[orbit.CapabilityWrite]; !slices.Contains(got, somebody) {
			t.Errorf("%s granted, and the access list has %q", r.as, got)
		}
		r.change("revoke", somebody)
		if got := r.capabilities()[orbit.CapabilityWrite]; slices.Contains(got, somebody) {
			t.Errorf("%s revoked, and the access list has %q", r.as, got)
		}
		r.writeOne(name)
	}
	useAll(inEarly, "by an early peer")
	agreeOnAccess(t, 5, d, inEarly)
	agree(t, 2, d, inEarly)

	// The member is granted again, so that JavaScript can join the entries that
	// follow. Its key is still there.
	d[0].change("grant", member)
	agreeOnAccess(t, 6, d, inEarly)
	d[0].putMany(documentLines("for an early peer", 1)...)
	agree(t, 3, d, inEarly)
	inLate := late.openLive(writerB, d[0].address, live{memory: true})
	agreeOnAccess(t, 6, d, inEarly, inLate)
	b.again(inLate)
	agree(t, 3, d, inEarly, inLate)
	useAll(inLate, "by a late peer")
	agreeOnAccess(t, 8, d, inEarly, inLate)
	d[1].putMany(documentLines("for a late peer", 1)...)
	agree(t, 5, d, inEarly, inLate)
}

// refusal is the error of JavaScript for an entry whose writer is not on the
// access list.
const refusal = "is not allowed to write to the log"

// checkRefused checks that a JavaScript peer cannot join the newest entry of a
// daemon, and that it has the given number of entries.
func (r jsReplica) checkRefused(from daemonReplica, entries int) {
	r.js.t.Helper()
	head := from.state().log[0]
	r.js.fetched(head)()
	for _, j := range r.joined([]string{head}, nil) {
		if !strings.Contains(j.Error, refusal) {
			r.js.t.Errorf("%s joins %+v", r.as, j)
		}
	}
	if n := r.count(); n != entries {
		r.js.t.Errorf("%s has %d entries, want %d", r.as, n, entries)
	}
}

// A writer of the history is not on the access list. A JavaScript peer that has
// its entries still shows them, and cannot join an entry that references one of
// them in next or refs. A JavaScript peer that joins later cannot join any
// descendant of them. The daemons agree at all times. All peers agree once the
// writer is granted again.
func javaScriptKeepsAndRefuses(b *band, early, late *node, earlyID string) {
	t, member := b.t, b.ids[1]
	d := b.create("former writers")
	inEarly := early.openLive(writerA, d[0].address, live{memory: true})
	d[0].change("grant", member)
	d[0].change("grant", earlyID)
	agreeOnAccess(t, 2, d, inEarly)
	d[1].putMany(documentLines("built on", 1)...)
	agree(t, 1, d, inEarly)
	d[0].putMany(documentLines("on top", 1)...)
	agree(t, 2, d, inEarly)
	d[1].putMany(documentLines("tip", 1)...)
	agree(t, 3, d, inEarly)
	before := inEarly.state(query{})

	d[0].change("revoke", member, "--discard")
	agreeOnAccess(t, 3, d, inEarly)
	agree(t, 2, d)
	check(t, "JavaScript, as before", inEarly.state(query{}), before)
	inLate := late.openLive(writerB, d[0].address, live{memory: true})
	agreeOnAccess(t, 3, d, inLate)
	b.again(inLate)
	inLate.checkRefused(d[0], 0)

	// The entries of daemons do not reference those of former writers.
	d[0].putMany(documentLines("after", 1)...)
	agree(t, 3, d)
	inEarly.waitForCount(4)
	inLate.checkRefused(d[0], 0)

	// The tip is valid again for the daemons, since an authorized writer
	// referenced it.
	inEarly.writeOne("on the tip")
	agree(t, 5, d, inEarly)
	d[0].putMany(documentLines("goes on", 20)...)
	agree(t, 25, d, inEarly)
	inLate.checkRefused(d[0], 0)

	// The next entry references a kept tip. The early peer joins it with the
	// one after it.
	d[0].change("grant", member)
	agreeOnAccess(t, 4, d, inEarly, inLate)
	b.again(inLate)
	d[1].putMany(documentLines("kept tip", 1)...)
	agree(t, 26, d, inEarly, inLate)
	d[0].change("revoke", member)
	agreeOnAccess(t, 6, d, inEarly, inLate)
	agree(t, 26, d, inEarly, inLate)
	d[0].putMany(documentLines("on the kept tip", 1)...)
	agree(t, 27, d)
	inEarly.checkRefused(d[0], 26)
	d[0].putMany(documentLines("the next", 1)...)
	agree(t, 28, d, inEarly, inLate)
}

// A daemon and a JavaScript peer change the access list of a database in turns.
// JavaScript lists no kept entries when it revokes.
func javaScriptGrantsAndRevokes(b *band, js *node, jsID string) {
	t, member := b.t, b.ids[1]
	d := b.create("two admins", jsID)
	inJS := js.openLive(writerA, d[0].address, live{memory: true})
	d[0].change("grant", member)
	agreeOnAccess(t, 1, d, inJS)
	d[1].putMany(documentLines("granted", 1)...)
	agree(t, 1, d, inJS)
	inJS.change("revoke", member)
	agreeOnAccess(t, 2, d, inJS)
	agree(t, 0, d)
	inJS.waitForCount(1)
	d[0].change("grant", member)
	agreeOnAccess(t, 3, d, inJS)
	agree(t, 1, d, inJS)

	// A revocation, and a grant that reverses it, reach a daemon that has
	// written meanwhile.
	b.link.Cut()
	inJS.change("revoke", member)
	agreeOnAccess(t, 4, d[:1], inJS)
	d[1].putMany(documentLines("revoked without knowing it", 1)...)
	inJS.change("grant", member)
	b.heal()
	agreeOnAccess(t, 5, d, inJS)
	agree(t, 2, d, inJS)

	// The revocation reaches the daemon first, and the grant later.
	b.link.Cut()
	inJS.change("revoke", member)
	d[1].putMany(documentLines("shown between", 1)...)
	b.heal()
	agreeOnAccess(t, 6, d, inJS)
	agree(t, 0, d)
	d[0].change("grant", member)
	agreeOnAccess(t, 7, d, inJS)
	agree(t, 3, d)
	d[0].putMany(documentLines("on top", 1)...) // JavaScript does not retry the entries that it has refused
	agree(t, 4, d, inJS)
}

// An admin's daemon and a JavaScript admin change an access list concurrently.
// The list of JavaScript is newer and overwrites that of the daemon, which then
// writes a list with the changes of both.
func overwrittenIsRestoredOnce(b *band, js *node, jsID string) {
	t := b.t
	var somebody []string
	for _, w := range []writer{writerB, writerC, writerD} {
		somebody = append(somebody, signerOf(t, w).ID)
	}
	d := b.create("at once", b.ids[1], jsID)
	inJS := js.openLive(writerA, d[0].address, live{memory: true})
	d[0].change("grant", somebody[0])
	agreeOnAccess(t, 1, d, inJS)

	js.disconnectAll()
	d[0].change("grant", somebody[1])
	inJS.change("grant", somebody[2])
	inJS.change("revoke", somebody[0]) // a second change makes its list the newer one
	b.dial(js)
	agreeOnAccess(t, 5, d, inJS)
	inJS.checkCapability(orbit.CapabilityWrite, somebody[1], somebody[2])

	// If a daemon wrote twice, or the other daemon wrote as well, there would
	// be more entries.
	js.disconnectAll()
	d[0].change("revoke", somebody[1])
	inJS.change("grant", somebody[0])
	inJS.change("grant", b.ids[0])
	b.dial(js)
	agreeOnAccess(t, 9, d, inJS)
	inJS.checkCapability(orbit.CapabilityWrite, somebody[0], somebody[2], b.ids[0])
	inJS.writeOne("by the admin")
	agree(t, 1, d, inJS)
}

// accessHistory is a database on two daemons and a JavaScript peer. Its entries
// and its access list change at random.
type accessHistory struct {
	*rand.Rand
	*band
	inDaemon []daemonReplica
	inJS     jsReplica
	jsAdmin  bool
	members  []string // IDs of identities that write, and are granted and revoked
	others   []string // IDs of identities that never write, and are granted and revoked
	written  int      // number of entries
	trace    []string
}

// Two daemons and a JavaScript peer write, grant and revoke in partitions. The
// daemons are equal after each partition. JavaScript is equal to them as soon
// as all writers are on the access list. NPP_SEED is the seed of a history to
// replay, NPP_ROUNDS the number of partitions.
func TestHistoriesOfGrantsEndTheSameEverywhere(t *testing.T) {
	t.Parallel()
	nodeJS(t)
	seed := envNumber(t, "NPP_SEED", uint64(time.Now().UnixNano()))
	rounds := int(envNumber(t, "NPP_ROUNDS", 4))
	t.Logf("NPP_SEED=%d NPP_ROUNDS=%d", seed, rounds)
	b := newBand(t)
	js, id := b.join(orbitdb4, writerA)
	for _, role := range []string{"member", "admin"} {
		t.Run("JavaScript is "+role, func(t *testing.T) {
			h := newAccessHistory(b.in(t), js.in(t), id, role == "admin", seed)
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(h.trace, "\n"))
				}
			}()
			for round := range rounds {
				h.round(round)
			}
		})
	}
}

func newAccessHistory(b *band, js *node, id string, admin bool, seed uint64) *accessHistory {
	b.t.Helper()
	h := &accessHistory{
		Rand: rand.New(rand.NewPCG(seed, 0)), band: b, jsAdmin: admin, members: []string{b.ids[1]},
		others: []string{signerOf(b.t, writerC).ID, signerOf(b.t, writerD).ID},
	}
	if admin {
		h.inDaemon = b.create("history beside an admin", id)
	} else {
		h.inDaemon = b.create("history beside a member")
		h.members = append(h.members, id)
	}
	h.inJS = js.openLive(writerA, h.inDaemon[0].address, live{memory: true})
	h.grantAll()
	return h
}

func (h *accessHistory) log(format string, a ...any) {
	h.trace = append(h.trace, fmt.Sprintf(format, a...))
}

// round partitions the replicas, runs some steps, connects all replicas and
// compares them.
func (h *accessHistory) round(round int) {
	h.t.Helper()
	if h.IntN(3) > 0 {
		h.log("the daemons are parted")
		h.link.Cut()
	}
	if h.IntN(3) > 0 {
		h.log("JavaScript is alone")
		h.inJS.js.disconnectAll()
	}
	for step := range 4 + h.IntN(8) {
		h.step(fmt.Sprintf("%d.%d", round, step))
	}
	h.log("all are connected")
	h.heal()
	h.dial(h.inJS.js)
	h.settle()
	h.grantAll()
	h.put(0, fmt.Sprintf("on top of round %d", round))
	agree(h.t, h.written, h.inDaemon, h.inJS)
	if h.t.Failed() {
		h.t.FailNow()
	}
}

// step makes a replica write, or an admin change the access list.
func (h *accessHistory) step(name string) {
	h.t.Helper()
	if h.IntN(3) > 0 {
		h.put(h.IntN(3), name)
		return
	}
	command := pick(h.Rand, "grant", "revoke")
	id := pick(h.Rand, slices.Concat(h.members, h.members, h.others)...)
	if h.jsAdmin && h.IntN(2) == 0 {
		h.log("%s: JavaScript: %s %s", name, command, id)
		h.inJS.change(command, id)
		return
	}
	h.changeInDaemon(name, command, id)
}

func (h *accessHistory) changeInDaemon(name, command, id string) {
	h.t.Helper()
	options := url.Values{"arg": {h.inDaemon[0].address, id}}
	if command == "revoke" && h.IntN(2) == 0 {
		options.Set("discard", "true")
	}
	status, answer := h.daemons[0].RPC("npp/db/"+command, options, nil)
	h.log("%s: daemon 0: %s %v: %d", name, command, options, status)
	if status != http.StatusOK && !strings.Contains(answer, "was not granted") {
		h.t.Fatalf("%s: %s", command, answer)
	}
}

// put makes a daemon, or JavaScript if who is 2, write a document, unless its
// access list forbids that.
func (h *accessHistory) put(who int, name string) {
	h.t.Helper()
	var ok bool
	if who < len(h.inDaemon) {
		ok = h.inDaemon[who].tryPut(name)
	} else {
		_, err := h.inJS.write(document(name))
		if ok = err == nil; !ok && !strings.Contains(err.Error(), refusal) {
			h.t.Fatal(err)
		}
	}
	h.log("%s: %d writes: %v", name, who, ok)
	if ok {
		h.written++
	}
}

// settle waits until the daemons agree with each other, and with JavaScript on
// the access database.
func (h *accessHistory) settle() {
	h.t.Helper()
	access, inJS := accessOf(h.inDaemon), h.inJS.access()
	eventually(h.t, "the daemons agree", func() (any, bool) {
		var found []string
		for i := range h.inDaemon {
			of, list := h.inDaemon[i].info(), access[i].info()
			found = append(found, fmt.Sprint(of.Entries, of.Heads, list.Entries, list.Heads))
		}
		same := found[0] == found[1] && slices.Equal(inJS.heads(), access[0].info().Heads)
		return found, same && reflect.DeepEqual(h.inDaemon[0].state(), h.inDaemon[1].state())
	})
}

// grantAll grants all members, and waits until all replicas know.
func (h *accessHistory) grantAll() {
	h.t.Helper()
	for _, id := range h.members {
		h.changeInDaemon("all", "grant", id)
	}
	h.settle()
	granted := h.inJS.capabilities()[orbit.CapabilityWrite]
	for _, id := range h.members {
		if !slices.Contains(granted, id) {
			h.t.Errorf("%s was granted, and the access list lacks it: %q", id, granted)
		}
	}
}
