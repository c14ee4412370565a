package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/replicate"
)

const (
	patience  = 30 * time.Minute // from the healing until all replicas agree
	hostility = 2 * time.Minute  // for which hostile peers go on after the healing
	quiet     = 3 * time.Minute  // until replicas with nothing to do rest
)

// run runs the history, and returns which conditions it violated, or nil.
func (s *history) run() error {
	defer s.end()
	for _, r := range s.replicas {
		s.start(r)
	}
	for _, b := range s.databases {
		if err := b.create(); err != nil {
			return err
		}
		b.creator.open(b)
	}
	for _, x := range s.hostiles {
		x.start()
	}
	s.world.run(s.begun.Add(s.lasts))
	s.heal()
	healed := time.Now()
	s.world.run(healed.Add(hostility))
	for s.unsettled() != nil && time.Since(healed) < patience {
		s.world.run(time.Now().Add(5 * time.Second))
	}
	s.world.run(time.Now().Add(quiet))
	busy := s.busy()
	return errors.Join(append(s.violations, s.unsettled(), s.disagreement(), busy)...)
}

// heal ends all cuts and failures, and connects the replicas of each database.
func (s *history) heal() {
	s.healing = true
	for _, l := range s.links {
		l.setCut(false)
	}
	for _, b := range s.databases {
		s.connect(s.replicasOf(b))
	}
	for _, r := range s.replicas {
		s.start(r)
		r.disk.FailAfter(0, 0)
	}
	synctest.Wait()
	for _, r := range s.replicas {
		for _, b := range r.opens {
			if len(r.opens) <= len(kinds) || r.lacks(b) {
				r.open(b)
			}
		}
	}
}

// replicasOf returns the replicas that opened a database.
func (s *history) replicasOf(b *database) (having []*replica) {
	for _, r := range s.replicas {
		if slices.Contains(r.opens, b) {
			having = append(having, r)
		}
	}
	return having
}

// connect adds links so that the given replicas reach each other without other
// nodes.
func (s *history) connect(some []*replica) {
	reached := map[*node]bool{some[0].node: true}
	for _, r := range some {
		if !reached[r.node] && !slices.ContainsFunc(some, func(q *replica) bool { return reached[q.node] && linked(q.node, r.node) }) {
			l := newLink(some[0].node, r.node)
			s.links = append(s.links, l)
			s.mu.Lock()
			l.redial()
			s.mu.Unlock()
		}
		reached[r.node] = true
	}
}

// end stops all nodes.
func (s *history) end() {
	s.ended = true
	for _, r := range s.replicas {
		r.stop()
	}
	for _, x := range s.hostiles {
		x.down(noticeStop)
	}
	time.Sleep(hostility) // sleeping goroutines end by themselves
}

// unsettled returns which replicas lack entries, have pending ones or other
// heads, or nil.
func (s *history) unsettled() error {
	ctx := context.Background()
	var errs []error
	for _, b := range s.databases {
		want := ""
		for i, r := range s.replicasOf(b) {
			db := r.database(b)
			if db == nil {
				errs = append(errs, fmt.Errorf("%s has not %s", r.name, b.name))
				continue
			}
			got := ""
			for _, d := range withAccess(db) {
				stats, err := oplog.Of(d).Stats(ctx)
				if err != nil {
					return err
				}
				for _, h := range stats.Heads {
					got += h.Hash
				}
				if waiting := int(stats.Pending); waiting > b.orphans || waiting > 0 && d != db {
					errs = append(errs, fmt.Errorf("%s has %d pending entries of %s", r.name, waiting, d.Name()))
				}
			}
			if i == 0 {
				want = got
			}
			if got != want {
				status, _ := r.repl.Status(ctx, b.address)
				errs = append(errs, fmt.Errorf("%s has other heads of %s: %s", r.name, b.name, s.short(status)))
			}
		}
	}
	return errors.Join(errs...)
}

// busy returns which replicas run although no connected peer that does not speak
// the inventory has the database open, or the one that it controls, or nil. A
// replica may try again and again to catch up with a hostile peer.
func (s *history) busy() error {
	var errs []error
	for _, r := range s.replicas {
		if r.unknown != "" {
			continue
		}
		idle := slices.DeleteFunc(r.repl.Running(), r.host.pubsub.isSubscribed)
		for _, b := range s.databases {
			if r.host.pubsub.isSubscribed(b.address) || slices.ContainsFunc(s.hostiles, func(x *hostile) bool { return x.daemon && slices.Contains(x.databases, b) }) {
				for _, d := range withAccess(r.database(b)) {
					idle = slices.DeleteFunc(idle, func(address string) bool { return address == d.Address() })
				}
			}
		}
		if len(idle) > 0 {
			errs = append(errs, fmt.Errorf("%s replicates %d databases with nothing to do, such as %s: %s", r.name, len(idle), idle[0], s.short(r.repl.StateOf(context.Background(), idle[0]))))
		}
	}
	return errors.Join(errs...)
}

// withAccess returns a database and its access database, if any.
func withAccess(db *orbit.Database) []*orbit.Database {
	if db == nil {
		return nil
	}
	if inner := db.Access().Database(); inner != nil {
		return []*orbit.Database{db, inner}
	}
	return []*orbit.Database{db}
}

