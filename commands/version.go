package commands

import (
	"fmt"
	"io"
	"runtime"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"
	kubo "github.com/ipfs/kubo"
	"github.com/ipfs/kubo/core/commands"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/internal/version"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// versionOutput is the output of `npp version`.
type versionOutput struct {
	NPP       string        `json:"npp"`
	Kubo      string        `json:"kubo"`
	Go        string        `json:"go"`
	Platform  string        `json:"platform"` // operating system and architecture
	Protocols []protocol.ID `json:"protocols"`
}

var versionCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show the version of npp, and the protocols that it speaks.",
		ShortDescription: `
Prints the versions of npp, of the kubo that it is built on, and of Go; the
operating system and architecture; and the libp2p protocols that npp adds to
those of kubo. A build without a version prints "(devel)".

The command describes this binary and needs no daemon. /api/v0/npp/version and
'ipfs npp status' tell the version of the daemon.

  > ipfs npp version
  npp        v0.2.0
  kubo       0.43.1
  go         go1.26.8
  platform   linux/amd64
  protocols  /npp/message/1.0.0
             …
`,
	},
	Extra: commands.CreateCmdExtras(commands.SetDoesNotUseRepo(true), commands.SetDoesNotUseConfigAsInput(true)),
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		return cmds.EmitOnce(res, &versionOutput{
			NPP:       version.String(),
			Kubo:      kubo.CurrentVersionNumber,
			Go:        runtime.Version(),
			Platform:  runtime.GOOS + "/" + runtime.GOARCH,
			Protocols: append([]protocol.ID{message.Protocol, card.Protocol}, replicate.Protocols()...),
		})
	},
	Type: versionOutput{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, v *versionOutput) error {
			_, err := fmt.Fprintf(w, "npp        %s\nkubo       %s\ngo         %s\nplatform   %s\nprotocols  %s\n",
				v.NPP, v.Kubo, v.Go, v.Platform, strings.Join(protocol.ConvertToStrings(v.Protocols), "\n           "))
			return err
		}),
	},
}
