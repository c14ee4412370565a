package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/plugin"
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
		Tagline: "Follow the libraries of other peers.",
		ShortDescription: `
A companion is a peer whose profile, pieces and practice counts are kept in
step here, and whose connection is kept. Each side says whom it follows.

  > ipfs npp companions ls --nearby
  > ipfs npp companions add 12D3KooWQK5Uh9…
  > ipfs npp pieces ls --all

A companion's name stands for its peer ID wherever a command takes a peer. It
is the name that it had when it was added: one that calls itself otherwise
later, and one of two with the same name, have to be given by their peer ID.
Nobody else's name stands for a peer: anyone can take any name.
`,
	},
	Subcommands: map[string]*cmds.Command{
		"ls":    companionsLsCmd,
		"add":   companionsAddCmd,
		"rm":    companionsRmCmd,
		"watch": companionsWatchCmd,
	},
}

// libraryOf is the daemon's library, with the context of the request.
func libraryOf(req *cmds.Request, env cmds.Environment) (context.Context, *plugin.Daemon, *library.Library, error) {
	ctx, _, err := databases(req, env)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := daemon(env)
	if err != nil {
		return nil, nil, nil, err
	}
	lib, err := d.Library()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("library: %w; hint: mend that and restart the daemon, the rest of npp works", err)
	}
	if err := lib.Wait(ctx); err != nil {
		return nil, nil, nil, err
	}
	return ctx, d, lib, nil
}

// companionLine is a line of `npp companions ls`: a companion, somebody who only
// follows, a peer nearby, or an offer.
type companionLine struct {
	Peer      string     `json:"peer"`
	Name      string     `json:"name,omitempty"`    // that it was added under; of others, that it has
	NameNow   string     `json:"nameNow,omitempty"` // where that is another
	Companion bool       `json:"companion"`         // it is followed
	Follows   bool       `json:"follows"`           // it follows us
	Connected bool       `json:"connected"`
	User      string     `json:"user,omitempty"`   // address of its user store
	Pieces    *int       `json:"pieces,omitempty"` // of a companion, that are here
	Address   string     `json:"address,omitempty"`
	InStep    *time.Time `json:"inStep,omitempty"`     // when its pieces were in step with some peer last
	With      string     `json:"inStepWith,omitempty"` // that peer, where it is another one
	Troubles  []string   `json:"troubles,omitempty"`
	Offer     *offerLine `json:"offer,omitempty"`

	Incomplete []incompleteLine `json:"incomplete,omitempty"` // stores of which not all is here yet
}

// incompleteLine is a store of a companion of which not all is here or read yet.
type incompleteLine struct {
	Store string `json:"store"` // "user", "pieces" or "practice"
	Why   string `json:"why"`
}

func newIncompleteLines(stores []library.StoreTrouble) (lines []incompleteLine) {
	for _, s := range stores {
		lines = append(lines, incompleteLine{s.Store, s.Err.Error()})
	}
	return lines
}

// offerLine is a user store that a message offers.
type offerLine struct {
	Address string     `json:"address"`
	Legacy  bool       `json:"legacy,omitempty"` // it is in the format before OrbitDB 1.0
	At      *time.Time `json:"at,omitempty"`
	Via     string     `json:"via,omitempty"`
	Error   string     `json:"error,omitempty"` // why it cannot be taken up
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
func companionError(err error, called string) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, orbit.ErrLegacyAddress):
		hint = "such a library cannot be opened yet, its app has to move to OrbitDB 1.0 or later"
	case errors.Is(err, orbit.ErrInvalidAddress):
		hint = "ask for another offer"
	case errors.Is(err, library.ErrNoStore), errors.Is(err, card.ErrNoProtocol):
		hint = `have it send {"userDb":"<address of its user store>"}, as the OrbitDB tutorial's app does`
	case errors.Is(err, library.ErrNotCompanion):
		hint = "ipfs npp companions ls shows who is"
	default:
		if failure, ok := errors.AsType[*swarm.ConnectError](err); ok {
			return fmt.Errorf("no way to %s; hint: ipfs npp connect %s shows what was tried; is it online?", failure.Peer, shown(called))
		}
		return dbError(err, called)
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}

var companionsLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List companions and followers, or who may become one.",
		ShortDescription: `
Prints a line for each companion and for each peer that only follows: name,
peer ID, who follows whom, whether it is connected, how many pieces of it are
here and when they were in step last, and what is wrong. "So far" is that its
pieces were not in step with any peer yet. Where the peer itself does not have
them open, "in step … with" names the peer that has.

  > ipfs npp companions ls
  alice  12D3KooWQK5U…  both follow  online  12 pieces  in step 3s ago

'--nearby' lists the connected peers that have npp, '--offers' what peers
offered by a message, such as the app of the OrbitDB tutorial:
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
		case on(req, nearbyOption) && on(req, offersOption):
			return fmt.Errorf("--%s and --%s exclude each other", nearbyOption, offersOption)
		case on(req, nearbyOption):
			for _, n := range lib.NearbyPeers() {
				l := &companionLine{Peer: n.Peer.String(), Name: n.Name, User: n.User, Companion: n.Companion, Follows: n.Follows, Connected: true}
				if err := res.Emit(l); err != nil {
					return err
				}
			}
			return nil
		case on(req, offersOption):
			offers, offersErr := lib.Offers(ctx)
			for _, o := range offers {
				l := &companionLine{Peer: o.Peer.String(), Name: lib.NameOf(o.Peer)}
				if c, err := lib.Companion(ctx, o.Peer); err == nil {
					l = newCompanionLine(c)
				}
				l.Connected, l.Offer = lib.Connected(o.Peer), newOfferLine(o)
				if err := res.Emit(l); err != nil {
					return err
				}
			}
			if offersErr != nil {
				return fmt.Errorf("there may be more offers: %w; hint: try again in a moment", offersErr)
			}
			return nil
		}
		for _, c := range lib.Companions(ctx) {
			if err := res.Emit(newCompanionLine(c)); err != nil {
				return err
			}
		}
		return nil
	},
	Type: companionLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *companionLine) error {
			_, err := io.WriteString(w, l.text(on(req, nearbyOption)))
			return err
		}),
	},
}

func newCompanionLine(c library.Companion) *companionLine {
	l := &companionLine{
		Peer: c.Peer.String(), Name: c.Name, Companion: c.Companion, Follows: c.Follows,
		Connected: c.Connected, User: c.User, Address: c.PiecesAddr,
	}
	if c.NameNow != c.Name {
		l.NameNow = c.NameNow
	}
	if c.Ready {
		l.Pieces = &c.Pieces
	}
	if !c.InStep.IsZero() {
		l.InStep = &c.InStep
	}
	if c.InStepWith != c.Peer && !c.InStep.IsZero() {
		l.With = c.InStepWith.String()
	}
	for _, t := range c.Troubles {
		l.Troubles = append(l.Troubles, t.Store+": "+companionError(t.Err, t.Address).Error())
	}
	l.Incomplete = newIncompleteLines(c.Incomplete)
	return l
}

// piecesText says how many pieces of a companion are here, as far as that is known.
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
		text += "  in step " + ago(l.InStep)
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
		fmt.Fprintf(&b, "  it is called %s now; to take that name: ipfs npp companions add %s\n", printable(l.NameNow), l.Peer)
	}
	for _, t := range l.Troubles {
		fmt.Fprintf(&b, "  %s\n", printable(t))
	}
	return b.String()
}

// companionAddLine is a line of `npp companions add`: what was done, or how far it is.
type companionAddLine struct {
	Peer   string   `json:"peer"`
	Name   string   `json:"name,omitempty"`
	Status string   `json:"status"` // "added", "again", "fetching", "here" or "waiting"; with --preview, "stranger" or "known"
	Pieces *int     `json:"pieces,omitempty"`
	With   string   `json:"inStepWith,omitempty"` // another peer than the companion, that has the pieces
	Wrong  []string `json:"troubles,omitempty"`
	// Address is of the database that is not here yet.
	Address    string           `json:"address,omitempty"`
	Incomplete []incompleteLine `json:"incomplete,omitempty"`
}

var companionsAddCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Follow a peer.",
		ShortDescription: `
