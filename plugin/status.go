package plugin

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/space"
)

// offersWithin is how long Status waits for what it tells of offers.
const offersWithin = time.Second

// Status is how the daemon is.
type Status struct {
	Peer      peer.ID
	Username  string
	Started   time.Time
	Peers     int // connected
	NPP       int // of them, that speak npp's protocols
	Pubsub    bool
	Messages  message.Stats
	Disk      space.State // of the datastore
	Stores    []StoreStatus
	Databases int         // that are here, lists of writers left out
	Fetching  int         // databases that are not here yet
	Full      []string    // addresses of those that take nothing of others because of a quota
	Others    orbit.Usage // of all databases that have a quota
	NotLive   []string    // addresses of databases whose topics are not subscribed to although they are replicated

	Companions int // that are followed
	Online     int // of them, that are connected
	Followers  int
	Pieces     int // of companions, that are here

	Attention []Attention
}

// StoreStatus is how one of the library's own stores is.
type StoreStatus struct {
	library.Store
	Entries uint64
	Keys    uint64
	Open    int       // peers that have it open
	InStep  time.Time // when some peer was in step with it last; zero for never
}

// Attention is something that is not as it should be.
type Attention struct {
	About  string // the name or address of a database, "companion", "peer", "offer", "config", "messages" or "disk"
	Name   string // of the companion or peer
	Err    error
	Advice string // what to do; "" where the error says enough
}

// Status returns how the daemon is, and what needs attention.
func (d *Daemon) Status(ctx context.Context) (Status, error) {
	s := Status{Peer: d.node.Identity, Started: d.started}
	for _, p := range d.Swarm.Peers() {
		s.Peers++
		if p.NPP {
			s.NPP++
		}
	}
	if err := d.failing(); err != nil {
		s.attend("disk", "", fmt.Errorf("the last write failed: %w", err), diskAdvice(err))
	}
	advice, err := d.Advice()
	if err != nil {
		return s, err
	}
	for _, a := range advice {
		s.attend("config", "", errors.New(a), "")
	}
	cfg, err := d.node.Repo.Config()
	if err != nil {
		return s, err
	}
	if s.Pubsub = !pubsubOff(cfg); !s.Pubsub {
		s.attend("config", "", errors.New("pubsub is off: databases are not replicated, and nothing comes from peers without npp"),
			"ipfs config --json Pubsub.Enabled true, and restart the daemon")
	}
	if s.Messages, err = d.Messages.Stats(ctx); err != nil {
		return s, err
	}
	s.attendMessages()
	d.statusOfDisk(&s)
	for _, k := range d.Swarm.Kept() {
		if !k.Connected && !d.follows(ctx, k.ID) {
			s.attend("peer", k.ID.String(), errors.New("its connection is kept, and it is not connected"), "ipfs npp connect "+k.ID.String()+" shows what was tried")
		}
	}
	return s, d.statusOfDatabases(ctx, &s)
}

// failing returns the error of the last write to one of the stores, or nil
// where the last write to each store succeeded.
func (d *Daemon) failing() error {
	for _, s := range d.stores {
		if err := s.Failing(); err != nil {
			return err
		}
	}
	return nil
}

// diskAdvice returns what the operator can do about a write that failed.
func diskAdvice(err error) string {
	cause := "mend that"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		cause = "make room on the disk"
	}
	return cause + " and restart the daemon: its datastore may refuse all writes until then"
}

func (d *Daemon) statusOfDisk(s *Status) {
	s.Disk = d.disk.State()
	advice := fmt.Sprintf("%s, or lower %s.Disk.FreeBytes (%d now)", space.Advice, configPath, s.Disk.Floor)
	incoming, own := d.disk.CheckIncoming(), d.disk.CheckWrite(0)
	switch {
	case own != nil:
		s.attend("disk", "", fmt.Errorf("%w: nothing is written, and nothing is accepted from other peers", own), advice)
	case incoming != nil:
		s.attend("disk", "", fmt.Errorf("%w: nothing is accepted from other peers", incoming), advice)
	case s.Disk.Err != nil && !errors.Is(s.Disk.Err, errors.ErrUnsupported):
		s.attend("disk", "", s.Disk.Err, "look at that disk: npp does not notice when it gets full")
	}
}

// follows reports whether a peer is a companion, who may be away.
func (d *Daemon) follows(ctx context.Context, id peer.ID) bool {
	if d.library == nil {
		return false
	}
	_, err := d.library.Companion(ctx, id)
	return err == nil
}

func (s *Status) attend(about, name string, err error, advice string) {
	s.Attention = append(s.Attention, Attention{about, name, err, advice})
}

// attendMessages tells of messages that were refused.
func (s *Status) attendMessages() {
	if n := s.Messages.Refused; n > 0 {
		s.attend("messages", "", fmt.Errorf("%s refused since the start", Quantity(n, "message was", "messages were")), "ipfs npp messages stat")
	}
}

// attendDatabase tells of a database that cannot be replicated, and of entries
// that were refused.
func (s *Status) attendDatabase(d orbit.Listed, status replicate.Status) {
	switch n := len(status.Refused); {
	case status.State == replicate.Failed:
		s.attend(d.Address, d.Name, status.Err, "")
	case errors.Is(status.Full, orbit.ErrFull):
		s.Full = append(s.Full, d.Address)
		s.attend(d.Address, d.Name, fmt.Errorf("it takes nothing of others: %w", status.Full), replicate.QuotaAdvice)
	case n > 0:
		s.attend(d.Address, d.Name, fmt.Errorf("%s refused, the last: %w", Quantity(n, "entry was", "entries were"), status.Refused[n-1].Err), "ipfs npp db doctor "+d.Address)
	}
}

