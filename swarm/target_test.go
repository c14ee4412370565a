package swarm

import (
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multibase"
)

const (
	keyID   = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
	hashID  = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"
	relayID = "QmSoLer265NRgSp2LA3dPaeykiS1J6DifTC88f5uVQKNAd"
)

func inBase(t testing.TB, id string, base multibase.Encoding) string {
	p, err := peer.Decode(id)
	if err != nil {
		t.Fatal(err)
	}
	s, err := peer.ToCid(p).StringOfBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseTarget(t *testing.T) {
	p, _ := peer.Decode(hashID)
	const tcp = "/ip4/127.0.0.1/tcp/4001"
	relayed := tcp + "/p2p/" + relayID + "/p2p-circuit"
	for _, test := range []struct{ in, id, addr string }{
		{keyID, keyID, ""},
		{hashID, hashID, ""},
		{" " + keyID + "\n", keyID, ""},
		{inBase(t, keyID, multibase.Base32), keyID, ""},
		{inBase(t, keyID, multibase.Base36), keyID, ""},
		{inBase(t, hashID, multibase.Base16Upper), hashID, ""},
		{inBase(t, hashID, multibase.Base58BTC), hashID, ""},
		{inBase(t, hashID, multibase.Base64url), hashID, ""},
		{"/p2p/" + keyID, keyID, ""},
		{"/ipfs/" + hashID, hashID, ""},
		{"/p2p/" + inBase(t, keyID, multibase.Base36), keyID, ""},
		{tcp + "/p2p/" + keyID, keyID, tcp},
		{tcp + "/ipfs/" + hashID, hashID, tcp},
		{"/dns4/example.net/tcp/443/wss/p2p/" + keyID, keyID, "/dns4/example.net/tcp/443/wss"},
		{"/p2p-circuit/ipfs/" + hashID, hashID, ""},
		{"/p2p-circuit/p2p/" + keyID, keyID, ""},
		{relayed + "/p2p/" + keyID, keyID, relayed},
		{tcp + "/ipfs/" + relayID + "/p2p-circuit/ipfs/" + hashID, hashID, relayed},
		{"/p2p/" + relayID + "/p2p-circuit/p2p/" + keyID, keyID, "/p2p/" + relayID + "/p2p-circuit"},
	} {
		got, err := ParseTarget(test.in)
		if err != nil {
			t.Errorf("%q: %v", test.in, err)
			continue
		}
		var addr string
		if len(got.Addrs) > 0 {
			addr = got.Addrs[0].String()
		}
		if got.ID.String() != test.id || addr != test.addr || len(got.Addrs) > 1 {
			t.Errorf("%q: got %s at %q; want %s at %q", test.in, got.ID, got.Addrs, test.id, test.addr)
		}
	}

	for _, test := range []struct{ in, says string }{
		{"", "no peer named"},
		{" ", "no peer named"},
		{"hello", "peer ID or a multiaddr"},
		{keyID[:20], "peer ID or a multiaddr"},
		{cid.NewCidV1(cid.DagProtobuf, []byte(p)).String(), "dag-pb"},
		{tcp, "names no peer"},
		{tcp + "/p2p/" + relayID + "/p2p-circuit", "names no peer"},
		{"/p2p-circuit", "names no peer"},
		{"/", "peer ID or a multiaddr"},
		{"/p2p/", "peer ID or a multiaddr"},
		{"/p2p/nonsense", "peer ID or a multiaddr"},
		{"/ip4/300.0.0.1/tcp/1/p2p/" + keyID, "peer ID or a multiaddr"},
		{strings.Repeat("1", maxTarget+1), "at most 1024 bytes"},
	} {
		got, err := ParseTarget(test.in)
		if err == nil {
			t.Errorf("%q: got %v, want an error", test.in, got)
		} else if !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q: error %q does not say %q", test.in, err, test.says)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		keyID, hashID, inBase(f, keyID, multibase.Base36), "/p2p/" + keyID, "/p2p-circuit/ipfs/" + hashID,
		"/ip4/127.0.0.1/tcp/4001/p2p/" + relayID + "/p2p-circuit/p2p/" + keyID,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		info, err := ParseTarget(s)
		if err != nil {
			return
		}
		if err := info.ID.Validate(); err != nil || len(info.Addrs) > 1 || len(strings.TrimSpace(s)) > maxTarget {
			t.Fatalf("%q: got %v (%v)", s, info, err)
		}
		addrs, err := peer.AddrInfoToP2pAddrs(&info)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if len(addrs[0].String()) > maxTarget {
			return // longer in its canonical form
		}
		again, err := ParseTarget(addrs[0].String())
		if err != nil || again.ID != info.ID || again.String() != info.String() {
			t.Fatalf("%q: read back from %s as %v (%v), was %v", s, addrs[0], again, err, info)
		}
	})
}