// short returns a status as a short text.
func (s *history) short(status replicate.Status) string {
	text := fmt.Sprintf("%s, asks for %d, misses %d, refused %d", status.State, status.Asking, len(status.Missing), len(status.Refused))
	for _, p := range status.Peers {
		for _, r := range s.replicas {
			if r.id == p.ID {
				text += fmt.Sprintf("; %s open %v, exchanged %v, in sync %v, %v", r.name, p.Open, p.Exchanged.Sub(s.begun), p.InSync.Sub(s.begun), p.Err)
			}
		}
	}
	return text
}

// disagreement returns how the replicas differ, and which entries are lost or
// wrong, or nil.
func (s *history) disagreement() error {
	var errs []error
	for _, b := range s.databases {
		var first []string
		for i, r := range s.replicasOf(b) {
			db := r.database(b)
			if db == nil {
				continue
			}
			hashes, err := order(db)
			if err != nil {
				return err
			}
			items, err := state(db)
			if err != nil {
				return err
			}
			got := slices.Concat(hashes, items)
			if i == 0 {
				first = got
				errs = append(errs, s.lost(b, hashes), s.intruders(b, r, db))
				if b.guard == managed {
					errs = append(errs, s.misauthorized(b, db, hashes))
				}
			}
			if !slices.Equal(got, first) {
				errs = append(errs, fmt.Errorf("%s has another %s:\n%s\nnot\n%s", r.name, b.name, strings.Join(got, " "), strings.Join(first, " ")))
			}
		}
	}
	return errors.Join(errs...)
}

// lost returns an entry that is missing although its writer was told that it is
// on disk, or nil. In a managed database, it need not be authorized: its writer
// may be revoked.
func (s *history) lost(b *database, hashes []string) error {
	authorized := make(map[string]bool, len(hashes))
	for _, hash := range hashes {
		authorized[hash] = true
	}
	for _, hash := range sortedKeys(b.written) {
		if authorized[hash] {
			continue
		}
		if b.guard != managed || s.find(b, hash) == nil {
			return fmt.Errorf("%s of %s is lost", hash, b.name)
		}
	}
	return nil
}

// find returns an entry that a replica has, authorized or not, or nil.
func (s *history) find(b *database, hash string) *entry.Entry {
	for _, r := range s.replicasOf(b) {
		if db := r.database(b); db != nil {
			if e, err := oplog.Of(db).Get(context.Background(), hash); err == nil {
				return e
			}
		}
	}
	return nil
}

// misauthorized returns an entry that is authorized at the replica and should
// not be, or the reverse, by the rule of [orbit.AccessController] for all
// entries that any replica has.
func (s *history) misauthorized(b *database, db *orbit.Database, hashes []string) error {
	ctx := context.Background()
	list, err := oplog.Of(db).Access(ctx)
	if err != nil {
		return err
	}
	all := make(map[string]*entry.Entry)
	writers := make(map[string]string) // of valid entries
	for _, r := range s.replicasOf(b) {
		for a, err := range oplog.Of(r.database(b)).Stored(ctx, 0) {
			if err != nil {
				return err
			}
			all[a.Hash] = a.Entry
			if i, err := r.orbit.IdentityOf(ctx, a.Entry.Identity); err == nil && a.Entry.Check(i) == nil {
				writers[a.Hash] = i.ID
			}
		}
	}
	anchored := make(map[string]bool)
	var anchor func(hash string)
	anchor = func(hash string) {
		if e := all[hash]; e != nil && !anchored[hash] {
			anchored[hash] = true
			for _, next := range e.Next {
				anchor(next)
			}
		}
	}
	for hash, writer := range writers {
		if list.Anchors(hash, writer) {
			anchor(hash)
		}
	}
	authorized := make(map[string]bool)
	for hash, writer := range writers {
		if anchored[hash] && (slices.Contains(list.Known, writer) || slices.Contains(list.Retained, hash)) {
			authorized[hash] = true
		}
	}
	for _, hash := range hashes {
		if !authorized[hash] {
			return fmt.Errorf("%s is authorized in %s, and should not be", hash, b.name)
		}
		delete(authorized, hash)
	}
	if missing := sortedKeys(authorized); len(missing) > 0 {
		return fmt.Errorf("%s is not authorized in %s, and should be", missing[0], b.name)
	}
	return nil
}

// intruders returns an entry that must not be authorized: its signature is
// invalid, or a hostile peer wrote it to a database to which it may not write.
func (s *history) intruders(b *database, r *replica, db *orbit.Database) error {
	ctx := context.Background()
	for _, d := range withAccess(db) {
		for e, err := range d.Iterate(ctx, orbit.Range{}) {
			if err != nil {
				return err
			}
			i, err := r.orbit.IdentityOf(ctx, e.Identity)
			if err == nil {
				err = e.Check(i)
			}
			if err != nil {
				return fmt.Errorf("%s is authorized in %s: %w", e.Hash(), d.Name(), err)
			}
			for _, x := range s.hostiles {
				if i.ID == x.signer.ID && (b.guard != open || d != db) {
					return fmt.Errorf("%s wrote %s to %s", x.name, e.Hash(), d.Name())
				}
			}
		}
	}
	return nil
}
