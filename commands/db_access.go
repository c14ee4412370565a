package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/identity"
)

const (
	capabilityOption = "capability"
	discardOption    = "discard"
	dryRunOption     = "dry-run"
)

// capabilitiesLine is the output of `npp db grant` and the last line of that of
// `npp db revoke`.
type capabilitiesLine struct {
	Address      string              `json:"address"`
	Capabilities map[string][]string `json:"capabilities,omitempty"` // IDs of identities, by "write" and "admin"
	Revocation   *revocation         `json:"revocation,omitempty"`   // the first line of `npp db revoke`
}

// revocation is what a revocation means, told before it is made.
type revocation struct {
	Identity string   `json:"identity"`
	Entries  int      `json:"entries"`        // of the identity that count now
	Losing   int      `json:"losing"`         // entries that lose effect, or would
	Kept     []string `json:"kept,omitempty"` // CIDs of the entries by which those are kept
}

var accessArguments = []cmds.Argument{
	dbArg,
	cmds.StringArg("identity", true, false, "ID of an identity, as 'ipfs npp id' shows it there, or '*'."),
}

var accessOptions = []cmds.Option{
	cmds.StringOption(capabilityOption, "write or admin.").WithDefault(orbit.CapabilityWrite),
}

var capabilitiesEncoders = cmds.EncoderMap{
	cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *capabilitiesLine) error {
		var b strings.Builder
		for _, c := range slices.Sorted(maps.Keys(l.Capabilities)) {
			for _, id := range l.Capabilities[c] {
				fmt.Fprintf(&b, "%-5s  %s\n", printable(c), printable(id))
			}
		}
		_, err := io.WriteString(w, b.String())
		return err
	}),
}

var dbGrantCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Let an identity write to a database.",
		ShortDescription: `
Adds an identity to the writers of a database that was made with '--managed',
and prints who may what now. Only those may grant and revoke whom the database
was made with; who is an "admin" by a grant may write, no more.

  > ipfs npp db grant band 02c1b2…
  admin  03f5a7…
  write  02c1b2…
`,
	},
	Arguments: accessArguments,
	Options:   accessOptions,
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		return changeAccess(req, res, env, true)
	},
	Type:     capabilitiesLine{},
	Encoders: capabilitiesEncoders,
}

var dbRevokeCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "No longer let an identity write to a database.",
		ShortDescription: `
Takes an identity from the writers of a database that was made with
'--managed', and prints who may what now. Those whom the database was made
with stay admins.

What the identity wrote until now goes on to count, as far as this daemon has
it. Entries that nobody has built on yet are kept by name; with '--discard',
they lose their effect, on every peer. '--dry-run' says what would happen and
changes nothing.

Apps on @orbitdb/core judge by the present list alone: an app that does not
have the entries of the identity yet cannot join what is built on them. The
first line says how many entries that are. An app that has them goes on
showing them. Where one of them is the newest entry, such an app joins the
next entry only with the one after it.

  > ipfs npp db revoke band 02c1b2…
  note   apps on @orbitdb/core that lack its 12 entries cannot join them
  note   2 entries that nobody built on are kept
  admin  03f5a7…
`,
	},
	Arguments: accessArguments,
	Options: append(slices.Clone(accessOptions),
		cmds.BoolOption(discardOption, "Let entries that nobody built on lose their effect."),
		cmds.BoolOption(dryRunOption, "n", "Say what would happen, and change nothing."),
	),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		return changeAccess(req, res, env, false)
	},
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		for {
			v, err := res.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if l, ok := v.(*capabilitiesLine); ok && l.Revocation != nil && cmds.GetEncoding(res.Request(), cmds.Text) == cmds.Text {
				fmt.Fprint(os.Stderr, l.Revocation.text())
				continue
			}
			if err := re.Emit(v); err != nil {
				return err
			}
		}
	}},
	Type:     capabilitiesLine{},
	Encoders: capabilitiesEncoders,
}

