// Command ipfs is stock kubo with the plugins of preload_list and the
// `ipfs npp` commands compiled in.
package main

import (
	"os"

	"github.com/ipfs/kubo/cmd/ipfs/kubo"

	"github.com/newpieceplease/npp/commands"
)

//go:generate go run ../preload -o preload.go ../../preload_list

func main() {
	commands.Register()
	os.Exit(kubo.Start(commands.BuildEnv(preload)))
}
