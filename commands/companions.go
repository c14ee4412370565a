package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/swarm"
)

const (
	nearbyOption  = "nearby"
	offersOption  = "offers"
	yesOption     = "yes"
	previewOption = "preview"

	defaultCompanionWait = 10 * time.Second
)

var companionsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Follow the libraries of other people.",
		ShortDescription: `
A companion is a peer that you follow: its profile, pieces and practice counts
are replicated to this daemon, which also keeps the connection to the peer.
Following is one-way; two people who share their libraries add each other.

  > ipfs npp companions ls --nearby
  > ipfs npp companions add 12D3KooWQK5Uh9…
  > ipfs npp pieces ls --all

Commands that take a peer also take the name of a companion. It is the name
that the companion had when you added it. If the companion has another name
now, or two companions have the same name, use the peer ID. The names of other
peers are not accepted, because anybody can choose any name.
`,
	},
	Subcommands: map[string]*cmds.Command{
		"ls":    companionsLsCmd,
		"add":   companionsAddCmd,
		"rm":    companionsRmCmd,
		"watch": companionsWatchCmd,
	},
}

// libraryOf returns the daemon's library. The context is that of the request,
// and is done when the daemon stops.
func libraryOf(req *cmds.Request, env cmds.Environment) (context.Context, *daemon.Daemon, *library.Library, error) {
	ctx, _, err := databases(req, env)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := daemonOf(env)
	if err != nil {
		return nil, nil, nil, err
	}
	lib, err := d.Library()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("library: %w; hint: fix that and restart the daemon; the rest of npp works", err)
	}
	if err := lib.Wait(ctx); err != nil {
		return nil, nil, nil, err
	}
	return ctx, d, lib, nil
}

// companionLine is a line of `npp companions ls`: a companion, a follower, a
// nearby peer, or an offer.
type companionLine struct {
	Peer      string     `json:"peer"`
	Name      string     `json:"name,omitempty"`    // of a companion, when it was added; of others, now
	NameNow   string     `json:"nameNow,omitempty"` // if it differs from Name
	Companion bool       `json:"companion"`
	Follows   bool       `json:"follows"` // it is a follower
	Connected bool       `json:"connected"`
	User      string     `json:"user,omitempty"`       // address of its user database
	Pieces    *int       `json:"pieces,omitempty"`     // of a companion, that are here
	Address   string     `json:"address,omitempty"`    // of its pieces
	InStep    *time.Time `json:"inStep,omitempty"`     // when its pieces were in sync with a peer last
	With      string     `json:"inStepWith,omitempty"` // that peer, if it is not the companion
	Troubles  []string   `json:"troubles,omitempty"`
	Offer     *offerLine `json:"offer,omitempty"`

	Incomplete []incompleteLine `json:"incomplete,omitempty"`
}

// incompleteLine is a library database of a companion that is not complete, or
// not read yet.
type incompleteLine struct {
	Store string `json:"store"` // "user", "pieces" or "practice"
	Why   string `json:"why"`
}

func newIncompleteLines(stores []library.DatabaseProblem) (lines []incompleteLine) {
	for _, s := range stores {
		lines = append(lines, incompleteLine{s.Database, s.Err.Error()})
	}
	return lines
}

// offerLine is a user database that a message offers.
type offerLine struct {
	Address string     `json:"address"`
	Legacy  bool       `json:"legacy,omitempty"` // its format is that before OrbitDB 1.0
	At      *time.Time `json:"at,omitempty"`
	Via     string     `json:"via,omitempty"`
	Error   string     `json:"error,omitempty"` // why it cannot be followed
}

func newOfferLine(o library.Offer) *offerLine {
	l := &offerLine{Address: o.Address, Via: string(o.Via)}
	if !o.At.IsZero() {
		l.At = &o.At
	}
	if err := o.Check(); err != nil {
		l.Legacy = errors.Is(err, orbit.ErrLegacyAddress)
		l.Error = companionError(err, "").Error()
	}
	return l
}