// text says what a revocation means to people.
func (r revocation) text() string {
	var b strings.Builder
	if r.Entries > 0 {
		fmt.Fprintf(&b, "note   apps on @orbitdb/core that lack its %s cannot join them\n", quantity(r.Entries, "entry", "entries"))
	}
	switch {
	case len(r.Kept) > 0:
		fmt.Fprintf(&b, "note   %s that nobody built on %s kept\n", quantity(r.Losing, "entry", "entries"), isOrAre(r.Losing))
	case r.Losing > 0:
		fmt.Fprintf(&b, "note   %s that nobody built on %s discarded\n", quantity(r.Losing, "entry", "entries"), isOrAre(r.Losing))
	}
	return b.String()
}

func isOrAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func changeAccess(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment, grant bool) error {
	ctx, db, err := database(req, env)
	if err != nil {
		return err
	}
	called, id := req.Arguments[0], req.Arguments[1]
	capability, _ := req.Options[capabilityOption].(string)
	if capability != orbit.CapabilityWrite && capability != orbit.CapabilityAdmin {
		return fmt.Errorf("--%s is %.40q, must be %s or %s", capabilityOption, capability, orbit.CapabilityWrite, orbit.CapabilityAdmin)
	}
	if _, err := identity.ParsePublicKey(id); err != nil && id != orbit.Anyone {
		return fmt.Errorf("%.80q is no identity: %w; hint: ipfs npp id shows that of a daemon", id, err)
	}
	access := db.Access()
	if grant {
		err = access.Grant(ctx, capability, id)
	} else if err = revocable(ctx, access, capability, id); err == nil {
		err = revoke(ctx, req, res, db, capability, id)
	}
	if err != nil {
		return accessError(err, called)
	}
	if on(req, dryRunOption) {
		return nil
	}
	l := &capabilitiesLine{Address: db.Address()}
	if l.Capabilities, err = access.Capabilities(ctx); err != nil {
		return dbError(err, called)
	}
	return res.Emit(l)
}

// revoke says what a revocation means, and makes it.
func revoke(ctx context.Context, req *cmds.Request, res cmds.ResponseEmitter, db *orbit.Database, capability, id string) error {
	r := revocation{Identity: id}
	var err error
	if r.Entries, err = db.WrittenBy(ctx, id); err != nil {
		return err
	}
	var tips []string
	if r.Losing, tips, err = db.Losing(ctx, capability, id); err != nil {
		return err
	}
	change := db.Access().Discard
	if !on(req, discardOption) {
		change, r.Kept = db.Access().Revoke, tips
	}
	if r.Entries+r.Losing > 0 || on(req, dryRunOption) {
		if err := res.Emit(&capabilitiesLine{Address: db.Address(), Revocation: &r}); err != nil {
			return err
		}
	}
	if on(req, dryRunOption) {
		return nil
	}
	return change(ctx, capability, id)
}

var errNotGranted = errors.New("it was not granted")

// revocable returns an error where revoking would change nothing.
func revocable(ctx context.Context, a *orbit.AccessController, capability, id string) error {
	if a.Database() == nil {
		return nil // revoking says so
	}
	founders, err := a.Database().Access().Capabilities(ctx)
	if err != nil {
		return err
	}
	if capability == orbit.CapabilityAdmin && slices.Contains(founders[orbit.CapabilityWrite], id) {
		return fmt.Errorf("%s was made an admin with the database, and stays one", id)
	}
	now, err := a.Capabilities(ctx)
	if err == nil && !slices.Contains(now[capability], id) {
		err = fmt.Errorf("revoke %s from %s: %w", capability, id, errNotGranted)
	}
	return err
}

// accessError adds the next step to an error about a list of writers.
func accessError(err error, called string) error {
	if errors.Is(err, orbit.ErrType) {
		return fmt.Errorf("%w; hint: a list that can be changed is made with the database: ipfs npp db create <name> --managed", err)
	}
	if errors.Is(err, orbit.ErrTooManyKept) {
		return fmt.Errorf("%w; hint: --%s lets them lose their effect", err, discardOption)
	}
	if errors.Is(err, errNotGranted) {
		return fmt.Errorf("%w; hint: ipfs npp db info %s shows who may", err, shown(called))
	}
	return dbError(err, called)
}