Asks the peer which library is its own, follows that from now on and keeps the
connection. It waits a little until the pieces are here, and goes on in the
background.

  > ipfs npp companions add 12D3KooWQK5Uh9…
  added alice 12D3KooWQK5Uh9…
  here: 12 pieces

The name of a peer nearby does as well, where no other one calls itself so.
Anyone can take any name, so it shows the peer ID and asks: compare that with
the one you were told. '--yes' does not ask. A name needs it where there is
nobody to ask, such as in a script and over the RPC.

  > ipfs npp companions add alice
  12D3KooWQK5Uh9… calls itself alice. Is that who you mean? [y/N] y
  added alice 12D3KooWQK5Uh9…

A peer that has no npp, such as an app in a browser, is taken by the last
offer that it sent ('ipfs npp companions ls --offers'). For a peer that is a
companion already, its present name is taken.
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("peer", true, false, "Peer ID, multiaddr or name."),
	},
	Options: []cmds.Option{
		cmds.BoolOption(yesOption, "y", "Do not ask whether the peer with that name is meant."),
		cmds.BoolOption(previewOption, "Only tell which peer a name stands for, and whether it is a stranger."),
		cmds.StringOption(dialTimeoutOption, "Give up on the peer after this time.").WithDefault(defaultDialTimeout.String()),
		cmds.StringOption(waitOption, "How long to wait for its pieces.").WithDefault(defaultCompanionWait.String()),
	},
	PreRun: askWhoIsMeant,
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
		to, stranger, err := companionMeant(req, d)
		if err != nil {
			return err
		}
		if on(req, previewOption) {
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
	Type: companionAddLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *companionAddLine) error {
			var text string
			switch name := printable(l.Name); l.Status {
			case "added":
				text = fmt.Sprintf("added %s\n", strings.TrimSpace(name+" "+l.Peer))
			case "again":
				text = fmt.Sprintf("%s is a companion already, and goes by its present name\n", strings.TrimSpace(name+" "+l.Peer))
			case "here":
				text = fmt.Sprintf("here: %s", quantity(*l.Pieces, "piece", "pieces"))
				if l.With != "" {
					text += ", as the peer " + l.With + " has them; it does not have them open itself"
				}
				text += "\n"
			case "fetching":
				text = "fetching its library\n"
			case "stranger":
				text = fmt.Sprintf("%s calls itself %s\n", l.Peer, name)
			case "known":
				text = fmt.Sprintf("%s is meant\n", l.Peer)
			default:
				text = "its library is not all here yet; that goes on in the background\n"
				if l.Address != "" {
					text += "what it waits for: ipfs npp db doctor " + l.Address + "\n"
				}
			}
			for _, s := range l.Incomplete {
				text += fmt.Sprintf("%s: %s\n", s.Store, s.Why)
			}
			for _, t := range l.Wrong {
				text += "note: " + printable(t) + "\n"
			}
			_, err := io.WriteString(w, text)
			return err
		}),
	},
}

// companionMeant returns the peer that is to be added, and whether it is a stranger
// that was given by the name that it gives itself. Over the RPC, such a name does only
// with --yes: there is nobody to ask.
func companionMeant(req *cmds.Request, d *plugin.Daemon) (to peer.AddrInfo, stranger bool, err error) {
	to, err = target(req.Context, req, d, req.Arguments[0])
	named, ok := errors.AsType[*library.NameError](err)
	if !ok || !errors.Is(err, library.ErrStranger) || len(named.Peers) > 1 || !on(req, yesOption) && !on(req, previewOption) {
		return to, false, err
	}
	return peer.AddrInfo{ID: named.Peers[0]}, true, nil
}

