package daemon

import (
	"strings"

	"github.com/newpieceplease/npp/orbit/replicate"
)

// What the owner can do.
const (
	// QuotaAdvice is the advice for a full database.
	QuotaAdvice = "raise the quota in " + SettingsPath + ".Databases and restart the daemon, or drop what is not needed: ipfs npp db drop <database>"
	// SpaceAdvice is the advice for a disk that is almost full.
	SpaceAdvice = "make room on that disk, for example with ipfs repo gc, ipfs npp db drop or ipfs npp messages rm"
)

// phrase returns the command for an operation that a finding advises.
func phrase(o replicate.Operation, args ...string) string {
	switch o {
	case replicate.TurnOnPubsub:
		return "ipfs config --json Pubsub.Enabled true, and restart the daemon"
	case replicate.FreeSpace:
		return SpaceAdvice
	case replicate.RaiseQuota:
		return QuotaAdvice
	case replicate.OpenDatabase:
		return "ipfs npp db open " + args[0]
	case replicate.OpenAs:
		types := "with the type that its manifest names"
		if len(args) > 1 {
			types = strings.Join(args[1:], " or --type ")
		}
		return "ipfs npp db open " + args[0] + " --type " + types
	case replicate.CloseDatabase:
		return "ipfs npp db close " + args[0]
	case replicate.RebuildDatabase:
		return "ipfs npp db rebuild " + args[0]
	case replicate.CompareDeeply:
		return "ipfs npp db doctor --deep " + args[0]
	case replicate.Grant:
		return "ipfs npp db grant " + args[0] + " " + args[1]
	case replicate.WritePlain:
		return "--plain"
	case replicate.Connect:
		return "ipfs npp connect " + args[0]
	case replicate.ShowAddresses:
		return "ipfs id"
	}
	return string(o)
}
