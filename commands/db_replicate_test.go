package commands

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
)

func TestOpenTextSaysHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for want, l := range map[string]openLine{
			"open /orbitdb/z gigs: 1 entry, 0 pending, open at 0 peers\n": {
				Address: "/orbitdb/z", Name: "gigs", Entries: 1, statusLine: statusLine{State: "open", Peers: []dbPeerLine{{}}}},
			"open /orbitdb/z gigs: 2 entries, 3 pending, open at 1 peer, requesting 4 blocks\n": {
				Address: "/orbitdb/z", Name: "gigs", Entries: 2, Pending: 3, statusLine: statusLine{State: "open", Asking: 4, Peers: []dbPeerLine{{Open: true}}}},
			"fetching /orbitdb/z: open at 0 peers, 1 missing\n  missing  zdpuA  requested for 0s, without success 2 times, last from a, b, c and 1 more\n": {
				Address: "/orbitdb/z", statusLine: statusLine{State: "fetching", MissingBlocks: []missingLine{{Hash: "zdpuA", Since: now, Tries: 2, Asked: []string{"a", "b", "c", "d"}}}}},
			"failed /orbitdb/z: open at 0 peers\n  no manifest\n": {
				Address: "/orbitdb/z", statusLine: statusLine{State: "failed", Error: "no manifest"}},
		} {
			if got := text(t, dbOpenCmd, nil, &l); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		many := openLine{statusLine: statusLine{MissingBlocks: make([]missingLine, maxRows+3)}}
		if got := many.text(); !strings.HasSuffix(got, "  missing  and 3 more\n") {
			t.Errorf("many: %s", got)
		}
	})
}

func TestProgressIsALineASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := progressLines{w: &out}
		for entries := range uint64(50) {
			p.show("open: " + (&openLine{Entries: entries, statusLine: statusLine{State: "open"}}).progress())
			time.Sleep(100 * time.Millisecond) // of the bubble's clock
		}
		for range 2 {
			p.show("open: " + (&openLine{Entries: 60, statusLine: statusLine{State: "open"}}).progress())
			time.Sleep(time.Second)
		}
		if got := strings.Count(out.String(), "\n"); got != 6 || !strings.HasPrefix(out.String(), "open: 0 entries, 0 pending, open at 0 peers\nopen: 10 entries") {
			t.Errorf("%d lines: %s", got, out.String())
		}
	})
}

func TestPeersOfADatabaseInText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(-12 * time.Second)
		for want, l := range map[string]dbPeerLine{
			"12D3 open direct exchanged 12s ago in sync 12s ago kubo/0.43.1": {Peer: "12D3", Open: true, Connected: true, Agent: "kubo/0.43.1", Exchanged: &at, InStep: &at},
			"12D3 gone relayed exchanged never in sync never":                {Peer: "12D3", Connected: true, Relayed: true},
			"/orbitdb/z 12D3 gone - exchanged 12s ago in sync never broken":  {Database: "/orbitdb/z", Peer: "12D3", Exchanged: &at, Error: "broken"},
		} {
			if got := strings.Join(strings.Fields(text(t, dbPeersCmd, nil, &l)), " "); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}

func TestWatchTextOfPayloadsThatAreNoOperations(t *testing.T) {
	for want, l := range map[string]watchLine{
		"update  PUT  03f5a7c2  a  {\"b\":1}\n": {Event: "update", Op: json.RawMessage(`"PUT"`), Key: json.RawMessage(`"a"`), Value: json.RawMessage(`{"b":1}`), Writer: "03f5a7c2e1"},
		"update  ADD  ?         -  1\n":         {Event: "update", Op: json.RawMessage(`"ADD"`), Key: json.RawMessage(`null`), Value: json.RawMessage(`1`)},
		"update  5    ?         [1]\n":          {Event: "update", Op: json.RawMessage(`5`), Key: json.RawMessage(`[1]`)},
		"update  ?    ?         -\n":            {Event: "update"},
		"join    12D3\n":                        {Event: "join", Peer: "12D3"},
	} {
		if got := l.text(); !strings.HasSuffix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDoctorTextHasAdviceBelow(t *testing.T) {
	got := text(t, dbDoctorCmd, nil, &findingLine{Check: "peers", Level: "problem", Text: "none", Advice: "connect"}) +
		text(t, dbDoctorCmd, nil, &findingLine{Check: "heads", Level: "ok", Text: "in sync", Peer: "12D3"})
	want := "problem  peers     none\n                   connect\nok       heads     12D3: in sync\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOnlyYesDropsADatabase(t *testing.T) {
	l := &infoLine{Name: "a\x1b[31m", Address: "/orbitdb/z", Entries: 31}
	for answer, want := range map[string]bool{"y\n": true, "Y\n": true, " yes \n": true, "y": true,
		"": false, "\n": false, "n\n": false, "yy\n": false, "no\ny\n": false, strings.Repeat(" ", 1000) + "y\n": false} {
		var out bytes.Buffer
		if got := ask(strings.NewReader(answer), &out, dropQuestion(l)); got != want {
			t.Errorf("%.20q: %v", answer, got)
		}
		if out.String() != `drop a\x1b[31m (/orbitdb/z), 31 entries? [y/N] ` {
			t.Errorf("asked: %q", out.String())
		}
	}
	var out bytes.Buffer
	ask(strings.NewReader(""), &out, dropQuestion(&infoLine{Address: "/orbitdb/z", statusLine: statusLine{State: "fetching"}}))
	if out.String() != "drop /orbitdb/z, which is not here yet? [y/N] " {
		t.Errorf("asked: %q", out.String())
	}
}

func TestTheAPIIsThatOfTheCommandLine(t *testing.T) {
	for _, addr := range []string{"/ip4/127.0.0.1/tcp/5001", "/unix/run/ipfs.sock", "/dns/example.org/tcp/443/https"} {
		req := &cmds.Request{Options: cmds.OptMap{"api": addr, "api-auth": "basic:a:b"}}
		api, err := apiOf(req, nil)
		if err != nil || api.Headers.Get("Authorization") != "Basic YTpi" {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if _, err := apiOf(&cmds.Request{Options: cmds.OptMap{"api": "nonsense"}}, nil); err == nil {
		t.Error("nonsense is an address")
	}
}
