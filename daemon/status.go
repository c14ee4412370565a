package daemon

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

// offersTimeout bounds the time in which Status collects offers.
const offersTimeout = time.Second

// Status describes a daemon. Texts name commands of `ipfs npp` and settings
// below [SettingsPath].
type Status struct {
	Peer             peer.ID
	Username         string
	Started          time.Time
	Peers            int // connected peers
	NPP              int // connected peers that speak npp's protocols
	Pubsub           bool
	Messages         message.Stats
	Disk             space.State // of the datastore
	LibraryDatabases []LibraryDatabaseStatus
	Databases        int         // without access databases
	Fetching         int         // databases that did not arrive yet
	Full             []string    // addresses of databases that accept no entries from others because of a quota
	Others           orbit.Usage // of all databases with a quota

	Companions int
	Online     int // connected companions
	Followers  int
	Pieces     int // of companions

	Attention []Attention
}

// LibraryDatabaseStatus describes a library database.
type LibraryDatabaseStatus struct {
	library.Database
	Entries uint64
	Keys    uint64
	Open    int       // number of peers that have it open
	InSync  time.Time // when it was last in sync with a peer; zero for never
}

// Attention is a problem that the owner should know of.
type Attention struct {
	About  string // the name or address of a database, "companion", "peer", "offer", "config", "messages" or "disk"
	Name   string // of the companion or peer
	Err    error
	Advice string // what the owner can do, or "" if Err implies it
}

// Status returns the status of the daemon.
func (d *Daemon) Status(ctx context.Context) (Status, error) {
	s := Status{Peer: d.ID(), Started: d.started, Pubsub: d.cfg.Router != nil}
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
	if !s.Pubsub {
		s.attend("config", "", errors.New("pubsub is off: databases are replicated with daemons only, and peers without npp send no messages"),
			"ipfs config --json Pubsub.Enabled true, and restart the daemon")
	}
	if s.Messages, err = d.Messages.Stats(ctx); err != nil {
		return s, err
	}
	s.attendMessages()
	d.statusOfDisk(&s)
	for _, k := range d.Swarm.Kept() {
		if !k.Connected && !d.isCompanion(ctx, k.ID) {
			s.attend("peer", k.ID.String(), errors.New("its connection is kept, and it is not connected"), "ipfs npp connect "+k.ID.String()+" shows what was tried")
		}
	}
	return s, d.statusOfDatabases(ctx, &s)
}

// repairAdvice is for a part that did not start.
const repairAdvice = "fix that and restart the daemon; the rest of npp works"

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

// diskAdvice returns what the owner can do about a failed write.
func diskAdvice(err error) string {
	cause := "fix that"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		cause = "free space on the disk"
	}
	return cause + " and restart the daemon: its datastore may refuse all writes until then"
}

func (d *Daemon) statusOfDisk(s *Status) {
	s.Disk = d.disk.State()
	advice := fmt.Sprintf("%s, or lower %s.Disk.FreeBytes (%d now)", SpaceAdvice, SettingsPath, s.Disk.Floor)
	incoming, own := d.disk.CheckIncoming(), d.disk.CheckWrite(0)
	switch {
	case own != nil:
		s.attend("disk", "", fmt.Errorf("%w: nothing is written, and nothing is accepted from other peers", own), advice)
	case incoming != nil:
		s.attend("disk", "", fmt.Errorf("%w: nothing is accepted from other peers", incoming), advice)
	case s.Disk.Err != nil && !errors.Is(s.Disk.Err, errors.ErrUnsupported):
		s.attend("disk", "", s.Disk.Err, "check the disk: npp cannot tell when it is full")
	}
}

// isCompanion reports whether a peer is a companion.
func (d *Daemon) isCompanion(ctx context.Context, id peer.ID) bool {
	if d.library == nil {
		return false
	}
	_, err := d.library.Companion(ctx, id)
	return err == nil
}

func (s *Status) attend(about, name string, err error, advice string) {
	s.Attention = append(s.Attention, Attention{about, name, err, advice})
}

