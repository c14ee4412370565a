package library

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/swarm"
)

const (
	// MaxCompanions is how many peers are followed.
	MaxCompanions = 256

	// companionRoom is what the pieces and counts of a companion may take in memory,
	// and companionsRoom what those of all may, in bytes.
	companionRoom  = 64 << 20
	companionsRoom = 512 << 20

	// rememberPause is the least time between two changes of the record of a
	// companion that the companion itself causes: the store keeps each.
	rememberPause = time.Hour

	// maxProfileValue is the longest value of a profile that is looked at, in bytes.
	maxProfileValue = 4 << 10

	// changePause is the least time between two changes of what is followed of a
	// companion.
	changePause = 2 * time.Second
)

var (
	// ErrNoStore says that a peer shows no user store, and offered none.
	ErrNoStore = errors.New("the peer shows no user store and offered none")
	// ErrNotCompanion says that a peer is no companion.
	ErrNotCompanion = errors.New("the peer is no companion")
	// ErrSelf says that a peer is this one itself.
	ErrSelf = swarm.ErrSelf

	errTooMany = fmt.Errorf("%d peers are followed already, which is the limit", MaxCompanions)
)

// Companion is a peer that is followed, or that follows.
type Companion struct {
	Peer       peer.ID
	Name       string // that it was added under, or its name at present where it is no companion
	NameNow    string // that it has now, "" if that is not known
	User       string // address of its user store; "" of no companion
	Companion  bool   // it is followed
	Follows    bool   // it said that it follows us
	Connected  bool
	Pieces     int       // that are here and are found
	Ready      bool      // its pieces are here, as far as they were fetched
	InStep     time.Time // when its pieces were in step with a peer last; zero for never
	InStepWith peer.ID   // that peer, which is not the companion where that does not have its pieces open
	PiecesAddr string    // address of its pieces; "" if that is not known
	CountsAddr string    // address of its practice counts; "" if that is not known

	// Incomplete are the stores of which not all is here and read yet. Err wraps
	// [ErrNotHere], [ErrPartial] or [ErrBeingRead], or says that there is no such store.
	Incomplete []StoreTrouble
	Troubles   []StoreTrouble
	Broken     bool // a trouble keeps its user store or its pieces from being followed

	// proven is when it was proven last that all is here of its user store, and of its
	// pieces.
	proven struct{ user, pieces time.Time }
}

// Whole reports whether what the companion's user store says, and its pieces, are here
// as a peer had them at a time or later.
func (c Companion) Whole(since time.Time) bool {
	for _, s := range c.Incomplete {
		if s.Store != PracticeName {
			return false
		}
	}
	return !c.Broken && !c.proven.user.Before(since) && !c.proven.pieces.Before(since)
}

// StoreTrouble is what is wrong with a store of a companion.
type StoreTrouble struct {
	Store   string // its name among the stores of a library
	Address string
	Err     error
}

// Nearby is a peer with npp that is connected.
type Nearby struct {
	Peer      peer.ID
	Name      string // as it calls itself; "" if it does not
	User      string // address of its user store
	Companion bool
	Follows   bool
}

