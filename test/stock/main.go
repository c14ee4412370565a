// Command stock is kubo's own main, built from the same module graph as
// cmd/ipfs. The tests and benchmarks compare the ipfs of cmd/ipfs with it.
package main

import (
	"os"

	"github.com/ipfs/kubo/cmd/ipfs/kubo"
)

func main() { os.Exit(kubo.Start(kubo.BuildDefaultEnv)) }
