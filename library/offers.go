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
)

// MaxOffers is the maximum number of stored offers. A new one replaces that of
// the same peer, or else the oldest.
const MaxOffers = 1000

const (
	offerPrefix = "offer"
	scannedKey  = "offers"

	// scannedInterval is the number of messages after which the progress is
	// stored. At most that many are scanned again after a restart.
	scannedInterval = 1000
)

// Offer is a user database that a peer offered in a message.
type Offer struct {
	Peer    peer.ID     `json:"-"` // authenticated by the connection or the signature
	Address string      `json:"address"`
	At      time.Time   `json:"at"`
	Via     message.Via `json:"via"`
}

// Check returns why the address cannot be opened, such as
// [orbit.ErrLegacyAddress], or nil.
func (o Offer) Check() error {
	_, err := orbit.ParseAddress(o.Address)
	return err
}

// OfferIn returns the address of the user database that a message offers. The
// message is JSON such as {"userDb":"/orbitdb/zdpu…"}, as the app of the
// OrbitDB tutorial sends it.
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

// Offers returns the offers of peers that were not added as companions, newest
// first. After a start it waits up to [Config].ReadTimeout until the stored
// messages were scanned. If that takes longer, the error wraps [ErrBeingRead],
// and offers may be missing from the result.
func (l *Library) Offers(ctx context.Context) ([]Offer, error) {
	limited, cancel := context.WithTimeout(ctx, l.cfg.ReadTimeout)
	defer cancel()
	err := l.awaitOffers(limited)
	var offers []Offer
	for id, o := range l.offers.all() {
		o.Peer = id
		offers = append(offers, o)
	}
	slices.SortFunc(offers, func(a, b Offer) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Peer, b.Peer)) })
	return offers, err
}

// awaitOffers waits until the messages that were here at the start were
// scanned.
func (l *Library) awaitOffers(ctx context.Context) error {
	if _ = l.offersLoaded.wait(ctx); ctx.Err() != nil && !l.offersLoaded.isRead() {
		return fmt.Errorf("messages that may be offers are %w", ErrBeingRead)
	}
	return nil
}

// watchOffers scans messages for offers. It begins where it ended before the
// restart.
func (l *Library) watchOffers() {
	defer l.offersLoaded.fail(errors.New("messages are not scanned"))
	if l.cfg.Disk.AwaitIncoming(l.ctx) != nil {
		return
	}
	_ = l.companionsLoaded.wait(l.ctx) // so that storeOffer recognizes companions
	since := message.SinceAll
	var last time.Time
	if text, err := l.cfg.Store.Get(l.ctx, scannedKey); err == nil && last.UnmarshalText(text) == nil {
		since = message.SinceTime(last)
	}
	begin := time.Now()
	f := message.Filter{Since: since, Ready: func() {
		l.setScanned(begin)
		l.offersLoaded.end(nil)
	}}
	count := 0
	for m, err := range l.cfg.Messages.Listen(l.ctx, f) {
		if err != nil {
			return
		}
		l.storeOffer(m)
		if count++; count%scannedInterval == 0 {
			l.setScanned(m.Received)
		}
	}
}

// setScanned stores that all messages up to a time were scanned.
func (l *Library) setScanned(at time.Time) {
	text, err := at.MarshalText()
	if err == nil {
		err = l.cfg.Store.Put(l.ctx, scannedKey, text)
	}
	if err != nil && l.ctx.Err() == nil {
		log.Warnw("offers", "err", err)
	}
}

// storeOffer stores the offer in a message, if it has one that is new.
func (l *Library) storeOffer(m *message.Message) {
	address, ok := OfferIn(m.Data)
	if !ok || m.From == l.self {
		return
	}
	// The tutorial's app sends its offer on each connection.
	if c := l.companionOf(m.From); c != nil && c.user == address {
		return
	}
	if l.cfg.Disk.AwaitIncoming(l.ctx) != nil { // the mailbox holds further messages
		return
	}
	o := Offer{Address: address, At: m.Received, Via: m.Via}
	if l.offers.put(l.ctx, m.From, o, l.offerToReplace(m.From)) == nil {
		l.emit(Event{Kind: EventOffer, Peer: m.From, Address: address})
	}
}

// offerToReplace returns the peer with the oldest offer if the table is full
// and has no offer of a peer yet, or else "".
func (l *Library) offerToReplace(from peer.ID) (oldest peer.ID) {
	offers := l.offers.all()
	if _, known := offers[from]; known || len(offers) < MaxOffers {
		return ""
	}
	for id, o := range offers {
		if oldest == "" || o.At.Before(offers[oldest].At) {
			oldest = id
		}
	}
	return oldest
}

// dropOffer removes the offer of a peer. After an error, the offer stays.
func (l *Library) dropOffer(ctx context.Context, id peer.ID) error {
	if l.offersLoaded.isRead() {
		l.setScanned(time.Now()) // so that a restart does not find the message again
	}
	return l.offers.remove(ctx, id)
}
