package commands

import (
	"fmt"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit/block"
)

// isSet reports whether a boolean option is set.
func isSet(req *cmds.Request, option string) bool {
	v, _ := req.Options[option].(bool)
	return v
}

// durationOption reads an option that is a positive duration.
func durationOption(req *cmds.Request, option string) (time.Duration, error) {
	text, _ := req.Options[option].(string)
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--%s is %.40q, but must be a duration such as 30s or 2m", option, text)
	}
	return d, nil
}

// limitOption reads --amount, or returns 0 if it is not given: no limit.
func limitOption(req *cmds.Request) (int, error) {
	n, ok := req.Options[amountOption].(int)
	if ok && n < 1 {
		return 0, fmt.Errorf("--%s is %d, but must be 1 or more", amountOption, n)
	}
	return n, nil
}

// hashOption reads an option that is the hash of an entry.
func hashOption(req *cmds.Request, option string) (hash string, given bool, err error) {
	hash, given = req.Options[option].(string)
	if given && !block.ValidHash(hash) {
		err = fmt.Errorf("--%s is %.80q, but must be the hash of an entry", option, hash)
	}
	return hash, given, err
}

// errCommandLineOnly is the error of an option that the RPC does not have.
func errCommandLineOnly(option, hint string) error {
	return fmt.Errorf("--%s works only at the command line; hint: %s", option, hint)
}
