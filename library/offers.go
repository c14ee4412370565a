package library

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/store"
)

// MaxOffers is how many offers are remembered, one of each peer: the oldest goes.
const MaxOffers = 1000

const (
	offerPrefix = "offer"
	lastLooked  = "offers"

	// lookedEvery is how many messages are looked at again after a restart.
	lookedEvery = 1000
)

// Offer is a user store that a peer offered by a message.
type Offer struct {
	Peer    peer.ID     `json:"-"` // proven by the connection, or the signature
	Address string      `json:"address"`
	At      time.Time   `json:"at"`
	Via     message.Via `json:"via"`
}

// Check returns what keeps the store from being opened, such as
// [orbit.ErrLegacyAddress].
func (o Offer) Check() error {
	_, err := orbit.ParseAddress(o.Address)
	return err
}

// OfferIn returns the address of a user store that a message offers: JSON such as
// {"userDb":"/orbitdb/zdpu…"}, as the app of the OrbitDB tutorial sends it.
func OfferIn(data []byte) (address string, ok bool) {
	if len(data) > 4<<10 {
		return "", false
	}
	var offer struct {
		UserDB *string `json:"userDb"`
	}
	if json.Unmarshal(data, &offer) != nil || offer.UserDB == nil {
		return "", false
	}
	address = *offer.UserDB
	return address, strings.HasPrefix(address, "/orbitdb/") && len(address) <= 512
}

func offerKey(id peer.ID) string { return offerPrefix + "/" + id.String() }

func (l *Library) loadOffers(ctx context.Context) error {
	return scanPeers(ctx, l.cfg.Store, offerPrefix, func(id peer.ID, o Offer) {
		o.Peer = id
		l.offers[id] = o
	})
}

// Offers returns the offers that came, the newest first. One that was taken up is
// none any more. After a start it waits some seconds until the messages that came
// before were looked at; the error wraps [ErrBeingRead] where that takes longer, and
// some offers may be missing.
func (l *Library) Offers(ctx context.Context) ([]Offer, error) {
	patient, cancel := context.WithTimeout(ctx, l.cfg.Patience)
	defer cancel()
	err := l.awaitOffers(patient)
	l.mu.Lock()
	defer l.mu.Unlock()
	var offers []Offer
	for _, o := range l.offers {
		offers = append(offers, o)
	}
	slices.SortFunc(offers, func(a, b Offer) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Peer, b.Peer)) })
	return offers, err
}

// awaitOffers waits until the messages that were there at the start were looked at.
func (l *Library) awaitOffers(ctx context.Context) error {
	if _ = l.offered.wait(ctx); ctx.Err() != nil && !l.offered.isRead() {
		return fmt.Errorf("messages that may be offers are %w", ErrBeingRead)
	}
	return nil
}

// watchOffers looks for offers among the messages, from where it was before.
func (l *Library) watchOffers() {
	defer l.offered.fail(errors.New("messages are not looked at"))
	if l.cfg.Disk.AwaitIncoming(l.ctx) != nil {
		return
	}
	_ = l.known.wait(l.ctx) // a message of a companion may be no offer
	since := message.SinceAll
	var last time.Time
	if text, err := l.cfg.Store.Get(l.ctx, lastLooked); err == nil && last.UnmarshalText(text) == nil {
		since = message.SinceTime(last)
	}
	begin := time.Now()
	f := message.Filter{Since: since, Ready: func() {
		l.looked(begin)
		l.offered.end(nil)
	}}
	count := 0
	for m, err := range l.cfg.Messages.Listen(l.ctx, f) {
		if err != nil {
			return
		}
		l.lookAt(m)
		if count++; count%lookedEvery == 0 {
			l.looked(m.Received)
		}
	}
}

// looked notes that all messages up to a time were looked at.
func (l *Library) looked(at time.Time) {
	text, err := at.MarshalText()
	if err == nil {
		err = l.save(l.ctx, lastLooked, text)
	}
	if err != nil && l.ctx.Err() == nil {
		log.Warnw("offers", "err", err)
	}
}

// lookAt remembers the offer that a message is.
func (l *Library) lookAt(m *message.Message) {
	address, ok := OfferIn(m.Data)
	if !ok || m.From == l.self {
		return
	}
	// The tutorial's app makes its offer at each connect.
	if c := l.companionOf(m.From); c != nil && c.user == address {
		return
	}
	if l.cfg.Disk.AwaitIncoming(l.ctx) != nil { // the messages wait on disk
		return
	}
	o := Offer{Peer: m.From, Address: address, At: m.Received, Via: m.Via}
	text, err := json.Marshal(o)
	if err != nil {
		return
	}
	l.mu.Lock()
	var oldest Offer
	for _, other := range l.offers {
		if oldest.Peer == "" || other.At.Before(oldest.At) {
			oldest = other
		}
	}
	_, known := l.offers[o.Peer]
	full := !known && len(l.offers) >= MaxOffers
	l.mu.Unlock()
	err = l.cfg.Store.Update(l.ctx, func(tx *store.Tx) error {
		if full {
			if err := tx.Delete(offerKey(oldest.Peer)); err != nil {
				return err
			}
		}
		return tx.Put(offerKey(o.Peer), text)
	})
	if err != nil {
		return
	}
	l.mu.Lock()
	if full {
		delete(l.offers, oldest.Peer)
	}
	l.offers[o.Peer] = o
	l.mu.Unlock()
	l.emit(Event{Kind: EventOffer, Peer: o.Peer, Address: address})
}

// dropOffer forgets the offer of a peer, also after a restart. After an error,
// the offer stays.
func (l *Library) dropOffer(ctx context.Context, id peer.ID) error {
	if l.offered.isRead() {
		l.looked(time.Now())
	}
	if err := l.erase(ctx, offerKey(id)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.offers, id)
	return nil
}