// companionError adds the next step to an error about a companion.
func companionError(err error, arg string) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, orbit.ErrLegacyAddress):
		hint = "npp cannot open such a library; its app has to upgrade to OrbitDB 1.0 or later"
	case errors.Is(err, orbit.ErrInvalidAddress):
		hint = "ask the sender for another offer"
	case errors.Is(err, library.ErrNoUserDatabase), errors.Is(err, card.ErrNoProtocol):
		hint = `the peer has to send {"userDb":"<address of its user database>"}, as the app of the OrbitDB tutorial does`
	case errors.Is(err, library.ErrNotCompanion):
		hint = "ipfs npp companions ls shows your companions"
	default:
		if failure, ok := errors.AsType[*swarm.ConnectError](err); ok {
			return fmt.Errorf("no way to %s; hint: ipfs npp connect %s shows what was tried; check that the peer is online", failure.Peer, hintArg(arg))
		}
		return dbError(err, arg)
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}

var companionsLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List companions and followers, or peers to follow.",
		ShortDescription: `
Prints a line per companion and per peer that only follows you: its name, its
peer ID, who follows whom, and whether it is connected. For a companion, the
number of its pieces that are here and when they were last in sync follow.
"So far" means that more pieces may be missing. "In sync … with" names another
peer that has the pieces, if the companion itself was not available.

  > ipfs npp companions ls
  alice  12D3KooWQK5U…  both follow  online  12 pieces  in sync 3s ago

'--nearby' lists the connected peers that have npp. '--offers' lists libraries
that peers offered in a message, as the app of the OrbitDB tutorial does:
{"userDb":"<address>"}.
`,
	},
	Options: []cmds.Option{
		cmds.BoolOption(nearbyOption, "List the connected peers with npp."),
		cmds.BoolOption(offersOption, "List the libraries that messages offered."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		switch {
		case isSet(req, nearbyOption) && isSet(req, offersOption):
			return fmt.Errorf("--%s and --%s cannot be combined; hint: use one of them", nearbyOption, offersOption)
		case isSet(req, nearbyOption):
			return emitAll(res, slices.Values(lib.NearbyPeers()), func(n library.NearbyPeer) *companionLine {
				return &companionLine{Peer: n.Peer.String(), Name: n.Name, User: n.User, Companion: n.IsCompanion, Follows: n.Follows, Connected: true}
			})
		case isSet(req, offersOption):
			offers, offersErr := lib.Offers(ctx)
			err := emitAll(res, slices.Values(offers), func(o library.Offer) *companionLine {
				l := &companionLine{Peer: o.Peer.String(), Name: lib.NameOf(o.Peer)}
				if c, err := lib.Companion(ctx, o.Peer); err == nil {
					l = newCompanionLine(c)
				}
				l.Connected, l.Offer = lib.Connected(o.Peer), newOfferLine(o)
				return l
			})
			if err == nil && offersErr != nil {
				err = fmt.Errorf("there may be more offers: %w; hint: try again in a moment", offersErr)
			}
			return err
		}
		return emitAll(res, slices.Values(lib.Companions(ctx)), newCompanionLine)
	},
	Type: companionLine{},
	Encoders: encodeTextFor(func(req *cmds.Request, l *companionLine) string {
		return l.text(isSet(req, nearbyOption))
	}),
}

func newCompanionLine(c library.Companion) *companionLine {
	l := &companionLine{
		Peer: c.Peer.String(), Name: c.Name, Companion: c.IsCompanion, Follows: c.Follows,
		Connected: c.Connected, User: c.User, Address: c.PiecesAddr,
	}
	if c.CurrentName != c.Name {
		l.NameNow = c.CurrentName
	}
	if c.Ready {
		l.Pieces = &c.Pieces
	}
	if !c.InSync.IsZero() {
		l.InStep = &c.InSync
	}
	if c.InSyncWith != c.Peer && !c.InSync.IsZero() {
		l.With = c.InSyncWith.String()
	}
	for _, t := range c.Problems {
		l.Troubles = append(l.Troubles, t.Database+": "+companionError(t.Err, t.Address).Error())
	}
	l.Incomplete = newIncompleteLines(c.Incomplete)
	return l
}