// askWhoIsMeant asks at a terminal whether the peer that calls itself by the name in a
// request is meant, and puts its peer ID in the place of the name.
func askWhoIsMeant(req *cmds.Request, env cmds.Environment) error {
	if on(req, yesOption) || on(req, previewOption) || !term.IsTerminal(int(os.Stdin.Fd())) {
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
		return nil // it is said what is amiss with the daemon
	}
	if err != nil || l.Status != "stranger" {
		return err
	}
	in, stop := stoppable(req.Context, os.Stdin)
	defer stop()
	fmt.Fprintf(os.Stderr, "%s calls itself %s. Is that who you mean? [y/N] ", l.Peer, printable(l.Name))
	if !isYes(in) {
		return errors.New("nobody is added")
	}
	req.Arguments[0] = l.Peer
	return nil
}

// waitForPieces waits until the pieces of a companion are here as a peer had them after
// a time, or as long as said, and says what is here and what is not. Practice counts
// that do not come do not keep it from saying that the pieces are here.
func waitForPieces(ctx context.Context, res cmds.ResponseEmitter, lib *library.Library, id peer.ID, since time.Time, wait time.Duration) error {
	begin := time.Now()
	said := false
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := lib.Companion(ctx, id)
		if err != nil && !errors.Is(err, library.ErrNotCompanion) { // the latter: not read yet
			return err
		}
		l := &companionAddLine{Peer: id.String(), Name: lib.NameOf(id), Wrong: newCompanionLine(c).Troubles}
		waited := time.Since(begin)
		whole := err == nil && c.Whole(since)
		switch {
		case whole && (len(c.Incomplete) == 0 || waited > wait):
			l.Status, l.Pieces, l.With = "here", &c.Pieces, newCompanionLine(c).With
			l.Incomplete = newIncompleteLines(c.Incomplete)
			return res.Emit(l)
		case waited > wait, c.Broken:
			l.Status, l.Address = "waiting", cmp.Or(c.PiecesAddr, c.User)
			l.Incomplete = newIncompleteLines(c.Incomplete)
			return res.Emit(l)
		case waited > time.Second && !said:
			said, l.Status = true, "fetching"
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
		Tagline: "Follow a peer no more.",
		ShortDescription: `
Ends the replication of the peer's library and removes what came of it, and
keeps the connection no more. A database of the peer that was opened apart
('ipfs npp db open') stays, and so does a connection that 'ipfs npp connect
--keep' keeps.

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
		to, err := target(req.Context, req, d, req.Arguments[0])
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
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *companionRmLine) error {
			_, err := fmt.Fprintf(w, "removed %s\n", strings.TrimSpace(printable(l.Name)+" "+l.Peer))
			return err
		}),
	},
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
		Tagline: "Print what companions do.",
		ShortDescription: `
Prints a line for each companion that comes and goes, new pieces of theirs,
who begins or ends to follow, names that change, offers, and peers with npp
nearby, until it is interrupted or the daemon stops.

  > ipfs npp companions watch
  2026-05-01 20:15:03  piece  alice  12D3KooWQK5U…  QmNR2n…  Prelude in C

In JSON, "event" is one of added, removed, online, offline, follows,
unfollows, name, piece, offer and nearby.
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		var ready func()
		if stream, ok := res.(http.Flusher); ok {
			ready = stream.Flush // the client waits for the head of the answer
		}
		for e := range lib.Watch(ctx, ready) {
			l := &companionEventLine{Event: string(e.Kind), At: e.At, Peer: e.Peer.String(), Name: e.Name, Hash: e.Hash, Title: e.Title, Address: e.Address}
			if err := res.Emit(l); err != nil {
				return err
			}
		}
		return nil
	},
	PostRun: untilInterrupted,
	Type:    companionEventLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *companionEventLine) error {
			text := fmt.Sprintf("%s  %-9s  %s  %s", l.At.Local().Format(time.DateTime), l.Event, printable(l.Name), l.Peer)
			for _, more := range []string{l.Hash, l.Title, l.Address} {
				if more != "" {
					text += "  " + printable(more)
				}
			}
			_, err := fmt.Fprintln(w, text)
			return err
		}),
	},
}
