package commands

import (
	"fmt"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/daemon"
)

// statusOutput is the output of `npp status`.
type statusOutput struct {
	Peer       string            `json:"peer"`
	Username   string            `json:"username,omitempty"`
	Version    string            `json:"version"`
	Since      time.Time         `json:"since"`
	Peers      int               `json:"peers"` // connected
	NPP        int               `json:"npp"`   // connected peers with npp
	Pubsub     bool              `json:"pubsub"`
	Stores     []storeStatusLine `json:"stores"`
	Databases  int               `json:"databases"`
	Fetching   int               `json:"fetching"` // databases whose manifest is not here yet
	Full       []string          `json:"full"`     // addresses of databases whose quota is used up
	Others     othersStatus      `json:"others"`
	Companions companionsStatus  `json:"companions"`
	Messages   messagesStatus    `json:"messages"`
	Disk       diskStatus        `json:"disk"`
	Attention  []attentionLine   `json:"attention"`
}

type storeStatusLine struct {
	storeLine
	Entries uint64     `json:"entries"`
	Keys    uint64     `json:"keys"`
	Open    int        `json:"open"` // peers that have it open
	InStep  *time.Time `json:"inStep,omitempty"`
}

type companionsStatus struct {
	Followed  int `json:"followed"`
	Online    int `json:"online"`
	Followers int `json:"followers"`
	Pieces    int `json:"pieces"`
}

type messagesStatus struct {
	DirectBytes uint64 `json:"directBytes"`
	PubsubBytes uint64 `json:"pubsubBytes"`
	MaxBytes    uint64 `json:"maxBytes"` // for direct ones
	Refused     uint64 `json:"refused"`
	// StreamsReset counts the pubsub streams that were reset since the start
	// because their peers did not read.
	StreamsReset uint64 `json:"streamsReset"`
}

// othersStatus is the space that all databases that others write take together,
// in bytes of blocks.
type othersStatus struct {
	Bytes    uint64 `json:"bytes"`
	Pending  uint64 `json:"waiting"`  // pending entries, which bytes does not contain
	MaxBytes uint64 `json:"maxBytes"` // the quota for both
}

// diskStatus is the free space of the datastore's disk, in bytes.
type diskStatus struct {
	Free    uint64 `json:"free"`
	Floor   uint64 `json:"floor"`   // below it, data from other peers is refused
	Reserve uint64 `json:"reserve"` // below it, every write is refused
	Known   bool   `json:"known"`   // the system tells the free space
}

// attentionLine is a problem.
type attentionLine struct {
	About  string `json:"about"`
	Name   string `json:"name,omitempty"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

var statusCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show how the daemon is doing, and what needs attention.",
		ShortDescription: `
Prints the peer ID and username, the number of connected peers, the databases
of your library, your companions, messages, disk space and, as "attention",
every problem with what to do about it.

A library database is "open" at a peer that replicates it, and "in sync" when
it was last found equal to a peer's copy.

  > ipfs npp status
  peer        12D3KooWCP9aGS… (alice), since 2h3m0s
  peers       5 connected, 2 with npp
  pieces      120 items, open at 2 peers, in sync 3s ago
  …
  attention   nothing
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		s, err := d.Status(req.Context)
		if err != nil {
			return err
		}
		return res.Emit(newStatusOutput(s))
	},
	Type:     statusOutput{},
	Encoders: encodeText((*statusOutput).text),
}

func newStatusOutput(s daemon.Status) *statusOutput {
	out := &statusOutput{
		Peer: s.Peer.String(), Username: s.Username, Version: daemon.Version, Since: s.Started,
		Peers: s.Peers, NPP: s.NPP, Pubsub: s.Pubsub, Databases: s.Databases, Fetching: s.Fetching,
		Full:       append([]string{}, s.Full...),
		Others:     othersStatus{s.Others.Entries, s.Others.Pending, s.Others.Quota},
		Stores:     []storeStatusLine{},
		Companions: companionsStatus{s.Companions, s.Online, s.Followers, s.Pieces},
		Messages:   messagesStatus{s.Messages.DirectBytes, s.Messages.PubsubBytes, s.Messages.Limits.StoreBytes, s.Messages.Refused, s.Messages.Dropped.Streams},
		Disk:       diskStatus{s.Disk.Free, s.Disk.Floor, s.Disk.Reserve, s.Disk.Err == nil},
		Attention:  []attentionLine{},
	}
	for _, st := range s.LibraryDatabases {
		l := storeStatusLine{storeLine: newStoreLine(st.Database), Entries: st.Entries, Keys: st.Keys, Open: st.Open}
		if !st.InSync.IsZero() {
			l.InStep = &st.InSync
		}
		out.Stores = append(out.Stores, l)
	}
	for _, a := range s.Attention {
		text, advice := a.Err.Error(), a.Advice
		if advice == "" {
			text, advice, _ = strings.Cut(dbError(a.Err, a.About).Error(), "; hint: ")
		}
		out.Attention = append(out.Attention, attentionLine{a.About, a.Name, text, advice})
	}
	return out
}

func (s *statusOutput) text() string {
	t := table{width: 10}
	name := ""
	if s.Username != "" {
		name = " (" + s.Username + ")"
	}
	t.row("peer", fmt.Sprintf("%s%s, started %s ago", s.Peer, name, since(s.Since)))
	t.row("peers", fmt.Sprintf("%d connected, %d with npp", s.Peers, s.NPP))
	for _, st := range s.Stores {
		t.row(st.Name, st.text())
	}
	c := s.Companions
	t.row("following", fmt.Sprintf("%s, %d online, with %s; %s you", quantity(c.Followed, "companion", "companions"), c.Online,
		quantity(c.Pieces, "piece", "pieces"), quantity(c.Followers, "peer follows", "peers follow")))
	t.row("databases", s.databasesText())
	t.row("others", fmt.Sprintf("%s of %s used by databases of others", size(s.Others.Bytes+s.Others.Pending), size(s.Others.MaxBytes)))
	t.row("messages", fmt.Sprintf("%s of %s used, and %s from pubsub", size(s.Messages.DirectBytes), size(s.Messages.MaxBytes), size(s.Messages.PubsubBytes)))
	if n := s.Messages.StreamsReset; n > 0 {
		t.row("pubsub", quantity(n, "stream was", "streams were")+" reset because the peer did not read")
	}
	if s.Disk.Known {
		t.row("disk", fmt.Sprintf("%s free; data from other peers needs %s", size(s.Disk.Free), size(s.Disk.Floor)))
	} else {
		t.row("disk", "the free space is unknown")
	}
	if len(s.Attention) == 0 {
		t.row("attention", "nothing")
	}
	for _, a := range s.Attention {
		about := a.About
		if a.Name != "" {
			about += " " + a.Name
		}
		t.row("attention", about+": "+a.Text)
		t.optional("", a.Advice)
	}
	return t.String()
}

func (l *storeStatusLine) text() string {
	if l.Error != "" {
		return "see below"
	}
	text := fmt.Sprintf("%s, open at %s", quantity(l.Keys, "item", "items"), quantity(l.Open, "peer", "peers"))
	if l.InStep != nil {
		text += ", in sync " + ago(l.InStep)
	}
	return text
}

func (s *statusOutput) databasesText() string {
	text := quantity(s.Databases, "database", "databases")
	if s.Fetching > 0 {
		text += fmt.Sprintf(", %d being fetched", s.Fetching)
	}
	if len(s.Full) > 0 {
		text += fmt.Sprintf(", %d full", len(s.Full))
	}
	return text
}