// piecesText says how many pieces of a companion are here.
func (l *companionLine) piecesText() string {
	switch {
	case l.Pieces == nil && slices.ContainsFunc(l.Incomplete, func(s incompleteLine) bool { return s.Why == library.ErrBeingRead.Error() }):
		return "pieces being read"
	case l.Pieces == nil:
		return "pieces not here yet"
	}
	text := quantity(*l.Pieces, "piece", "pieces")
	if slices.ContainsFunc(l.Incomplete, func(s incompleteLine) bool { return s.Store != library.PracticeName }) {
		return text + " so far"
	}
	if l.InStep != nil {
		text += "  in sync " + ago(l.InStep)
		if l.With != "" {
			text += " with " + l.With
		}
	}
	return text
}

func (l *companionLine) text(nearby bool) string {
	name := printable(l.Name)
	if name == "" {
		name = "-"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s  %-52s", name, l.Peer)
	if l.Offer != nil {
		fmt.Fprintf(&b, "  %s  %s\n", ago(l.Offer.At), printable(l.Offer.Address))
		if l.Offer.Error != "" {
			fmt.Fprintf(&b, "  %s\n", printable(l.Offer.Error))
		}
		return b.String()
	}
	who := "-"
	switch {
	case l.Companion && l.Follows:
		who = "both follow"
	case l.Companion:
		who = "you follow"
	case l.Follows:
		who = "follows you"
	}
	fmt.Fprintf(&b, "  %-11s", who)
	if nearby {
		b.WriteByte('\n')
		return b.String()
	}
	online := "offline"
	if l.Connected {
		online = "online"
	}
	fmt.Fprintf(&b, "  %-7s", online)
	if l.Companion {
		b.WriteString("  " + l.piecesText())
	}
	b.WriteByte('\n')
	if l.NameNow != "" {
		fmt.Fprintf(&b, "  its name is %s now; to accept that name: ipfs npp companions add %s\n", printable(l.NameNow), l.Peer)
	}
	for _, t := range l.Troubles {
		fmt.Fprintf(&b, "  %s\n", printable(t))
	}
	return b.String()
}

// companionAddLine is a line of `npp companions add`: the result, or the
// progress.
type companionAddLine struct {
	Peer       string           `json:"peer"`
	Name       string           `json:"name,omitempty"`
	Status     string           `json:"status"` // "added", "again", "fetching", "here" or "waiting"; with --preview, "stranger" or "known"
	Pieces     *int             `json:"pieces,omitempty"`
	With       string           `json:"inStepWith,omitempty"` // the peer that has the pieces, if it is not the companion
	Troubles   []string         `json:"troubles,omitempty"`
	Address    string           `json:"address,omitempty"` // of the database that is not here yet
	Incomplete []incompleteLine `json:"incomplete,omitempty"`
}

var companionsAddCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Follow a peer.",
		ShortDescription: `
Asks the peer for the address of its library, follows the library from now on,
and keeps the connection. The command waits a few seconds for the pieces;
after that, they are fetched in the background.

  > ipfs npp companions add 12D3KooWQK5Uh9…
  added alice 12D3KooWQK5Uh9…
  here: 12 pieces

For a nearby peer, the name is enough, if no other nearby peer has the same
name. Anybody can choose any name, so the command asks: compare the peer ID
with the one that the person gave you. '--yes' skips the question; scripts and
HTTP requests need it for a name.

  > ipfs npp companions add alice
  12D3KooWQK5Uh9… calls itself alice. Is that who you mean? [y/N] y
  added alice 12D3KooWQK5Uh9…

A peer without npp, such as an app in a browser, offers its library in a
message ('ipfs npp companions ls --offers'); the last offer is used. If the
peer is a companion already, the command accepts its present name.
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("peer", true, false, "Peer ID, multiaddr or name."),
	},
	Options: []cmds.Option{
		cmds.BoolOption(yesOption, "y", "Do not ask; follow the peer with that name."),
		cmds.BoolOption(previewOption, "Only print which peer would be followed."),
		cmds.StringOption(dialTimeoutOption, "Give up on the peer after this time.").WithDefault(defaultDialTimeout.String()),
		cmds.StringOption(waitOption, "How long to wait for the pieces.").WithDefault(defaultCompanionWait.String()),
	},
	PreRun: confirmPeer,
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, d, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		timeout, err := durationOption(req, dialTimeoutOption)
		if err != nil {
			return err
		}
		wait, err := durationOption(req, waitOption)
		if err != nil {
			return err
		}
		to, stranger, err := companionToAdd(req, d)
		if err != nil {
			return err
		}
		if isSet(req, previewOption) {
			l := &companionAddLine{Peer: to.ID.String(), Name: lib.NameOf(to.ID), Status: "known"}
			if stranger {
				l.Status = "stranger"
			}
			return res.Emit(l)
		}
		begin := time.Now()
		adding, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		again, err := lib.AddCompanion(adding, to)
		if err != nil {
			return companionError(err, req.Arguments[0])
		}
		l := &companionAddLine{Peer: to.ID.String(), Name: lib.NameOf(to.ID), Status: "added"}
		if again {
			l.Status = "again"
		}
		if err := res.Emit(l); err != nil {
			return err
		}
		return waitForPieces(ctx, res, lib, to.ID, begin, wait)
	},
	Type:     companionAddLine{},
	Encoders: encodeText((*companionAddLine).text),
}

func (l *companionAddLine) text() string {
	var b strings.Builder
	name := printable(l.Name)
	switch both := strings.TrimSpace(name + " " + l.Peer); l.Status {
	case "added":
		fmt.Fprintf(&b, "added %s\n", both)
	case "again":
		fmt.Fprintf(&b, "%s is a companion already; its present name is accepted\n", both)
	case "here":
		fmt.Fprintf(&b, "here: %s", quantity(*l.Pieces, "piece", "pieces"))
		if l.With != "" {
			fmt.Fprintf(&b, ", as the peer %s has them; the companion itself does not have them open", l.With)
		}
		b.WriteString("\n")
	case "fetching":
		b.WriteString("fetching its library\n")
	case "stranger":
		fmt.Fprintf(&b, "%s calls itself %s\n", l.Peer, name)
	case "known":
		fmt.Fprintf(&b, "%s is meant\n", l.Peer)
	default:
		b.WriteString("its library is not complete yet; fetching continues in the background\n")
		if l.Address != "" {
			fmt.Fprintf(&b, "to see what is missing: ipfs npp db doctor %s\n", l.Address)
		}
	}
	for _, s := range l.Incomplete {
		fmt.Fprintf(&b, "%s: %s\n", s.Store, printable(s.Why))
	}
	for _, t := range l.Troubles {
		fmt.Fprintf(&b, "note: %s\n", printable(t))
	}
	return b.String()
}

// companionToAdd returns the peer to add, and whether the argument is the name
// that a stranger chose. Such a name needs --yes: over the RPC there is nobody
// to ask.
func companionToAdd(req *cmds.Request, d *daemon.Daemon) (to peer.AddrInfo, stranger bool, err error) {
	to, err = resolvePeer(req.Context, req, d, req.Arguments[0])
	named, ok := errors.AsType[*library.NameError](err)
	if !ok || !errors.Is(err, library.ErrStranger) || len(named.Peers) > 1 || !isSet(req, yesOption) && !isSet(req, previewOption) {
		return to, false, err
	}
	return peer.AddrInfo{ID: named.Peers[0]}, true, nil
}

// confirmPeer asks at a terminal whether the peer with a name is meant, and
// replaces the name in the request by the peer ID.
func confirmPeer(req *cmds.Request, env cmds.Environment) error {
	if isSet(req, yesOption) || isSet(req, previewOption) || !isTerminal(os.Stdin) {
		return nil
	}
	if _, err := swarm.ParseTarget(req.Arguments[0]); err == nil {
		return nil
	}
	api, err := apiOf(req, env)
	if err != nil || api == nil {
		return err
	}
	var l companionAddLine
	err = api.Request(Name+"/companions/add", req.Arguments[0]).Option(previewOption, true).Exec(req.Context, &l)
	if _, unreachable := errors.AsType[*url.Error](err); unreachable && req.Context.Err() == nil {
		return nil // Run returns a better error
	}
	if err != nil || l.Status != "stranger" {
		return err
	}
	if !askTerminal(req.Context, fmt.Sprintf("%s calls itself %s. Is that who you mean?", l.Peer, printable(l.Name))) {
		return errors.New("no companion was added")
	}
	req.Arguments[0] = l.Peer
	return nil
}

// waitForPieces waits until the pieces of a companion are complete, compared
// with a peer after a time, or until the wait is over, and emits what is here
// and what is not. Missing practice counts delay it, but not beyond the wait.
func waitForPieces(ctx context.Context, res cmds.ResponseEmitter, lib *library.Library, id peer.ID, after time.Time, wait time.Duration) error {
	begin := time.Now()
	emitted := false
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := lib.Companion(ctx, id)
		if err != nil && !errors.Is(err, library.ErrNotCompanion) { // ErrNotCompanion: it is not read yet
			return err
		}
		line := newCompanionLine(c)
		l := &companionAddLine{Peer: id.String(), Name: lib.NameOf(id), Troubles: line.Troubles}
		waited := time.Since(begin)
		complete := err == nil && c.Complete(after)
		switch {
		case complete && (len(c.Incomplete) == 0 || waited > wait):
			l.Status, l.Pieces, l.With, l.Incomplete = "here", &c.Pieces, line.With, line.Incomplete
			return res.Emit(l)
		case waited > wait, c.Broken:
			l.Status, l.Address, l.Incomplete = "waiting", cmp.Or(c.PiecesAddr, c.User), line.Incomplete
			return res.Emit(l)
		case waited > time.Second && !emitted:
			emitted, l.Status = true, "fetching"
			if err := res.Emit(l); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var companionsRmCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Stop following a peer.",
		ShortDescription: `
Ends the replication of the peer's library, deletes what was fetched of it,
and no longer keeps the connection. Databases that you opened yourself
('ipfs npp db open') stay, and so does a connection that you keep
('ipfs npp connect --keep').

  > ipfs npp companions rm alice
  removed alice 12D3KooWQK5Uh9…
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("peer", true, false, "Peer ID or name."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, d, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		to, err := resolvePeer(req.Context, req, d, req.Arguments[0])
		if err != nil {
			return err
		}
		l := &companionRmLine{Peer: to.ID.String(), Name: lib.NameOf(to.ID)}
		if err := lib.RemoveCompanion(ctx, to.ID); err != nil {
			return companionError(err, req.Arguments[0])
		}
		return res.Emit(l)
	},
	Type: companionRmLine{},
	Encoders: encodeText(func(l *companionRmLine) string {
		return fmt.Sprintf("removed %s\n", strings.TrimSpace(printable(l.Name)+" "+l.Peer))
	}),
}

