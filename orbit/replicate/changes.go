package replicate

import (
	"maps"
	"slices"
	"sync"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

const (
	tellEntries  = 8         // daemons that are sent new entries of a database; others ask for them
	maxTold      = 64        // new entries that are sent; if there are more, daemons ask for them
	maxToldBytes = 128 << 10 // bytes of those
)

// changes has the databases whose logs changed and of which the daemons were not
// told yet.
type changes struct {
	due wait.Flag // set when all is not empty

	mu  sync.Mutex
	all map[inventory.Key]change
}

// change is a change of a log.
type change struct {
	db     *orbit.Database
	after  uint64 // the number of the last entry before the change
	opened bool   // the database was opened: its log may be another one
}

func newChanges() changes {
	return changes{due: wait.NewFlag(), all: make(map[inventory.Key]change)}
}

// add adds a change.
func (c *changes) add(k inventory.Key, added change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before, ok := c.all[k]; ok {
		added.after = min(added.after, before.after)
		added.opened = added.opened || before.opened
	}
	c.all[k] = added
	c.due.Set()
}

// take returns the changes, which are removed.
func (c *changes) take() map[inventory.Key]change {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = make(map[inventory.Key]change)
	return all
}

// changed notes that the log of a database changed after an entry. Package
// orbit waits for it.
func (r *Replicator) changed(db *orbit.Database, after uint64) {
	k, ok := keyOf(db.Address())
	if !ok || !r.index.has(k) {
		return
	}
	r.index.changed(k)
	if len(r.links.telling(k)) > 0 {
		r.changes.add(k, change{db: db, after: after})
	}
}

// tellChanges tells the daemons of changes until the Replicator is closed.
func (r *Replicator) tellChanges() {
	for {
		select {
		case <-r.changes.due:
		case <-r.tasks.Context().Done():
			return
		}
		all := r.changes.take()
		for _, k := range slices.SortedFunc(maps.Keys(all), inventory.Key.Compare) {
			c := all[k]
			state := r.index.State(r.tasks.Context(), k)
			r.links.tell(k, state, r.entriesAfter(c))
			if c.opened {
				r.links.compare(k)
			}
		}
	}
}

// entriesAfter returns the entries that a change added, or none if they are too
// many.
func (r *Replicator) entriesAfter(c change) (entries []block.Block) {
	size := 0
	for a, err := range oplog.Of(c.db).Stored(r.tasks.Context(), c.after) {
		if err != nil {
			return nil
		}
		size += len(a.Entry.Block.Data)
		if len(entries) == maxTold || size > maxToldBytes {
			return nil
		}
		entries = append(entries, a.Entry.Block)
	}
	return entries
}
