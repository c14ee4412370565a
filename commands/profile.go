package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

var profileCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show and change what others see of you.",
		ShortDescription: `
Your profile is a set of fields in the database "user" that your companions
follow: your username, and whatever else you add. The daemon itself sets
"nodeId", your peer ID, and the addresses "pieces" and "practice".

  > ipfs npp profile set username Anna
  > ipfs npp profile set instruments '["Piano","Violin"]'
  > ipfs npp profile ls
`,
	},
	Subcommands: map[string]*cmds.Command{
		"ls":  profileLsCmd,
		"get": profileGetCmd,
		"set": profileSetCmd,
		"rm":  profileRmCmd,
	},
}

// fieldLine is a field of the profile.
type fieldLine struct {
	Key   json.RawMessage `json:"key"`
	Value json.RawMessage `json:"value,omitempty"` // none if the field was removed
}

// fieldEncoders print the name and the value of a field.
var fieldEncoders = encodeText(func(l *fieldLine) string {
	if l.Value == nil {
		return "removed " + keyText(l.Key) + "\n"
	}
	t := table{width: 12}
	t.row(keyText(l.Key), keyText(l.Value))
	return t.String()
})

// profileError adds the next step to an error about a field of the profile.
func profileError(ctx context.Context, err error, key string) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, library.ErrManaged) && key == library.KeyUsername:
		hint = "ipfs npp profile set username <name>"
	case errors.Is(err, library.ErrManaged):
		hint = "ipfs npp profile get " + key + " shows it"
	case errors.Is(err, library.ErrInvalid):
		hint = "ipfs npp profile set --help"
	case errors.Is(err, orbit.ErrNotFound):
		hint = "ipfs npp profile ls shows all fields"
	default:
		return dbError(err, library.UserName)
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}

var profileLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the fields of your profile.",
		ShortDescription: `
Prints each field of your profile with its value: text as it is, other values
as JSON. With '--enc=json', a line has "key" and "value".

  > ipfs npp profile ls
  username      Anna
  nodeId        12D3KooWCP9aGS…
  instruments   ["Piano","Violin"]
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		return emitEach(res, lib.Profile(ctx), func(item orbit.Item) *fieldLine {
			return &fieldLine{valueJSON(item.Key), valueJSON(item.Value)}
		}, func(err error) error { return profileError(ctx, err, "") })
	},
	Type:     fieldLine{},
	Encoders: fieldEncoders,
}

var fieldArg = cmds.StringArg("key", true, false, "Name of the field.")

var profileGetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print a field of your profile.",
		ShortDescription: `
Prints the value of the field: text as it is, other values as JSON. If there
is no such field, the exit status is 1.

  > ipfs npp profile get username
  Anna
`,
	},
	Arguments: []cmds.Argument{fieldArg},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		key := req.Arguments[0]
		v, err := lib.ProfileField(ctx, key)
		if err != nil {
			return profileError(ctx, err, key)
		}
		return res.Emit(&fieldLine{valueJSON(value.Text(key)), valueJSON(v)})
	},
	Type:     fieldLine{},
	Encoders: encodeText(func(l *fieldLine) string { return keyText(l.Value) + "\n" }),
}

var profileSetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Set a field of your profile.",
		ShortDescription: `
Sets a field to a JSON value, or to the text itself if it is not JSON. The
username is always text: 1 to 64 printable characters.

  > ipfs npp profile set username Anna
  username      Anna
  > ipfs npp profile set about 'I play the piano'
  > ipfs npp profile set instruments '["Piano","Violin"]'
`,
	},
	Arguments: []cmds.Argument{fieldArg, cmds.StringArg("value", true, false, "JSON or plain text.")},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		key := req.Arguments[0]
		v := value.Text(req.Arguments[1])
		if key != library.KeyUsername {
			v = valueOf(req.Arguments[1])
		}
		if err := lib.SetProfileField(ctx, key, v); err != nil {
			return profileError(ctx, err, key)
		}
		return res.Emit(&fieldLine{valueJSON(value.Text(key)), valueJSON(v)})
	},
	Type:     fieldLine{},
	Encoders: fieldEncoders,
}

var profileRmCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Remove a field of your profile.",
		ShortDescription: `
Removes a field that you added. The username and the fields that the daemon
sets cannot be removed.

  > ipfs npp profile rm instruments
  removed instruments
`,
	},
	Arguments: []cmds.Argument{fieldArg},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		key := req.Arguments[0]
		if err := lib.RemoveProfileField(ctx, key); err != nil {
			return profileError(ctx, err, key)
		}
		return res.Emit(&fieldLine{Key: valueJSON(value.Text(key))})
	},
	Type:     fieldLine{},
	Encoders: fieldEncoders,
}
