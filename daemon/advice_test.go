package daemon

import (
	"testing"

	"github.com/newpieceplease/npp/orbit/replicate"
)

func TestFindingsAdviseCommands(t *testing.T) {
	for want, got := range map[string]string{
		"ipfs config --json Pubsub.Enabled true, and restart the daemon":                                                                          phrase(replicate.TurnOnPubsub),
		"make room on that disk, for example with ipfs repo gc, ipfs npp db drop or ipfs npp messages rm":                                         phrase(replicate.FreeSpace),
		"raise the quota in Plugins.Plugins.npp.Config.Databases and restart the daemon, or drop what is not needed: ipfs npp db drop <database>": phrase(replicate.RaiseQuota),
		"ipfs npp db open /orbitdb/z": phrase(replicate.OpenDatabase, "/orbitdb/z"),
		"ipfs npp db open /orbitdb/z --type with the type that its manifest names": phrase(replicate.OpenAs, "/orbitdb/z"),
		"ipfs npp db open /orbitdb/z --type keyvalue":                              phrase(replicate.OpenAs, "/orbitdb/z", "keyvalue"),
		"ipfs npp db open /orbitdb/z --type documents or --type keyvalue":          phrase(replicate.OpenAs, "/orbitdb/z", "documents", "keyvalue"),
		"ipfs npp db close /orbitdb/z":                                             phrase(replicate.CloseDatabase, "/orbitdb/z"),
		"ipfs npp db rebuild /orbitdb/z":                                           phrase(replicate.RebuildDatabase, "/orbitdb/z"),
		"ipfs npp db doctor --deep /orbitdb/z":                                     phrase(replicate.CompareDeeply, "/orbitdb/z"),
		"ipfs npp db grant /orbitdb/z <identity>":                                  phrase(replicate.Grant, "/orbitdb/z", "<identity>"),
		"--plain":                 phrase(replicate.WritePlain),
		"ipfs npp connect <peer>": phrase(replicate.Connect, "<peer>"),
		"ipfs id":                 phrase(replicate.ShowAddresses),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
