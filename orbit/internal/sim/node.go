package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/ipfs/boxo/keystore"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/identity"
)

// node is a peer, honest or not. It outlives its host.
type node struct {
	w       *world
	name    string
	chance  digest
	id      peer.ID
	unknown string // prefix of the names of protocols that it does not know, unless it is empty
	links   []*link
	host    *host // nil while the node does not run; guarded by w.mu
}

// Names of keys.
const (
	rootKey    = "orbitdb-root"
	signingKey = "orbitdb-signing"
)

// What replicas do not know that are not daemons of this version.
const (
	javaScript = "/npp/"
	earlier    = "/npp/orbitdb/inventory/"
)

func newNode(w *world, name string) *node {
	n := &node{w: w, name: name, chance: w.chance.text(name)}
	n.id, _ = peer.IDFromPublicKey(n.key("peer").GetPublic())
	return n
}

// key returns a private key.
func (n *node) key(name string) crypto.PrivKey {
	secret := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(name), n.chance.mixed()))
	key, _ := crypto.UnmarshalSecp256k1PrivateKey(secret[:]) // fails for another length
	return key
}

// keystore returns the keys of the node's identity.
func (n *node) keystore() identity.Keystore {
	keys := keystore.NewMemKeystore()
	for _, name := range []string{rootKey, signingKey} {
		keys.Put(name, n.key(name))
	}
	return keys
}

// up starts the host of the node, and dials.
func (n *node) up() *host {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.host = newHost(n)
	for _, l := range n.links {
		l.redial()
	}
	return n.host
}

// down stops the host of the node. Others notice it within a time.
func (n *node) down(within time.Duration) {
	n.w.mu.Lock()
	h := n.host
	n.host = nil
	n.w.mu.Unlock()
	if h != nil {
		h.close(within)
	}
}

// newLink links two nodes.
func newLink(a, b *node) *link {
	w := a.w
	key := w.chance.text("link").text(a.name).text(b.name)
	l := &link{w: w, nodes: [2]*node{a, b}}
	l.least = key.text("least").between(time.Millisecond, 80*time.Millisecond)
	l.most = l.least + key.text("most").between(time.Millisecond, 300*time.Millisecond)
	if key.text("lossy").share() < 0.5 {
		l.loss, l.repeats = key.text("loss").share()/2, key.text("repeats").share()/4
	}
	a.links, b.links = append(a.links, l), append(b.links, l)
	return l
}

// linked reports whether two nodes are linked.
func linked(a, b *node) bool {
	for _, l := range a.links {
		if l.nodes[0] == b || l.nodes[1] == b {
			return true
		}
	}
	return false
}
