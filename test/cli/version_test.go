package cli

import (
	"encoding/json"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

type versions struct {
	NPP, Kubo, Go, Platform string
	Protocols               []string
}

func TestVersionNeedsNoDaemonAndNoRepo(t *testing.T) {
	t.Parallel()
	n := harness.Bare(t, harness.NPP(t))
	n.Repo = filepath.Join(n.Repo, "missing")
	var v versions
	if err := json.Unmarshal([]byte(n.MustRun("npp", "version", "--enc=json")), &v); err != nil {
		t.Fatal(err)
	}
	if v.NPP == "" || v.Kubo != "0.43.1" || v.Go != runtime.Version() || v.Platform != runtime.GOOS+"/"+runtime.GOARCH {
		t.Errorf("%+v", v)
	}
	text := strings.Fields(n.MustRun("npp", "version"))
	want := append([]string{"npp", v.NPP, "kubo", v.Kubo, "go", v.Go, "platform", v.Platform, "protocols"}, v.Protocols...)
	if !slices.Equal(text, want) {
		t.Errorf("%q, want %q", text, want)
	}
}

func TestVersionListsTheProtocolsOfTheDaemon(t *testing.T) {
	t.Parallel()
	n, stock := harness.New(t).Start(), harness.NewStock(t).Set("Pubsub.Enabled", true).Start()
	var v versions
	if status, answer := n.RPC("npp/version", nil, nil); status != 200 || json.Unmarshal([]byte(answer), &v) != nil {
		t.Fatalf("%d %s", status, answer)
	}
	kubos := advertised(t, stock)
	ours := slices.DeleteFunc(advertised(t, n), func(p string) bool { return slices.Contains(kubos, p) })
	slices.Sort(ours)
	slices.Sort(v.Protocols)
	if !slices.Equal(ours, v.Protocols) {
		t.Errorf("npp version lists %q, the daemon advertises %q", v.Protocols, ours)
	}
	var status struct{ Version string }
	if err := json.Unmarshal([]byte(n.MustRun("npp", "status", "--enc=json")), &status); err != nil || status.Version != v.NPP {
		t.Errorf("npp status says version %q (%v), npp version %q", status.Version, err, v.NPP)
	}
}

// advertised returns the libp2p protocols that a daemon tells its peers.
func advertised(t *testing.T, n *harness.Node) []string {
	t.Helper()
	var id struct{ Protocols []string }
	if err := json.Unmarshal([]byte(n.MustRun("id", "--enc=json")), &id); err != nil {
		t.Fatal(err)
	}
	return id.Protocols
}
