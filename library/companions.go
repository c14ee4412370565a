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
	"github.com/newpieceplease/npp/library/companion"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/swarm"
)

const (
	// MaxCompanions is the maximum number of companions.
	MaxCompanions = 256

	// companionBudget bounds the memory for the pieces and counts of a
	// companion, and companionsBudget for those of all companions, in bytes.
	companionBudget  = 64 << 20
	companionsBudget = 512 << 20

	// rememberPause is the minimum time between two changes of a record that
	// the companion causes. Each change adds an entry to the companions
	// database.
	rememberPause = time.Hour

	// maxProfileValue is the longest value of a companion's profile that is
	// read, in bytes.
	maxProfileValue = 4 << 10
)

var (
	// ErrNoUserDatabase is returned for a peer that neither announces nor
	// offered a user database.
	ErrNoUserDatabase = errors.New("the peer announces no user database and offered none")
	// ErrNotCompanion is returned for a peer that is not a companion.
	ErrNotCompanion = errors.New("the peer is not a companion")
	// ErrSelf is returned for the daemon's own peer ID.
	ErrSelf = swarm.ErrSelf
	// ErrNotHere is returned for a database of which nothing is here yet.
	ErrNotHere = companion.ErrNotHere
	// ErrIncomplete is returned for a database that was not in sync with any
	// peer yet.
	ErrIncomplete = companion.ErrIncomplete
	// ErrBeingRead is returned for a database that is being read into memory.
	ErrBeingRead = errors.New("being read")

	errTooMany  = fmt.Errorf("there are %d companions already, which is the limit", MaxCompanions)
	errNotNamed = errors.New("its user database names none")
)

// Companion describes a companion or a follower.
type Companion struct {
	Peer         peer.ID
	Name         string // in the companion's record; the current name of a follower
	CurrentName  string // current name, "" if unknown
	User         string // address of its user database; "" for a follower
	IsCompanion  bool   // whether it is a companion
	Follows      bool   // whether it is a follower
	Connected    bool
	Pieces       int       // number of pieces that can be searched
	Ready        bool      // whether the pieces that are here were read
	InSync       time.Time // when its pieces were last in sync with a peer; zero for never
	InSyncWith   peer.ID   // that peer; not the companion if it does not have its pieces open
	PiecesAddr   string    // address of its pieces database, "" if unknown
	PracticeAddr string    // address of its practice database, "" if unknown

	// Incomplete are the databases that are not complete and read yet. Err
	// wraps [ErrNotHere], [ErrIncomplete] or [ErrBeingRead], or says that there
	// is no such database.
	Incomplete []DatabaseProblem
	Problems   []DatabaseProblem
	Broken     bool // whether its user database or its pieces are not followed because of a problem

	// proven is when the user and pieces databases were last proven to have all
	// entries of a peer.
	proven struct{ user, pieces time.Time }
}

// Complete reports whether the companion's user and pieces databases are
// complete and read, with all entries that a peer had at since or later.
func (c Companion) Complete(since time.Time) bool {
	for _, s := range c.Incomplete {
		if s.Database != PracticeName {
			return false
		}
	}
	return !c.Broken && !c.proven.user.Before(since) && !c.proven.pieces.Before(since)
}

// DatabaseProblem says why a database of a companion is not followed or not
// complete.
type DatabaseProblem struct {
	Database string // PiecesName, UserName or PracticeName
	Address  string
	Err      error
}

// NearbyPeer is a connected peer that supports npp's protocols.
type NearbyPeer struct {
	Peer        peer.ID
	Name        string // on its card, "" if none
	User        string // address of its user database
	IsCompanion bool
	Follows     bool
}

// AddCompanion makes a peer a companion. The address of the user database is on
// the peer's card. If the peer does not support cards, it is the one that the
// peer offered in a message. AddCompanion returns once the companion is
// recorded on disk; its databases are fetched in the background, see
// [Library.Companion]. If the peer is a companion already, its record gets the
// current name and user database, databases that failed are tried again, and
// again is true.
//
// The error wraps [ErrSelf], [ErrNoUserDatabase], [orbit.ErrLegacyAddress] or
// an error of [swarm.Swarm.Connect].
func (l *Library) AddCompanion(ctx context.Context, target peer.AddrInfo) (again bool, err error) {
	id := target.ID
	if id == l.self {
		return false, ErrSelf
	}
	// A record that is added before the companions are read would count as an
	// old one.
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
		return false, fmt.Errorf("%w: the peer announces the user database of companion %.80q as its own; try again when that database is here, or remove that companion", ErrInvalid, r.NodeID)
	}
	var former []string // other user databases of the peer
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
	if !again {
		l.keepBefore(ctx, id)
	}
	if _, err := kv.Put(ctx, user, doc); err != nil {
		l.unkeep(l.ctx, id)
		return again, err
	}
	for _, address := range former {
		if _, err := kv.Delete(ctx, address); err != nil {
			return again, err
		}
	}
	if err := l.dropOffer(ctx, id); err != nil {
		log.Warnw("accepted offer cannot be removed", "peer", id, "err", err)
	}
	if c := l.companionOf(id); c != nil {
		if name != "" {
			c.setName(name)
		}
		c.databases.Retry()
	}
	return again, nil
}

