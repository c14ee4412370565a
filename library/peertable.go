package library

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/store"
)

// peerTable is a table of records by peer ID, in memory and on disk. Its
// methods may be called concurrently.
type peerTable[R any] struct {
	store  *store.Store
	prefix string

	mu      sync.Mutex
	records map[peer.ID]R
}

// loadPeerTable reads the table with a prefix, whose keys are
// <prefix>/<peer ID>. It logs and skips damaged records.
func loadPeerTable[R any](ctx context.Context, s *store.Store, prefix string) (*peerTable[R], error) {
	t := &peerTable[R]{store: s, prefix: prefix, records: make(map[peer.ID]R)}
	for e, err := range s.Scan(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", prefix, err)
		}
		var r R
		id, err := peer.Decode(strings.TrimPrefix(e.Key, prefix+"/"))
		if err != nil || json.Unmarshal(e.Value, &r) != nil {
			log.Warnw("damaged record", "key", e.Key)
			continue
		}
		t.records[id] = r
	}
	return t, nil
}

func (t *peerTable[R]) key(id peer.ID) string { return t.prefix + "/" + id.String() }

func (t *peerTable[R]) get(id peer.ID) (R, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.records[id]
	return r, ok
}

func (t *peerTable[R]) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.records)
}

// all returns a copy of the table.
func (t *peerTable[R]) all() map[peer.ID]R {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.records)
}

// put sets a record and removes another one, unless evict is "". After an
// error, nothing changed.
func (t *peerTable[R]) put(ctx context.Context, id peer.ID, r R, evict peer.ID) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = t.store.Update(ctx, func(tx *store.Tx) error {
		if evict != "" {
			if err := tx.Delete(t.key(evict)); err != nil {
				return err
			}
		}
		return tx.Put(t.key(id), text)
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", t.key(id), err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.records, evict)
	t.records[id] = r
	return nil
}

// remove removes a record. After an error, nothing changed.
func (t *peerTable[R]) remove(ctx context.Context, id peer.ID) error {
	if err := t.store.Delete(ctx, t.key(id)); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.records, id)
	return nil
}