// companionRmLine is the output of `npp companions rm`.
type companionRmLine struct {
	Peer string `json:"peer"`
	Name string `json:"name,omitempty"`
}

// companionEventLine is a line of `npp companions watch`.
type companionEventLine struct {
	Event   string    `json:"event"`
	At      time.Time `json:"at"`
	Peer    string    `json:"peer"`
	Name    string    `json:"name,omitempty"`
	Hash    string    `json:"hash,omitempty"`  // of a piece
	Title   string    `json:"title,omitempty"` // of a piece
	Address string    `json:"address,omitempty"`
}

var companionsWatchCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print news of companions as they happen.",
		ShortDescription: `
Prints a line for each event until it is interrupted or the daemon stops:
companions that come and go, new pieces, new names, peers that start or stop
following you, offers, and nearby peers that have npp.

  > ipfs npp companions watch
  2026-05-01 20:15:03  piece  alice  12D3KooWQK5U…  QmNR2n…  Prelude in C

In JSON, "event" is added, removed, online, offline, follows, unfollows, name,
piece, offer or nearby.
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		return emitAll(res, lib.Watch(ctx, flush(res)), func(e library.Event) *companionEventLine {
			return &companionEventLine{Event: string(e.Kind), At: e.At, Peer: e.Peer.String(), Name: e.Name, Hash: e.Hash, Title: e.Title, Address: e.Address}
		})
	},
	PostRun:  untilInterrupted,
	Type:     companionEventLine{},
	Encoders: encodeText((*companionEventLine).text),
}

func (l *companionEventLine) text() string {
	text := fmt.Sprintf("%s  %-9s  %s  %s", localTime(l.At), l.Event, printable(l.Name), l.Peer)
	for _, more := range []string{l.Hash, l.Title, l.Address} {
		if more != "" {
			text += "  " + printable(more)
		}
	}
	return text + "\n"
}
