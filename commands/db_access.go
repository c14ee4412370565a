package commands

import (
	"context"
	"errors"
	"fmt"
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

// capabilitiesLine is a line of `npp db grant` and `npp db revoke`.
type capabilitiesLine struct {
	Address      string              `json:"address"`
	Capabilities map[string][]string `json:"capabilities,omitempty"` // IDs of identities, by "write" and "admin"
	Revocation   *revocation         `json:"revocation,omitempty"`   // only in the first line of `npp db revoke`
}

// revocation is the effect of a revocation.
type revocation struct {
	Identity string   `json:"identity"`
	Entries  int      `json:"entries"`        // authorized entries of the identity
	Affected int      `json:"losing"`         // entries that only the revoked right authorizes
	Kept     []string `json:"kept,omitempty"` // CIDs of the tips that retain them; none if they are discarded
}

var accessArguments = []cmds.Argument{
	dbArg,
	cmds.StringArg("identity", true, false, "Identity, as 'ipfs npp id' shows it, or '*' for everybody."),
}

var accessOptions = []cmds.Option{
	cmds.StringOption(capabilityOption, "The right: write or admin.").WithDefault(orbit.CapabilityWrite),
}

var capabilitiesEncoders = encodeText(func(l *capabilitiesLine) string {
	t := table{width: 5}
	for _, c := range slices.Sorted(maps.Keys(l.Capabilities)) {
		for _, id := range l.Capabilities[c] {
			t.row(c, id)
		}
	}
	return t.String()
})

var dbGrantCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Allow an identity to write to a database.",
		ShortDescription: `
Adds an identity to the access list of a database that was created with
'--managed', and prints the list. 'ipfs npp id' shows the identity of a
daemon.

  > ipfs npp db grant band 02c1b2…
  admin  03f5a7…
  write  02c1b2…

Only the identities that the database was created with can grant and revoke.
Granting "admin" to others lets them write, no more.
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
		Tagline: "Revoke the right of an identity to write to a database.",
		ShortDescription: `
Removes an identity from the access list of a database that was created with
'--managed', and prints the list. The identities that the database was created
with stay admins.

  > ipfs npp db revoke band 02c1b2…
  note   apps on @orbitdb/core that lack its 12 entries cannot join them
  note   2 entries from which no other writer's entry descends are retained
  admin  03f5a7…

What the identity wrote before stays valid, as far as it has arrived here.
With '--discard', those entries are no longer authorized on any peer.
'--dry-run' prints the notes and changes nothing.

Apps on @orbitdb/core check all entries against the present list. Such an app
keeps the entries of the identity that it has, but cannot join those that it
lacks, nor entries that were built on these. If one of them is the newest
entry, the app joins the next entry only together with the one after that.
`,
	},
	Arguments: accessArguments,
	Options: append(slices.Clone(accessOptions),
		cmds.BoolOption(discardOption, "Do not retain entries from which no other writer's entry descends."),
		cmds.BoolOption(dryRunOption, "n", "Print what would happen, and change nothing."),
	),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		return changeAccess(req, res, env, false)
	},
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		return forward(res, re, func(line any) bool {
			l, ok := line.(*capabilitiesLine)
			if !ok || l.Revocation == nil || !wantsText(res.Request()) {
				return false
			}
			fmt.Fprint(os.Stderr, l.Revocation.text())
			return true
		})
	}},
	Type:     capabilitiesLine{},
	Encoders: capabilitiesEncoders,
}

func (r revocation) text() string {
	var b strings.Builder
	if r.Entries > 0 {
		fmt.Fprintf(&b, "note   apps on @orbitdb/core that lack its %s cannot join them\n", quantity(r.Entries, "entry", "entries"))
	}
	switch {
	case len(r.Kept) > 0:
		fmt.Fprintf(&b, "note   %s from which no other writer's entry descends %s retained\n", quantity(r.Affected, "entry", "entries"), isOrAre(r.Affected))
	case r.Affected > 0:
		fmt.Fprintf(&b, "note   %s from which no other writer's entry descends %s discarded\n", quantity(r.Affected, "entry", "entries"), isOrAre(r.Affected))
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
	arg, id := req.Arguments[0], req.Arguments[1]
	capability, _ := req.Options[capabilityOption].(string)
	if capability != orbit.CapabilityWrite && capability != orbit.CapabilityAdmin {
		return fmt.Errorf("--%s is %.40q, but must be %s or %s", capabilityOption, capability, orbit.CapabilityWrite, orbit.CapabilityAdmin)
	}
	if _, err := identity.ParsePublicKey(id); err != nil && id != orbit.Anyone {
		return fmt.Errorf("%.80q is not an identity: %w; hint: ipfs npp id shows the identity of a daemon", id, err)
	}
	access := db.Access()
	if grant {
		err = access.Grant(ctx, capability, id)
	} else if err = revocable(ctx, access, capability, id); err == nil {
		err = revoke(ctx, req, res, db, capability, id)
	}
	if err != nil {
		return accessError(err, arg)
	}
	if isSet(req, dryRunOption) {
		return nil
	}
	l := &capabilitiesLine{Address: db.Address()}
	if l.Capabilities, err = access.Capabilities(ctx); err != nil {
		return dbError(err, arg)
	}
	return res.Emit(l)
}

// revoke emits the effect of a revocation and, without --dry-run, revokes.
func revoke(ctx context.Context, req *cmds.Request, res cmds.ResponseEmitter, db *orbit.Database, capability, id string) error {
	r := revocation{Identity: id}
	var err error
	if r.Entries, err = db.WrittenBy(ctx, id); err != nil {
		return err
	}
	var tips []string
	if r.Affected, tips, err = db.WouldRevoke(ctx, capability, id); err != nil {
		return err
	}
	change := db.Access().Discard
	if !isSet(req, discardOption) {
		change, r.Kept = db.Access().Revoke, tips
	}
	if r.Entries+r.Affected > 0 || isSet(req, dryRunOption) {
		if err := res.Emit(&capabilitiesLine{Address: db.Address(), Revocation: &r}); err != nil {
			return err
		}
	}
	if isSet(req, dryRunOption) {
		return nil
	}
	return change(ctx, capability, id)
}

var errNotGranted = errors.New("it was not granted")

// revocable returns an error if revoking would change nothing.
func revocable(ctx context.Context, a *orbit.AccessController, capability, id string) error {
	if a.Database() == nil {
		return nil // revoking returns an error
	}
	founders, err := a.Database().Access().Capabilities(ctx)
	if err != nil {
		return err
	}
	if capability == orbit.CapabilityAdmin && slices.Contains(founders[orbit.CapabilityWrite], id) {
		return fmt.Errorf("%s is an admin since the database was created, and stays one", id)
	}
	now, err := a.Capabilities(ctx)
	if err == nil && !slices.Contains(now[capability], id) {
		err = fmt.Errorf("revoke %s from %s: %w", capability, id, errNotGranted)
	}
	return err
}

// accessError adds the next step to an error about an access list.
func accessError(err error, arg string) error {
	hint := ""
	switch {
	case errors.Is(err, orbit.ErrType):
		hint = "only a database that was created with --managed has a list that can be changed: ipfs npp db create <name> --managed"
	case errors.Is(err, orbit.ErrTooManyRetained):
		hint = "--" + discardOption + " revokes without retaining entries"
	case errors.Is(err, errNotGranted):
		hint = "ipfs npp db info " + hintArg(arg) + " shows who may write"
	default:
		return dbError(err, arg)
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}
