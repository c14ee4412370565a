package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/manifest"
)

const capabilityOption = "capability"

// capabilitiesLine is the output of `npp db grant` and `npp db revoke`.
type capabilitiesLine struct {
	Address      string              `json:"address"`
	Capabilities map[string][]string `json:"capabilities"` // IDs of identities, by "write" and "admin"
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
'--managed', and prints who may what now. What it wrote before stays. Those
whom the database was made with stay admins.

  > ipfs npp db revoke band 02c1b2…
  admin  03f5a7…
`,
	},
	Arguments: accessArguments,
	Options:   accessOptions,
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		return changeAccess(req, res, env, false)
	},
	Type:     capabilitiesLine{},
	Encoders: capabilitiesEncoders,
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
	if _, err := identity.ParsePublicKey(id); err != nil && id != manifest.Anyone {
		return fmt.Errorf("%.80q is no identity: %w; hint: ipfs npp id shows that of a daemon", id, err)
	}
	access := db.Access()
	if grant {
		err = access.Grant(ctx, capability, id)
	} else if err = revocable(ctx, access, capability, id); err == nil {
		err = access.Revoke(ctx, capability, id)
	}
	if err != nil {
		return accessError(err, called)
	}
	l := &capabilitiesLine{Address: db.Address()}
	if l.Capabilities, err = access.Capabilities(ctx); err != nil {
		return dbError(err, called)
	}
	return res.Emit(l)
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
	if errors.Is(err, errNotGranted) {
		return fmt.Errorf("%w; hint: ipfs npp db info %s shows who may", err, shown(called))
	}
	return dbError(err, called)
}
