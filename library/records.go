package library

import (
	"context"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// record is a companion in the companions database. Its key is the address of
// the companion's user database, whose content it repeats.
type record struct {
	NodeID   string `json:"nodeId"`
	Username string `json:"username,omitempty"`
	Pieces   string `json:"pieces,omitempty"`
	Practice string `json:"practice,omitempty"`
}

// recordOf decodes a record. Fields of other types are left out, but for a
// username of the tutorial, which is a number.
func recordOf(v value.Value) record {
	text := func(key string) string {
		s, _ := v.Field(key).Text()
		return s
	}
	id := text(KeyNodeID)
	if decoded, err := decodePeer(id); err == nil {
		id = decoded.String() // the canonical encoding
	}
	return record{id, nameOf(v.Field(KeyUsername)), text(KeyPieces), text(KeyPractice)}
}

// records returns the records in the companions database, by user database.
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

// recordChanged handles a change of the companions database: item is the new
// value, or nil if the key was deleted. number is 0 for the records at the
// start of the daemon.
func (l *Library) recordChanged(key value.Value, item *orbit.Item, number uint64) {
	address, _ := key.Text()
	var r record
	var id peer.ID
	var err error
	if item != nil {
		r = recordOf(item.Value)
		id, err = l.checkRecord(address, r)
	}
	// After a start, queries wait for the databases that will be read.
	readsUser := number == 0 && err == nil && l.followed.Check(address) == nil
	readsPieces, readsPractice := readsUser && l.followed.IsHere(r.Pieces), readsUser && l.followed.IsHere(r.Practice)
	l.mu.Lock()
	old := l.companions[address]
	switch {
	case item == nil:
		delete(l.invalid, shortKey(key))
	case err == nil && old == nil && len(l.companions) >= MaxCompanions:
		err = errTooMany
		fallthrough
	case err != nil:
		if len(l.invalid) < MaxCompanions {
			l.invalid[shortKey(key)] = err.Error()
		}
	case old != nil && old.id == id:
		l.mu.Unlock()
		old.setName(r.Username)
		return
	}
	if old != nil {
		delete(l.companions, address)
	}
	var c *companionState
	if item != nil && err == nil && l.ctx.Err() == nil {
		delete(l.invalid, shortKey(key))
		c = l.newCompanion(id, address, r.Username)
		var recorded []string
		if number == 0 {
			recorded = []string{address, r.Pieces, r.Practice}
		}
		c.databases = l.followed.NewSet(id, address, c, recorded...)
		c.unnamed = r.Username == "" && (number > 0 || l.followed.IsIncomplete(address))
		for loaded, reads := range map[*latch]bool{&c.profile: readsUser, &c.pieces: readsPieces, &c.practice: readsPractice} {
			if reads {
				loaded.begin()
			}
		}
		l.companions[address] = c
		l.tasks.Go(c.run)
	}
	l.mu.Unlock()
	if old != nil {
		old.remove()
	}
	if c != nil {
		l.emit(Event{Kind: EventAdded, Peer: id, Name: r.Username})
	}
	if old != nil || c != nil {
		l.cards.Announce()
	}
}

// checkRecord returns the peer ID of a record, or why the record is invalid.
func (l *Library) checkRecord(address string, r record) (peer.ID, error) {
	if _, err := orbit.ParseAddress(address); err != nil {
		return "", err
	}
	id, err := decodePeer(r.NodeID)
	switch {
	case err != nil:
		return "", fmt.Errorf("%q is %.80q, which is not a peer ID", KeyNodeID, r.NodeID)
	case id == l.self:
		return "", fmt.Errorf("%q is the peer ID of this daemon", KeyNodeID)
	}
	return id, nil
}

// shortKey returns a key as text, truncated to maxProfileValue.
func shortKey(key value.Value) string {
	text, ok := key.Text()
	if !ok {
		text = key.String()
	}
	return text[:min(len(text), maxProfileValue)]
}

// remember updates the record of a companion from its user database, at most
// once per rememberPause.
func (l *Library) remember(ctx context.Context, c *companionState, r record) {
	kv, err := l.keyValue(ctx, companionsAt)
	if err != nil {
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	item, err := kv.Get(ctx, c.user)
	if err != nil { // the companion is being removed
		return
	}
	before := recordOf(item.Value)
	doc, err := mapOf(item.Value)
	if err != nil {
		return
	}
	changed := false
	set := func(key, old, now string) {
		if now != "" && now != old {
			doc[key], changed = now, true
		}
	}
	for key, pair := range map[string][2]string{KeyPieces: {before.Pieces, r.Pieces}, KeyPractice: {before.Practice, r.Practice}} {
		if _, err := orbit.ParseAddress(pair[1]); err == nil {
			set(key, pair[0], pair[1])
		}
	}
	// Only the first username is recorded: a later one may impersonate
	// another peer.
	if before.Username == "" && c.unnamed {
		set(KeyUsername, "", r.Username)
	}
	c.unnamed = false
	if !changed || time.Since(c.remembered) < rememberPause {
		return
	}
	c.remembered = time.Now()
	if _, err := kv.Put(ctx, c.user, doc); err != nil && ctx.Err() == nil {
		log.Warnw("companion cannot be recorded", "peer", c.id, "err", err)
	}
}

// maxPeerID is the longest text that is decoded as a peer ID, in bytes.
// Decoding base58 and base36 takes quadratic time.
const maxPeerID = 1 << 10

func decodePeer(text string) (peer.ID, error) {
	if len(text) > maxPeerID {
		return "", fmt.Errorf("the peer ID has %d bytes, at most %d are allowed", len(text), maxPeerID)
	}
	return peer.Decode(text)
}

// isPeer reports whether a text is a peer ID, in any encoding.
func isPeer(text string, id peer.ID) bool {
	decoded, err := decodePeer(text)
	return err == nil && decoded == id
}