// AddCompanion follows a peer from now on: it asks the peer for its user store or,
// where the peer does not speak the protocol for that, takes the store that it
// offered by a message. It returns once that is on disk; the stores of the peer
// come in the background, see [Library.Companion]. One that is a companion is asked
// again, and goes by its present name from then on; again is true then.
//
// The error wraps [ErrSelf], [ErrNoStore], [orbit.ErrLegacyAddress] or what
// [swarm.Swarm.Connect] returns.
func (l *Library) AddCompanion(ctx context.Context, target peer.AddrInfo) (again bool, err error) {
	id := target.ID
	if id == l.self {
		return false, ErrSelf
	}
	// What is added before the companions are read would be taken for one of them.
	if err := l.Wait(ctx); err != nil {
		return false, err
	}
	user, name, err := l.userOf(ctx, target)
	if err != nil {
		return false, err
	}
	kv, err := l.keyValue(ctx, companionsAt)
	if err != nil {
		return false, err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	records, err := l.records(ctx)
	if err != nil {
		return false, err
	}
	if r, ok := records[user]; ok && r.NodeID != id.String() && !l.belongs(ctx, user, id) {
		return false, fmt.Errorf("%w: the peer shows the user store of companion %.80q as its own; try again when that is here, or remove that companion", ErrInvalid, r.NodeID)
	}
	var former []string // other user stores of the peer
	for address, r := range records {
		if r.NodeID != id.String() {
			continue
		}
		again = true
		if address != user {
			former = append(former, address)
		}
	}
	if !again && len(records) >= MaxCompanions {
		return false, errTooMany
	}
	doc := map[string]any{}
	if item, err := kv.Get(ctx, user); err == nil {
		if doc, err = mapOf(item.Value); err != nil {
			doc = map[string]any{}
		}
	}
	doc[KeyNodeID] = id.String()
	if name != "" {
		doc[KeyUsername] = name
	}
	if _, err := kv.Put(ctx, user, doc); err != nil {
		return again, err
	}
	for _, address := range former {
		if _, err := kv.Delete(ctx, address); err != nil {
			return again, err
		}
	}
	if err := l.dropOffer(ctx, id); err != nil {
		log.Warnw("an offer that was taken up stays", "peer", id, "err", err)
	}
	if c := l.companionOf(id); c != nil {
		if name != "" {
			c.setName(name)
		}
		c.mu.Lock()
		clear(c.trouble)
		c.mu.Unlock()
		signal(c.again)
		if l.cfg.Replicator != nil { // whether all is here is found out now
			for _, address := range []string{c.user, c.pieces.address()} {
				l.cfg.Replicator.Ask(address)
			}
		}
	}
	return again, nil
}

// belongs reports whether a user store that is here, and whole, says it is that of a
// peer.
func (l *Library) belongs(ctx context.Context, user string, id peer.ID) bool {
	if !l.isHere(user) || l.isPartial(user) {
		return false
	}
	db, err := l.cfg.Orbit.Open(ctx, user, orbit.OpenOptions{})
	if err != nil {
		return false
	}
	kv, err := db.KeyValue()
	if err != nil {
		return false
	}
	item, err := kv.Get(ctx, KeyNodeID)
	if err != nil {
		return false
	}
	text, _ := item.Value.Text()
	return isPeer(text, id)
}

// userOf returns the address of a peer's user store, and the peer's name.
func (l *Library) userOf(ctx context.Context, target peer.AddrInfo) (user, name string, err error) {
	shown, err := l.ask(ctx, target)
	if err == nil && shown.User != "" {
		user, name = shown.User, shown.Username
	} else {
		if err := l.awaitOffers(ctx); err != nil {
			return "", "", err
		}
		l.mu.Lock()
		offer, ok := l.offers[target.ID]
		l.mu.Unlock()
		followed := l.companionOf(target.ID)
		switch {
		case ok && (followed == nil || followed.user != offer.Address):
			user = offer.Address
		case followed != nil && (err == nil || errors.Is(err, card.ErrNoProtocol)):
			user = followed.user
			_, name = followed.names()
		case err != nil && !errors.Is(err, card.ErrNoProtocol):
			return "", "", err
		default:
			return "", "", ErrNoStore
		}
	}
	if _, err := orbit.ParseAddress(user); err != nil {
		return "", "", fmt.Errorf("user store %.200q: %w", user, err)
	}
	if l.isOwn(ctx, user) {
		return "", "", fmt.Errorf("%w: the peer shows a store of ours as its own", ErrInvalid)
	}
	return user, checkedName(name), nil
}

// companionOf returns the companion that a peer is, or nil.
func (l *Library) companionOf(id peer.ID) *companion {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.companions {
		if c.id == id {
			return c
		}
	}
	return nil
}

// ask connects to a peer and asks for its card.
func (l *Library) ask(ctx context.Context, target peer.AddrInfo) (card.Card, error) {
	if _, err := l.cfg.Swarm.Connect(ctx, target); err != nil {
		return card.Card{}, err
	}
	return l.cards.Exchange(ctx, target.ID)
}

// RemoveCompanion ends to follow a peer: its stores are not replicated any more, and
// dropped where they came for that alone, and its connection is not kept. It returns
// when that is done. Of a peer that is no companion and offered its user store, the
// offer is forgotten. The error wraps [ErrNotCompanion].
func (l *Library) RemoveCompanion(ctx context.Context, id peer.ID) error {
	kv, err := l.keyValue(ctx, companionsAt)
	if err != nil {
		return err
	}
	records, err := l.records(ctx)
	if err != nil {
		return err
	}
	var running []*companion
	for _, c := range l.byPeer() {
		if c.id == id {
			running = append(running, c)
		}
	}
	found := false
	l.writing.Lock()
	for user, r := range records {
		if r.NodeID == id.String() {
			found = true
			if _, err = kv.Delete(ctx, user); err != nil {
				break
			}
		}
	}
	l.writing.Unlock()
	if err != nil {
		return err
	}
	if !found {
		if err := l.awaitOffers(ctx); err != nil {
			return err
		}
	}
	l.mu.Lock()
	_, offered := l.offers[id]
	l.mu.Unlock()
	switch {
	case !found && !offered:
		return ErrNotCompanion
	case !found:
		return l.dropOffer(ctx, id)
	}
	for _, c := range running {
		select {
		case <-c.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Companions returns the peers that are followed, and then those that only follow,
// by name and peer ID.
func (l *Library) Companions(ctx context.Context) []Companion {
	l.mu.Lock()
	followers := maps.Clone(l.followers)
	l.mu.Unlock()
	var list []Companion
	for _, c := range l.byPeer() {
		_, follows := followers[c.id]
		list = append(list, l.describe(ctx, c, follows))
		delete(followers, c.id)
	}
	for id, f := range followers {
		name := cmp.Or(l.shownName(id), f.Name)
		list = append(list, Companion{Peer: id, Name: name, NameNow: name, Follows: true, Connected: l.Connected(id)})
	}
	slices.SortFunc(list, func(a, b Companion) int {
		return cmp.Or(-compareBools(a.Companion, b.Companion), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Peer, b.Peer))
	})
	return list
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Companion returns what is known of a companion, or [ErrNotCompanion].
func (l *Library) Companion(ctx context.Context, id peer.ID) (Companion, error) {
	l.mu.Lock()
	_, follows := l.followers[id]
	l.mu.Unlock()
	c := l.companionOf(id)
	if c == nil {
		return Companion{}, ErrNotCompanion
	}
	return l.describe(ctx, c, follows), nil
}

// describe returns what is known of a companion. It looks at each store in this order:
// when it was in step, whether all that is here was read, and what was read. So what is
// called whole has all that the peer had.
func (l *Library) describe(ctx context.Context, c *companion, follows bool) Companion {
	remembered, now := c.names()
	d := Companion{
		Peer: c.id, Name: remembered, NameNow: now, User: c.user,
		Companion: true, Follows: follows, Connected: l.Connected(c.id),
	}
	d.proven.user = proven(l.statusOf(ctx, c.user), c.id)
	userIncomplete := l.incomplete(ctx, &c.profile, c.user)
	_, userErr := c.wanted()
	c.mu.Lock()
	d.PiecesAddr, _ = c.fields[KeyPieces].Text()
	d.CountsAddr, _ = c.fields[KeyPractice].Text()
	isRead := c.fields != nil
	if c.counts.isFull() {
		d.Troubles = append(d.Troubles, StoreTrouble{PracticeName, d.CountsAddr, errors.New("there is no room for all of its counts")})
	}
	if err := l.cfg.Disk.CheckIncoming(); err != nil {
		d.Troubles = append(d.Troubles, StoreTrouble{PiecesName, d.PiecesAddr, fmt.Errorf("nothing is fetched: %w", err)})
	}
	if err := c.unsearched(); err != nil {
		d.Troubles = append(d.Troubles, StoreTrouble{PiecesName, d.PiecesAddr, err})
	}
	for _, t := range []StoreTrouble{{UserName, c.user, userErr}, {PiecesName, d.PiecesAddr, nil}, {PracticeName, d.CountsAddr, nil}} {
		if t.Err = cmp.Or(t.Err, c.trouble[t.Store]); t.Err != nil {
			d.Troubles = append(d.Troubles, t)
			d.Broken = d.Broken || t.Store != PracticeName
		}
	}
	c.mu.Unlock()
	pieces := l.statusOf(ctx, d.PiecesAddr)
	d.InStepWith, d.InStep = inStep(pieces, c.id)
	d.proven.pieces = proven(pieces, c.id)
	d.note(UserName, c.user, userIncomplete)
	if isRead && userErr == nil {
		d.note(PiecesName, d.PiecesAddr, l.incomplete(ctx, &c.pieces, d.PiecesAddr))
		if d.CountsAddr != "" {
			d.note(PracticeName, d.CountsAddr, l.incomplete(ctx, &c.practice, d.CountsAddr))
		}
	}
	d.Ready = c.pieces.isRead()
	d.Pieces, _ = c.index.Len()
	return d
}

// note adds a store that is incomplete, if err is not nil and nothing is wrong with it.
func (c *Companion) note(store, address string, err error) {
	isWrong := slices.ContainsFunc(c.Troubles, func(t StoreTrouble) bool { return t.Store == store })
	if err != nil && !isWrong {
		c.Incomplete = append(c.Incomplete, StoreTrouble{store, address, err})
	}
}

// Connected reports whether a peer is connected.
func (l *Library) Connected(id peer.ID) bool {
	return len(l.cfg.Host.Network().ConnsToPeer(id)) > 0
}

// Invalid returns the records of the store of companions that name no companion,
// with what is wrong with each.
func (l *Library) Invalid() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.invalid)
}

// NearbyPeers returns the peers with npp that are connected, by peer ID.
func (l *Library) NearbyPeers() []Nearby {
	followed := make(map[peer.ID]bool)
	for _, c := range l.byPeer() {
		followed[c.id] = true
	}
	var list []Nearby
	for id, c := range l.cards.Cards() {
		list = append(list, Nearby{id, checkedName(c.Username), c.User, followed[id], c.Follows})
	}
	slices.SortFunc(list, func(a, b Nearby) int { return cmp.Compare(a.Peer, b.Peer) })
	return list
}

// Providers returns the companions that have a piece with a CID.
func (l *Library) Providers(of cid.Cid) []peer.ID {
	canonical := piece.CanonicalCID(of)
	var ids []peer.ID
	for _, c := range l.byPeer() {
		if c.index.Has(canonical) {
			ids = append(ids, c.id)
		}
	}
	return ids
}
