package commands

import (
	"fmt"
	"io"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/plugin"
)

// statusOutput is the output of `npp status`.
type statusOutput struct {
	Peer       string            `json:"peer"`
	Username   string            `json:"username,omitempty"`
	Version    string            `json:"version"`
	Since      time.Time         `json:"since"`
	Peers      int               `json:"peers"` // connected
	NPP        int               `json:"npp"`   // of them, with npp
	Pubsub     bool              `json:"pubsub"`
	Stores     []storeStatusLine `json:"stores"`
	Databases  int               `json:"databases"`
	Fetching   int               `json:"fetching"` // databases that are not here yet
	Full       []string          `json:"full"`     // addresses of databases that take nothing of others because of a quota
	Others     othersStatus      `json:"others"`
	NotLive    []string          `json:"notLive"` // addresses of databases that get what is new late or not at all
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
	// pubsub streams that were reset since the start because their peers did not read
	StreamsReset uint64 `json:"streamsReset"`
}

// othersStatus is what the databases take together that others write, in bytes of
// blocks.
type othersStatus struct {
	Bytes    uint64 `json:"bytes"`
	Pending  uint64 `json:"waiting"`  // entries that wait for others, not among bytes
	MaxBytes uint64 `json:"maxBytes"` // for both
}

// diskStatus is how much of the datastore's disk is free, in bytes.
type diskStatus struct {
	Free    uint64 `json:"free"`
	Floor   uint64 `json:"floor"`   // with less, nothing is accepted from other peers
	Reserve uint64 `json:"reserve"` // with less, nothing is written
	Known   bool   `json:"known"`   // whether the free space can be read
}

// attentionLine is something that is not as it should be.
type attentionLine struct {
	About  string `json:"about"`
	Name   string `json:"name,omitempty"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

var statusCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show how the daemon is, and what needs attention.",
		ShortDescription: `
Prints who the daemon is, how many peers are connected, how the library's own
stores are and who has them, companions, messages, the free space of the disk,
and what is not as it should be, with what to do.

  > ipfs npp status
  peer        12D3KooWCP9aGS… (alice), since 2h3m0s
  peers       5 connected, 2 with npp
  pieces      120 pieces, 2 peers have it open, in step 3s ago
  …
  attention   nothing
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemon(env)
		if err != nil {
			return err
		}
		s, err := d.Status(req.Context)
		if err != nil {
			return err
		}
		return res.Emit(newStatusOutput(s))
	},
	Type: statusOutput{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, s *statusOutput) error {
			_, err := io.WriteString(w, s.text())
			return err
		}),
	},
}

func newStatusOutput(s plugin.Status) *statusOutput {
	out := &statusOutput{
		Peer: s.Peer.String(), Username: s.Username, Version: plugin.Version, Since: s.Started,
		Peers: s.Peers, NPP: s.NPP, Pubsub: s.Pubsub, Databases: s.Databases, Fetching: s.Fetching,
		Full:       append([]string{}, s.Full...),
		Others:     othersStatus{s.Others.Entries, s.Others.Waiting, s.Others.Quota},
		NotLive:    append([]string{}, s.NotLive...),
		Stores:     []storeStatusLine{},
		Companions: companionsStatus{s.Companions, s.Online, s.Followers, s.Pieces},
		Messages:   messagesStatus{s.Messages.DirectBytes, s.Messages.PubsubBytes, s.Messages.Limits.StoreBytes, s.Messages.Refused, s.Messages.Dropped.Streams},
		Disk:       diskStatus{s.Disk.Free, s.Disk.Floor, s.Disk.Reserve, s.Disk.Err == nil},
		Attention:  []attentionLine{},
	}
	for _, st := range s.Stores {
		l := storeStatusLine{storeLine: newStoreLine(st.Store), Entries: st.Entries, Keys: st.Keys, Open: st.Open}
		if !st.InStep.IsZero() {
			l.InStep = &st.InStep
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
	var b strings.Builder
	row := func(name, format string, a ...any) {
		fmt.Fprintf(&b, "%-10s  %s\n", name, printable(fmt.Sprintf(format, a...)))
	}
	name := ""
	if s.Username != "" {
		name = " (" + s.Username + ")"
	}
	row("peer", "%s%s, since %s", s.Peer, name, time.Since(s.Since).Round(time.Second))
	row("peers", "%d connected, %d with npp", s.Peers, s.NPP)
	for _, st := range s.Stores {
		switch {
		case st.Error != "":
			row(st.Name, "see below")
		case st.InStep == nil:
			row(st.Name, "%s, %s it open", quantity(int(st.Keys), "item", "items"), quantity(st.Open, "peer has", "peers have"))
		default:
			row(st.Name, "%s, %s it open, in step %s", quantity(int(st.Keys), "item", "items"), quantity(st.Open, "peer has", "peers have"), ago(st.InStep))
		}
	}
	c := s.Companions
	row("following", "%d followed, %d of them online, with %s; %s you", c.Followed, c.Online,
		quantity(c.Pieces, "piece", "pieces"), quantity(c.Followers, "peer follows", "peers follow"))
	databases := quantity(s.Databases, "database", "databases")
	if s.Fetching > 0 {
		databases += fmt.Sprintf(", %d being fetched", s.Fetching)
	}
	if len(s.NotLive) > 0 {
		databases += fmt.Sprintf(", %d not live", len(s.NotLive))
	}
	if len(s.Full) > 0 {
		databases += fmt.Sprintf(", %d full", len(s.Full))
	}
	row("databases", "%s", databases)
	row("of others", "%d of %d bytes", s.Others.Bytes+s.Others.Pending, s.Others.MaxBytes)
	row("messages", "%d of %d bytes, and %d from pubsub", s.Messages.DirectBytes, s.Messages.MaxBytes, s.Messages.PubsubBytes)
	if n := s.Messages.StreamsReset; n > 0 {
		row("pubsub", "%s reset whose peers did not read", quantity(n, "stream was", "streams were"))
	}
	if s.Disk.Known {
		row("disk", "%d bytes free, data from other peers needs %d", s.Disk.Free, s.Disk.Floor)
	} else {
		row("disk", "its free space is unknown")
	}
	if len(s.Attention) == 0 {
		row("attention", "nothing")
	}
	for _, a := range s.Attention {
		about := a.About
		if a.Name != "" {
			about += " " + a.Name
		}
		row("attention", "%s: %s", about, a.Text)
		if a.Advice != "" {
			row("", "%s", a.Advice)
		}
	}
	return b.String()
}