// attendMessages adds the number of refused messages.
func (s *Status) attendMessages() {
	if n := s.Messages.Refused; n > 0 {
		s.attend("messages", "", fmt.Errorf("%s refused since the start", Quantity(n, "message was", "messages were")), "ipfs npp messages stat")
	}
}

// attendDatabase adds the problem of a database that cannot be replicated, is
// full, or refused entries.
func (s *Status) attendDatabase(d orbit.DatabaseInfo, status replicate.Status) {
	switch n := len(status.Refused); {
	case status.State == replicate.Failed:
		s.attend(d.Address, d.Name, status.Err, "")
	case errors.Is(status.Full, orbit.ErrQuotaFull):
		s.Full = append(s.Full, d.Address)
		s.attend(d.Address, d.Name, fmt.Errorf("it accepts no entries from others: %w", status.Full), QuotaAdvice)
	case n > 0:
		s.attend(d.Address, d.Name, fmt.Errorf("%s refused, the last: %w", Quantity(n, "entry was", "entries were"), status.Refused[n-1].Err), "ipfs npp db doctor "+d.Address)
	}
}

// attendOffers adds the number of offers, as a minimum if there may be more.
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

// Quantity returns n and a noun: one if n is 1, and else more.
func Quantity[N int | int64 | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func (d *Daemon) statusOfDatabases(ctx context.Context, s *Status) error {
	o, err := d.Orbit()
	if err != nil {
		s.attend("databases", "", err, repairAdvice)
		return nil
	}
	if d.replicatorErr != nil {
		s.attend("databases", "", fmt.Errorf("they are not replicated: %w", d.replicatorErr), "")
	}
	own := make(map[string]bool) // library databases have a status of their own
	if d.library != nil {
		for _, address := range d.library.DatabaseAddresses() {
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
			continue // the database is being dropped
		}
		s.attendDatabase(listed, status)
	}
	if d.replicator != nil {
		s.Fetching = len(d.replicator.Fetching())
	}
	if d.libraryErr != nil {
		s.attend("library", "", d.libraryErr, repairAdvice)
		return nil
	}
	d.statusOfLibrary(ctx, s)
	return nil
}

func (d *Daemon) statusOfLibrary(ctx context.Context, s *Status) {
	for _, store := range d.library.Databases(ctx) {
		st := LibraryDatabaseStatus{Database: store}
		if store.Err != nil {
			s.attend(store.Name, "", store.Err, "")
		}
		if store.DB != nil {
			d.describeStore(ctx, &st, s)
		}
		s.LibraryDatabases = append(s.LibraryDatabases, st)
	}
	// If the name cannot be read, the store above has the error.
	s.Username, _ = d.library.Username(ctx)
	for _, c := range d.library.Companions(ctx) {
		if c.Follows {
			s.Followers++
		}
		if !c.IsCompanion {
			continue
		}
		s.Companions++
		s.Pieces += c.Pieces
		if c.Connected {
			s.Online++
		}
		for _, t := range c.Problems {
			if errors.Is(t.Err, space.ErrFull) {
				continue // statusOfDisk adds that once
			}
			s.attend("companion", c.Peer.String(), fmt.Errorf("%s: %w", t.Database, t.Err), "ipfs npp companions ls")
		}
		if c.CurrentName == c.Name {
			continue
		}
		renamed := fmt.Errorf("%q is called %q now", c.Name, c.CurrentName)
		if c.Name == "" {
			renamed = fmt.Errorf("it was added without a name and is called %q now", c.CurrentName)
		}
		s.attend("companion", c.Peer.String(), renamed, "ipfs npp companions add "+c.Peer.String()+" takes that name")
	}
	for key, why := range d.library.InvalidRecords() {
		s.attend(library.CompanionsName, "", fmt.Errorf("%.100s is not the record of a companion: %s", key, why), "ipfs npp db del companions "+key)
	}
	brief, cancel := context.WithTimeout(ctx, offersTimeout)
	defer cancel()
	offers, err := d.library.Offers(brief)
	s.attendOffers(len(offers), err != nil)
}

func (d *Daemon) describeStore(ctx context.Context, st *LibraryDatabaseStatus, s *Status) {
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
		if p.InSync.After(st.InSync) {
			st.InSync = p.InSync
		}
	}
}
