package commands

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/peer"
	ptest "github.com/libp2p/go-libp2p/core/test"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/swarm"
)

func TestCompanionsTextSaysWhatIsNotHere(t *testing.T) {
	now, twelve := time.Now(), 12
	for want, l := range map[string]companionLine{
		"pieces not here yet":                  {Incomplete: []incompleteLine{{"user", library.ErrIncomplete.Error()}}},
		"pieces being read":                    {Incomplete: []incompleteLine{{"user", library.ErrBeingRead.Error()}}},
		"12 pieces so far":                     {Pieces: &twelve, InStep: &now, Incomplete: []incompleteLine{{"pieces", library.ErrIncomplete.Error()}}},
		"12 pieces":                            {Pieces: &twelve},
		"12 pieces  in sync 0s ago":            {Pieces: &twelve, InStep: &now, Incomplete: []incompleteLine{{"practice", library.ErrIncomplete.Error()}}},
		"12 pieces  in sync 0s ago with 12D3K": {Pieces: &twelve, InStep: &now, With: "12D3K"},
	} {
		l.Companion, l.Name = true, hostile
		got := text(t, companionsLsCmd, nil, &l)
		if !strings.HasSuffix(got, "  offline  "+want+"\n") || !strings.HasPrefix(got, escaped) || strings.Count(got, "\n") != 1 {
			t.Errorf("want %q: %q", want, got)
		}
	}
}

func TestCompanionsAddTextSaysWhatIsNotHere(t *testing.T) {
	twelve := 12
	incomplete := []incompleteLine{{"practice", library.ErrIncomplete.Error()}}
	for want, l := range map[string]companionAddLine{
		"here: 12 pieces\n": {Status: "here", Pieces: &twelve},
		"here: 12 pieces, as the peer 12D3K has them; the companion itself does not have them open\n":                                                                                     {Status: "here", Pieces: &twelve, With: "12D3K"},
		"here: 12 pieces\npractice: " + library.ErrIncomplete.Error() + "\n":                                                                                                              {Status: "here", Pieces: &twelve, Incomplete: incomplete},
		"its library is not complete yet; fetching continues in the background\nto see what is missing: ipfs npp db doctor /orbitdb/z\npractice: " + library.ErrIncomplete.Error() + "\n": {Status: "waiting", Address: "/orbitdb/z", Incomplete: incomplete},
	} {
		if got := text(t, companionsAddCmd, nil, &l); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestHintOfANameIsTheCommandToType(t *testing.T) {
	var ids []peer.ID
	for range 20 {
		ids = append(ids, ptest.RandPeerIDFatal(t))
	}
	id := ids[0].String()
	_, noID := swarm.ParseTarget("alice")
	for _, test := range []struct {
		kind  error
		peers int
		want  []string
	}{
		{library.ErrStranger, 1, []string{`no companion has this name: "alice"`, id, "; hint: if that is the peer you mean: ipfs npp send --private " + id}},
		{library.ErrStranger, 20, []string{"20 peers use it: " + id, " and 12 more; hint: ", "ipfs npp send --private <peer ID>"}},
		{library.ErrAmbiguousName, 2, []string{"several companions have this name", id + ", " + ids[1].String() + "; hint: use a peer ID: ipfs npp send --private <peer ID>"}},
		{library.ErrChangedName, 1, []string{"has another one now", "; hint: ipfs npp send --private " + id + ", or ipfs npp companions add " + id + " to accept the new name"}},
		{library.ErrUnknownName, 0, []string{`peer "alice": no companion has that name; hint: ipfs npp companions ls`}},
	} {
		req := &cmds.Request{Command: sendCmd, Path: []string{"npp", "send"}, Arguments: []string{"alice"}, Options: cmds.OptMap{privateOption: true, jsonOption: false}}
		err := nameHint(&library.NameError{Name: "alice", Err: test.kind, Peers: ids[:test.peers]}, noID, sameCommand(req, "alice"))
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v of %d peers: no %q in %s", test.kind, test.peers, want, err)
			}
		}
		if len(err.Error()) > 1000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%v of %d peers: %s", test.kind, test.peers, err)
		}
	}
	req := &cmds.Request{Command: listenCmd, Path: []string{"npp", "listen"}, Options: cmds.OptMap{fromOption: "alice"}}
	if got, want := sameCommand(req, "alice")(id), fmt.Sprintf("ipfs npp listen --from=%s", id); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
