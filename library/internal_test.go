package library

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ptest "github.com/libp2p/go-libp2p/core/test"
	"github.com/multiformats/go-multibase"
	"github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/library/companion"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// While the companions are being read, the card would tell each companion that
// it is not followed any more.
func TestNoCardIsSentBeforeTheCompanionsAreRead(t *testing.T) {
	id := ptest.RandPeerIDFatal(t)
	l := &Library{companions: map[string]*companionState{"theirs": {id: id}}}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	l.ctx = canceled // so that ownCard does not wait
	l.companionsLoaded.begin()
	l.profileLoaded.begin()
	l.profileLoaded.end(nil)
	if c, err := l.ownCard(id); err == nil {
		t.Errorf("the card is %+v", c)
	}
	l.ctx = t.Context()
	l.companionsLoaded.end(nil)
	if c, err := l.ownCard(id); !c.Follows || err != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

// Fields that change in one batch, such as the peer ID and the address of the
// pieces, take effect together.
func TestFieldsOfAUserDatabaseChangeTogether(t *testing.T) {
	o, err := orbit.New(t.Context(), orbit.Config{Store: store.New(storetest.NewDisk(), "/orbit"), Keystore: keystore.NewMemKeystore()})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	db, err := o.Create(t.Context(), "user", orbit.Options{Type: orbit.TypeKeyValue})
	if err != nil {
		t.Fatal(err)
	}
	kv, err := db.KeyValue()
	if err != nil {
		t.Fatal(err)
	}
	l := &Library{ctx: t.Context(), budget: piece.NewBudget(companionsBudget)}
	c := l.newCompanion(ptest.RandPeerIDFatal(t), db.Address(), "")
	c.databases = new(companion.Databases).NewSet(c.id, c.user, c)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.readUser(ctx, db) }()
	for round := range 20 {
		value := fmt.Sprint(round)
		batch := []orbit.Pair{{Key: KeyPieces, Value: value}}
		for i := range 200 { // enough that a reader could see the first pair without the last
			batch = append(batch, orbit.Pair{Key: fmt.Sprint("key", i), Value: value})
		}
		batch = append(batch, orbit.Pair{Key: KeyNodeID, Value: value})
		if _, err := kv.PutMany(t.Context(), slices.Values(batch)); err != nil {
			t.Fatal(err)
		}
		for last := ""; last != value; {
			if len(ended) > 0 {
				t.Fatal(<-ended)
			}
			c.mu.Lock()
			pieces, _ := c.fields[KeyPieces].Text()
			last, _ = c.fields[KeyNodeID].Text()
			c.mu.Unlock()
			if pieces != last {
				t.Fatalf("in round %d, the pieces are from round %q and the peer ID from round %q", round, pieces, last)
			}
		}
	}
	stop()
	<-ended
}

// Decoding base36 takes quadratic time: a megabyte in a hostile user database
// would take minutes.
func TestLongTextIsNotDecodedAsAPeerID(t *testing.T) {
	id := ptest.RandPeerIDFatal(t)
	short, err := peer.ToCid(id).StringOfBase(multibase.Base36)
	if err != nil || !isPeer(short, id) {
		t.Fatalf("%s is not %s: %v", short, id, err)
	}
	digest, err := multihash.Sum(make([]byte, maxPeerID), multihash.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	long := cid.NewCidV1(cid.Libp2pKey, digest).String()
	if id, err := peer.Decode(long); err != nil || isPeer(long, id) {
		t.Errorf("a text of %d bytes is decoded: %v", len(long), err)
	}
}
