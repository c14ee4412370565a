package cli

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

func init() { calls["ipfs npp id"] = []string{"npp", "id"} }

// ownStores are the names of the library databases.
var ownStores = []string{"pieces", "user", "companions", "practice"}

// idLine is the output of `npp id`.
type idLine struct {
	Peer, ID, Identity, PublicKey, Username, Error string

	Stores []struct{ Name, Address, Error string }
}

func TestIDTellsWhoTheDaemonIs(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	id := decodeLines[idLine](t, n.MustRun("npp", "id", "--enc=json"))[0]
	for name, key := range map[string]string{"id": id.ID, "publicKey": id.PublicKey} {
		if b, err := hex.DecodeString(key); err != nil || len(b) != 33 {
			t.Errorf("%s is %q", name, key)
		}
	}
	want := "peer        " + id.Peer + "\nidentity    " + id.ID + "\nusername    " + id.Username + "\n"
	var names []string
	for _, s := range id.Stores {
		names = append(names, s.Name)
		want += fmt.Sprintf("%-10s  %s\n", s.Name, s.Address)
	}
	if id.Peer != n.PeerID() || !strings.HasPrefix(id.Identity, "zdpu") || !slices.Equal(names, ownStores) {
		t.Errorf("id: %+v", id)
	}
	if got := n.MustRun("npp", "id"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got := decodeLines[idLine](t, rpc(t, n, "npp/id", nil))[0]; got.ID != id.ID || got.Username != id.Username {
		t.Errorf("RPC: %+v", got)
	}
	if entry := db(t, n, "log", "user")[0]; entry.Identity != id.Identity || entry.Writer != id.ID {
		t.Errorf("entries are written by %+v", entry)
	}

	// A username may be a number, as in the tutorial. One with control
	// characters does not count.
	n.MustRun("npp", "db", "put", "user", "username", "123")
	if got := n.MustRun("npp", "id"); !strings.Contains(got, "\nusername    123\n") {
		t.Errorf("got:\n%s", got)
	}
	n.MustRun("npp", "db", "put", "user", "username", `"a\nb\u001b"`)
	if got := n.MustRun("npp", "id"); strings.Contains(got, "username") {
		t.Errorf("got:\n%s", got)
	}
}

// Without the identity's key, databases do not open. The daemon starts and
// gives the reason.
func TestIDSaysWhyThereAreNoDatabases(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	n.Stop()
	keys, err := filepath.Glob(filepath.Join(n.Repo, "keystore", "*"))
	if err != nil || len(keys) == 0 {
		t.Fatal("no keys", err)
	}
	for _, key := range keys {
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
	}
	n.Start()
	r := n.Run("npp", "id")
	if r.Code != 1 || r.Stdout != "peer        "+n.PeerID()+"\n" || !strings.Contains(r.Stderr, "is missing from the keystore") || !strings.Contains(r.Stderr, "; hint: ") {
		t.Errorf("id: %v", r)
	}
	if r := n.Run("npp", "db", "ls"); r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "is missing from the keystore") {
		t.Errorf("db ls: %v", r)
	}
	n.MustRun("npp", "peers", "--count")
}