// belongs reports whether a user database is complete and has the peer ID of a
// peer.
func (l *Library) belongs(ctx context.Context, user string, id peer.ID) bool {
	db, err := l.followed.OpenComplete(ctx, user)
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

// userOf returns the address of a peer's user database, and the peer's name.
func (l *Library) userOf(ctx context.Context, target peer.AddrInfo) (user, name string, err error) {
	theirs, err := l.exchangeCards(ctx, target)
	if err == nil && theirs.User != "" {
		user, name = theirs.User, theirs.Username
	} else {
		if err := l.awaitOffers(ctx); err != nil {
			return "", "", err
		}
		offer, ok := l.offers.get(target.ID)
		followed := l.companionOf(target.ID)
		switch {
		case ok && (followed == nil || followed.user != offer.Address):
			user = offer.Address
		case followed != nil && (err == nil || errors.Is(err, card.ErrNoProtocol)):
			user = followed.user
			_, name = followed.usernames()
		case err != nil && !errors.Is(err, card.ErrNoProtocol):
			return "", "", err
		default:
			return "", "", ErrNoUserDatabase
		}
	}
	if _, err := orbit.ParseAddress(user); err != nil {
		return "", "", fmt.Errorf("user database %.200q: %w", user, err)
	}
	if l.isOwn(ctx, user) {
		return "", "", fmt.Errorf("%w: the peer announces one of this daemon's own databases", ErrInvalid)
	}
	return user, checkedName(name), nil
}

// companionOf returns the companion with a peer ID, or nil.
func (l *Library) companionOf(id peer.ID) *companionState {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.companions {
		if c.id == id {
			return c
		}
	}
	return nil
}

// exchangeCards connects to a peer and returns its card.
func (l *Library) exchangeCards(ctx context.Context, target peer.AddrInfo) (card.Card, error) {
	if _, err := l.cfg.Swarm.Connect(ctx, target); err != nil {
		return card.Card{}, err
	}
	return l.cards.Exchange(ctx, target.ID)
}

// RemoveCompanion removes a companion: its auto-opened databases are dropped,
// and the daemon does not reconnect to it any more, unless a person asked for
// that. It returns when that is done. If the peer is not a companion but
// offered its user database, the offer is removed. The error wraps
// [ErrNotCompanion].
func (l *Library) RemoveCompanion(ctx context.Context, id peer.ID) error {
	kv, err := l.keyValue(ctx, companionsAt)
	if err != nil {
		return err
	}
	records, err := l.records(ctx)
	if err != nil {
		return err
	}
	var running []*companionState
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
	_, offered := l.offers.get(id)
	switch {
	case !found && !offered:
		return ErrNotCompanion
	case !found:
		return l.dropOffer(ctx, id)
	}
	for _, c := range running {
		select {
		case <-c.removed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// MarkManual records that a person asked for a database: it stays when its
// companion is removed.
func (l *Library) MarkManual(ctx context.Context, address string) error {
	return l.followed.MarkManual(ctx, address)
}

// Companions returns the companions and then the other followers, each sorted
// by name and peer ID.
func (l *Library) Companions(ctx context.Context) []Companion {
	followers := l.followers.all()
	var list []Companion
	for _, c := range l.byPeer() {
		_, follows := followers[c.id]
		list = append(list, l.describe(ctx, c, follows))
		delete(followers, c.id)
	}
	for id, f := range followers {
		name := cmp.Or(l.cardName(id), f.Name)
		list = append(list, Companion{Peer: id, Name: name, CurrentName: name, Follows: true, Connected: l.Connected(id)})
	}
	slices.SortFunc(list, func(a, b Companion) int {
		return cmp.Or(-compareBools(a.IsCompanion, b.IsCompanion), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Peer, b.Peer))
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

// Companion describes a companion. The error is [ErrNotCompanion].
func (l *Library) Companion(ctx context.Context, id peer.ID) (Companion, error) {
	_, follows := l.followers.get(id)
	c := l.companionOf(id)
	if c == nil {
		return Companion{}, ErrNotCompanion
	}
	return l.describe(ctx, c, follows), nil
}

// describe describes a companion. It looks at each database in this order: when
// it was in sync, whether it was read, and what was read. So a database that it
// describes as complete has all entries that the peer had.
func (l *Library) describe(ctx context.Context, c *companionState, follows bool) Companion {
	recorded, current := c.usernames()
	d := Companion{
		Peer: c.id, Name: recorded, CurrentName: current, User: c.user,
		IsCompanion: true, Follows: follows, Connected: l.Connected(c.id),
	}
	d.proven.user = l.followed.Sync(ctx, c.user, c.id).Proven
	userIncomplete := l.incomplete(ctx, &c.profile, c.user)
	_, userErr := c.profileRecord()
	c.mu.Lock()
	d.PiecesAddr, _ = c.fields[KeyPieces].Text()
	d.PracticeAddr, _ = c.fields[KeyPractice].Text()
	isRead := c.fields != nil
	c.mu.Unlock()
	if c.counts.isFull() {
		d.Problems = append(d.Problems, DatabaseProblem{PracticeName, d.PracticeAddr, errors.New("some counts are left out, because the memory for counts is full")})
	}
	if err := l.cfg.Disk.CheckIncoming(); err != nil {
		d.Problems = append(d.Problems, DatabaseProblem{PiecesName, d.PiecesAddr, fmt.Errorf("nothing is fetched: %w", err)})
	}
	if err := c.indexFull(); err != nil {
		d.Problems = append(d.Problems, DatabaseProblem{PiecesName, d.PiecesAddr, err})
	}
	for _, t := range []DatabaseProblem{{UserName, c.user, userErr}, {PiecesName, d.PiecesAddr, nil}, {PracticeName, d.PracticeAddr, nil}} {
		if t.Err = cmp.Or(t.Err, c.databases.Problem(companion.Kind(t.Database))); t.Err != nil {
			d.Problems = append(d.Problems, t)
			d.Broken = d.Broken || t.Database != PracticeName
		}
	}
	pieces := l.followed.Sync(ctx, d.PiecesAddr, c.id)
	d.InSyncWith, d.InSync, d.proven.pieces = pieces.With, pieces.At, pieces.Proven
	d.note(UserName, c.user, userIncomplete)
	if isRead && userErr == nil {
		d.note(PiecesName, d.PiecesAddr, l.incomplete(ctx, &c.pieces, d.PiecesAddr))
		if d.PracticeAddr != "" {
			d.note(PracticeName, d.PracticeAddr, l.incomplete(ctx, &c.practice, d.PracticeAddr))
		}
	}
	d.Ready = c.pieces.isRead()
	d.Pieces, _ = c.index.Len()
	return d
}

// incomplete returns why a database is not complete and read yet, or nil.
// loaded is the latch of the database.
func (l *Library) incomplete(ctx context.Context, loaded *latch, address string) error {
	if address == "" {
		return errNotNamed
	}
	if err := l.followed.Check(address); err != nil {
		return err
	}
	if !loaded.isUpToDate(ctx, address) {
		return ErrBeingRead
	}
	return nil
}

// note adds an incomplete database, if err is not nil and the database has no
// problem.
func (c *Companion) note(database, address string, err error) {
	hasProblem := slices.ContainsFunc(c.Problems, func(t DatabaseProblem) bool { return t.Database == database })
	if err != nil && !hasProblem {
		c.Incomplete = append(c.Incomplete, DatabaseProblem{database, address, err})
	}
}

// byPeer returns the companions, sorted by peer ID.
func (l *Library) byPeer() []*companionState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.companions), func(a, b *companionState) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.user, b.user))
	})
}

// Connected reports whether a peer is connected.
func (l *Library) Connected(id peer.ID) bool {
	return len(l.cfg.Host.Network().ConnsToPeer(id)) > 0
}

// InvalidRecords returns the invalid records of the companions database: why
// each is invalid, by key.
func (l *Library) InvalidRecords() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.invalid)
}

// NearbyPeers returns the nearby peers, sorted by peer ID.
func (l *Library) NearbyPeers() []NearbyPeer {
	followed := make(map[peer.ID]bool)
	for _, c := range l.byPeer() {
		followed[c.id] = true
	}
	var list []NearbyPeer
	for id, c := range l.cards.Cards() {
		list = append(list, NearbyPeer{id, checkedName(c.Username), c.User, followed[id], c.Follows})
	}
	slices.SortFunc(list, func(a, b NearbyPeer) int { return cmp.Compare(a.Peer, b.Peer) })
	return list
}

// Providers returns the companions whose pieces have a CID.
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