// attendOffers tells of the offers of libraries: of at least so many where there
// may be more.
func (s *Status) attendOffers(n int, more bool) {
	if n == 0 {
		return
	}
	text := Quantity(n, "peer offers its library", "peers offer their libraries")
	if more {
		text = "at least " + text
	}
	s.attend("offer", "", errors.New(text), "ipfs npp companions ls --offers")
}

// Quantity returns a number with its word: one for 1, and more for any other.
func Quantity[N int | int64 | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func (d *Daemon) statusOfDatabases(ctx context.Context, s *Status) error {
	o, err := d.Orbit()
	if err != nil {
		s.attend("databases", "", err, "mend that and restart the daemon, the rest of npp works")
		return nil
	}
	if d.replicatorErr != nil {
		s.attend("databases", "", fmt.Errorf("they are not replicated: %w", d.replicatorErr), "")
	}
	own := make(map[string]bool) // these are described apart
	if d.library != nil {
		for _, address := range d.library.Addresses() {
			own[address] = true
		}
	}
	s.Others = o.Usage()
	for listed, err := range o.Databases(ctx) {
		if err != nil {
			return err
		}
		if listed.Access {
			continue
		}
		s.Databases++
		if d.replicator == nil || own[listed.Address] {
			continue
		}
		status, err := d.replicator.Status(ctx, listed.Address)
		if err != nil {
			continue // it is being dropped
		}
		s.attendDatabase(listed, status)
	}
	if d.replicator != nil {
		s.Fetching = len(d.replicator.Pending())
		d.statusOfTopics(s)
	}
	if d.libraryErr != nil {
		s.attend("library", "", d.libraryErr, "mend that and restart the daemon, the rest of npp works")
		return nil
	}
	d.statusOfLibrary(ctx, s)
	return nil
}

// statusOfTopics adds which databases are not live.
func (d *Daemon) statusOfTopics(s *Status) {
	var why error
	if s.NotLive, why = d.replicator.NotLive(); why == nil {
		return
	}
	s.attend("databases", "", fmt.Errorf("new entries come late or not at all to those that are not live (%d): %w", len(s.NotLive), why),
		replicate.FreeTopics+"; ipfs npp db ls shows which are not live")
}

func (d *Daemon) statusOfLibrary(ctx context.Context, s *Status) {
	for _, store := range d.library.Stores(ctx) {
		st := StoreStatus{Store: store}
		if store.Err != nil {
			s.attend(store.Name, "", store.Err, "")
		}
		if store.DB != nil {
			d.describeStore(ctx, &st, s)
		}
		s.Stores = append(s.Stores, st)
	}
	// Where it cannot be read, that is what is wrong with the store.
	s.Username, _ = d.library.Username(ctx)
	for _, c := range d.library.Companions(ctx) {
		if c.Follows {
			s.Followers++
		}
		if !c.Companion {
			continue
		}
		s.Companions++
		s.Pieces += c.Pieces
		if c.Connected {
			s.Online++
		}
		for _, t := range c.Troubles {
			if errors.Is(t.Err, space.ErrFull) {
				continue // said once, of the disk
			}
			s.attend("companion", c.Peer.String(), fmt.Errorf("%s: %w", t.Store, t.Err), "ipfs npp companions ls")
		}
		switch {
		case c.NameNow == c.Name:
		case c.Name == "":
			s.attend("companion", c.Peer.String(), fmt.Errorf("it was added without a name and is called %q now", c.NameNow), "ipfs npp companions add "+c.Peer.String()+" takes that name")
		default:
			s.attend("companion", c.Peer.String(), fmt.Errorf("%q is called %q now", c.Name, c.NameNow), "ipfs npp companions add "+c.Peer.String()+" takes that name")
		}
	}
	for key, why := range d.library.Invalid() {
		s.attend(library.CompanionsName, "", fmt.Errorf("%.100s names no companion: %s", key, why), "ipfs npp db del companions "+key)
	}
	brief, cancel := context.WithTimeout(ctx, offersWithin)
	defer cancel()
	offers, err := d.library.Offers(brief)
	s.attendOffers(len(offers), err != nil)
}

func (d *Daemon) describeStore(ctx context.Context, st *StoreStatus, s *Status) {
	stats, err := st.DB.Stats(ctx)
	if err != nil {
		s.attend(st.Name, "", err, "")
		return
	}
	st.Entries, st.Keys = stats.Entries, stats.Keys
	if d.replicator == nil {
		return
	}
	status, err := d.replicator.Status(ctx, st.DB.Address())
	if err != nil && !errors.Is(err, orbit.ErrUnknown) {
		s.attend(st.Name, "", err, "")
	}
	if status.State == replicate.Closed {
		s.attend(st.Name, "", errors.New("it is not replicated: it was closed"), "ipfs npp db open "+st.DB.Address())
	}
	for _, p := range status.Peers {
		if p.Open {
			st.Open++
		}
		if p.InStep.After(st.InStep) {
			st.InStep = p.InStep
		}
	}
}
