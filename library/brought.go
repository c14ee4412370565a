package library

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/store"
)

const broughtPrefix = "brought"

func broughtKey(address string) string {
	return broughtPrefix + "/" + strings.TrimPrefix(address, "/orbitdb/")
}

// errDroppedByHand says that a store of a companion is not here any more.
var errDroppedByHand = errors.New("it was dropped here; ipfs npp companions add brings it back")

// bring has a database replicated for a companion, and notes it where it was
// neither here nor asked for before: it goes with the last companion that has it. One
// that is here is left as it is, closed or not, and one that came before does not
// come again. It returns the options to open it with, and whether it is here.
func (l *Library) bring(ctx context.Context, address, user, indexBy string, came bool) (opts orbit.OpenOptions, here bool, err error) {
	if _, err := orbit.ParseAddress(address); err != nil {
		return opts, false, err
	}
	l.bringing.Lock()
	defer l.bringing.Unlock()
	brought, err := l.cfg.Store.Has(ctx, broughtKey(address))
	if err != nil {
		return opts, false, err
	}
	if brought {
		opts.IndexBy = indexBy
	}
	_, err = l.cfg.Orbit.Resolve(ctx, address)
	pending := slices.Contains(l.cfg.Replicator.Pending(), address)
	switch {
	case err == nil && !pending:
		return opts, true, nil
	case err != nil && !errors.Is(err, orbit.ErrUnknown):
		return opts, false, err
	case came && !pending:
		return opts, false, errDroppedByHand
	}
	if err != nil {
		l.setPartial(address, true)
	}
	if !brought && !pending {
		text, err := json.Marshal(user)
		if err != nil {
			return opts, false, err
		}
		if err := l.save(ctx, broughtKey(address), text); err != nil {
			return opts, false, err
		}
		opts.IndexBy = indexBy
	}
	return opts, false, l.cfg.Replicator.Open(ctx, address, opts)
}

// use counts a companion that has a database, until release. A database that is new
// to the companion, and that no other companion has, is partial. user is the address of
// the companion's user store: the first companion's quota is that of the database.
func (l *Library) use(address, user string, isNew bool) {
	l.bringing.Lock()
	defer l.bringing.Unlock()
	if l.users[address] == 0 {
		l.cfg.Orbit.SetGroup(address, user)
	}
	if isNew && l.users[address] == 0 {
		l.setPartial(address, true)
	}
	l.users[address]++
}

// release drops a database that was brought, unless another companion has it.
func (l *Library) release(address string) {
	l.bringing.Lock()
	defer l.bringing.Unlock()
	if l.users[address]--; l.users[address] > 0 {
		return
	}
	delete(l.users, address)
	l.cfg.Orbit.SetGroup(address, "")
	l.setPartial(address, false)
	if err := l.dropBrought(l.ctx, address); err != nil && l.ctx.Err() == nil {
		log.Warnw("store of a former companion cannot be dropped", "database", address, "err", err)
	}
}

// dropBrought drops a database if it was brought. The caller holds l.bringing.
func (l *Library) dropBrought(ctx context.Context, address string) error {
	switch has, err := l.cfg.Store.Has(ctx, broughtKey(address)); {
	case err != nil:
		return err
	case !has:
		return nil
	}
	switch own, err := l.wrote(ctx, address); {
	case err != nil:
		return err
	case own: // that is not for others to take away
		return l.erase(ctx, broughtKey(address))
	}
	var keep func(context.Context, []block.Block) error
	if l.cfg.Keep != nil {
		keep = l.cfg.Keep()
	}
	if err := l.cfg.Replicator.Drop(ctx, address, keep); err != nil && !errors.Is(err, orbit.ErrUnknown) {
		return err
	}
	return l.erase(ctx, broughtKey(address))
}

// wrote reports whether a database that is here has an entry of one's own.
func (l *Library) wrote(ctx context.Context, address string) (bool, error) {
	if _, err := l.cfg.Orbit.Resolve(ctx, address); errors.Is(err, orbit.ErrUnknown) {
		return false, nil
	}
	db, err := l.cfg.Orbit.Open(ctx, address, orbit.OpenOptions{})
	if err != nil {
		return false, nil // what is damaged was not written
	}
	if writable, err := db.Writable(ctx); err != nil || !writable {
		return false, err
	}
	own := l.cfg.Orbit.Identity().Hash()
	for e, err := range db.Iterate(ctx, orbit.Range{}) {
		if err != nil {
			return true, err
		}
		if e.Identity == own {
			return true, nil
		}
	}
	return false, nil
}

// tidy drops what was brought for companions that are gone, where the daemon was
// stopped before it could.
func (l *Library) tidy() {
	if l.cfg.Replicator == nil {
		return
	}
	records, err := l.records(l.ctx)
	if err != nil {
		return
	}
	l.tidyKept(records)
	needed := make(map[string]bool)
	for user, r := range records {
		needed[user], needed[r.Pieces], needed[r.Practice] = true, true, true
	}
	var gone []string
	for e, err := range l.cfg.Store.Scan(l.ctx, broughtPrefix) {
		if err != nil {
			return
		}
		address := "/orbitdb/" + strings.TrimPrefix(e.Key, broughtPrefix+"/")
		var user string
		_ = json.Unmarshal(e.Value, &user) // "" is nobody's
		if !needed[address] && !needed[user] {
			gone = append(gone, address)
		}
	}
	l.mu.Lock()
	for address := range l.partial {
		if !needed[address] {
			gone = append(gone, address)
		}
	}
	l.mu.Unlock()
	for _, address := range gone {
		l.bringing.Lock()
		if l.users[address] == 0 {
			l.setPartial(address, false)
			if err := l.dropBrought(l.ctx, address); err != nil {
				log.Warnw("store of a former companion cannot be dropped", "database", address, "err", err)
			}
		}
		l.bringing.Unlock()
	}
}

// Claim says that somebody opened a database by hand: it stays when the companion is
// removed for which it came.
func (l *Library) Claim(ctx context.Context, address string) error {
	if _, err := orbit.ParseAddress(address); err != nil {
		return err
	}
	l.bringing.Lock()
	defer l.bringing.Unlock()
	return l.erase(ctx, broughtKey(address))
}

// records returns what the store of companions has, by user store.
func (l *Library) records(ctx context.Context) (map[string]record, error) {
	kv, err := l.keyValue(ctx, companionsAt)
	if err != nil {
		return nil, err
	}
	records := make(map[string]record)
	for item, err := range kv.Iterate(ctx, orbit.Page{}) {
		if err != nil {
			return nil, err
		}
		if user, ok := item.Key.Text(); ok {
			records[user] = recordOf(item.Value)
		}
	}
	return records, nil
}

func (l *Library) save(ctx context.Context, key string, val []byte) error {
	err := l.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.Put(key, val) })
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

func (l *Library) erase(ctx context.Context, key string) error {
	err := l.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.Delete(key) })
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}
