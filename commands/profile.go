package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

var profileCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Say about oneself what others see.",
		ShortDescription: `
Your profile is the store "user": your username, and whatever else you put
there. Your companions follow it. The daemon itself keeps your peer ID
("nodeId") and the addresses of your stores there ("pieces", "practice").

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
	Value json.RawMessage `json:"value,omitempty"` // none of one that was removed
}

// fieldEncoders print key and value.
var fieldEncoders = cmds.EncoderMap{
	cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *fieldLine) error {
		if l.Value == nil {
			_, err := fmt.Fprintln(w, "removed", keyText(l.Key))
			return err
		}
		_, err := fmt.Fprintf(w, "%-12s  %s\n", keyText(l.Key), keyText(l.Value))
		return err
	}),
}

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
		hint = "ipfs npp profile ls shows what is there"
	default:
		return dbError(err, library.UserName)
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}

var profileLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List what the profile says.",
		ShortDescription: `
Prints each field of your profile with its value: a text as it is, all else as
JSON. In JSON a line has "key" and "value".

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
		for item, err := range lib.Profile(ctx) {
			if err != nil {
				return profileError(ctx, err, "")
			}
			if err := res.Emit(&fieldLine{valueJSON(item.Key), valueJSON(item.Value)}); err != nil {
				return err
			}
		}
		return nil
	},
	Type:     fieldLine{},
	Encoders: fieldEncoders,
}

// fieldArg is the field that a command is about.
var fieldArg = cmds.StringArg("key", true, false, "Name of the field.")

var profileGetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print a field of the profile.",
		ShortDescription: `
Prints the value: a text as it is, all else as JSON. It is an error if there
is none.

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
	Type: fieldLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *fieldLine) error {
			_, err := fmt.Fprintln(w, keyText(l.Value))
			return err
		}),
	},
}

var profileSetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Set a field of the profile.",
		ShortDescription: `
Sets a field to JSON, or to a text where it is no JSON. The username is a text
in any case: 1 to 64 characters that can be shown.

  > ipfs npp profile set username Anna
  username      Anna
  > ipfs npp profile set about 'I play the piano'
  > ipfs npp profile set instruments '["Piano","Violin"]'
`,
	},
	Arguments: []cmds.Argument{fieldArg, cmds.StringArg("value", true, false, "JSON or a text.")},
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
		Tagline: "Remove a field of the profile.",
		ShortDescription: `
Removes a field that you put there. The username, and what the daemon itself
keeps in the profile, stay.

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
