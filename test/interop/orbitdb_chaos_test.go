package interop

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/test/harness"
)

// chaos is two daemons and two JavaScript peers. A link that can be cut leads
// from the first daemon to the second; each JavaScript peer is connected to one
// daemon. All write to the same databases while daemons are killed, restarted
// and disconnected.
type chaos struct {
	t       *testing.T
	rng     *rand.Rand
	daemons [2]*harness.Node
	link    *harness.Link
	peers   [2]*node
	bases   []chaosBase
	parted  bool
}

// chaosBase is a database that all replicas have.
type chaosBase struct {
	kind         string
	address      string
	inJS         [2]jsReplica
	acknowledged int
}

func TestNothingAcknowledgedIsLostInChaos(t *testing.T) {
	t.Parallel()
	seed := envNumber(t, "NPP_SEED", uint64(time.Now().UnixNano()))
	steps := int(envNumber(t, "NPP_STEPS", 60))
	t.Logf("NPP_SEED=%d NPP_STEPS=%d", seed, steps)
	nodeJS(t)
	c := newChaos(t, rand.New(rand.NewPCG(seed, 0)))
	for i := range steps {
		c.step(i)
	}
	c.heal()
	for n := range c.peers {
		c.dialDaemon(n)
	}
	for _, b := range c.bases {
		daemons := daemonsOf(daemonReplica{t, c.daemons[0], b.address}, daemonReplica{t, c.daemons[1], b.address})
		agree(t, b.acknowledged, daemons, b.inJS[:]...)
		for i, d := range daemons {
			if info := d.info(); info.Faults != 0 || info.Waiting != 0 {
				t.Errorf("daemon %d: %d invalid entries, %d pending", i, info.Faults, info.Waiting)
			}
		}
	}
}

func newChaos(t *testing.T, rng *rand.Rand) *chaos {
	t.Helper()
	c := &chaos{t: t, rng: rng}
	for i, w := range []writer{writerA, writerB} {
		c.daemons[i] = harness.New(t).Hide().FixPort().Start()
		c.peers[i] = startNode(t)
		c.peers[i].newIdentity(w)
		c.dialDaemon(i)
	}
	c.link = harness.NewLink(t, c.daemons[1])
	c.heal()
	for _, kind := range []string{orbit.TypeDocuments, orbit.TypeKeyValue, orbit.TypeEvents} {
		c.add(kind, createIn(t, c.daemons[0], "chaos "+kind, kind).address)
	}
	managed := c.peers[0].createLive(writerA, "chaos managed", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}}, live{})
	managed.change("grant", orbit.Anyone)
	c.add(managed.kind, managed.address)
	for _, d := range c.daemons {
		eventually(t, "the daemon may write", func() (any, bool) {
			writable := lines[struct{ Writable bool }](t, d, "npp", "db", "info", managed.address)[0].Writable
			return writable, writable
		})
	}
	return c
}

// add makes all replicas open a database.
func (c *chaos) add(kind, address string) {
	c.t.Helper()
	b := chaosBase{kind: kind, address: address}
	for _, d := range c.daemons {
		openIn(c.t, d, address)
	}
	for i, w := range []writer{writerA, writerB} {
		b.inJS[i] = c.peers[i].openLive(w, address, live{memory: true})
	}
	c.bases = append(c.bases, b)
}

func (c *chaos) dialDaemon(i int) {
	c.t.Helper()
	c.peers[i].dial(c.daemons[i].ListenAddr())
}

func (c *chaos) heal() {
	c.t.Helper()
	c.link.Heal()
	c.parted = false
	eventually(c.t, "the daemons are connected", func() (any, bool) {
		r := c.daemons[0].Run("swarm", "connect", c.link.Addr)
		return r, r.Code == 0
	})
}

// step writes, or breaks or repairs something.
func (c *chaos) step(n int) {
	c.t.Helper()
	i := c.rng.IntN(2)
	switch what := c.rng.IntN(20); {
	case what < 7:
		c.writeInDaemon(n, i)
	case what < 14:
		c.writeInJS(n, i)
	case what < 16:
		c.daemons[i].Kill()
		c.daemons[i].Start()
		c.back(i)
	case what < 17:
		c.daemons[i].Stop()
		c.daemons[i].Start()
		c.back(i)
	case what < 18:
		c.peers[i].disconnectAll()
	case what < 19:
		c.dialDaemon(i)
	case c.parted:
		c.heal()
	default:
		c.link.Cut()
		c.parted = true
	}
}

// back reconnects a daemon that was offline, unless the daemons are
// partitioned.
func (c *chaos) back(i int) {
	c.t.Helper()
	c.dialDaemon(i)
	if !c.parted {
		c.heal()
	}
}

func (c *chaos) writeInDaemon(n, i int) {
	c.t.Helper()
	b := &c.bases[c.rng.IntN(len(c.bases))]
	args := []string{b.address}
	text := fmt.Sprintf("daemon %d at step %d", i, n)
	switch b.kind {
	case orbit.TypeDocuments:
		args = append(args, fmt.Sprintf(`{"_id":"%d","text":%q}`, c.rng.IntN(5), text))
	case orbit.TypeKeyValue:
		args = append(args, fmt.Sprint(c.rng.IntN(5)), fmt.Sprintf("%q", text))
	default:
		args = append(args, fmt.Sprintf("%q", text))
	}
	for range 1 + c.rng.IntN(5) {
		status, answer := c.daemons[i].RPC("npp/db/put", url.Values{"arg": args}, nil)
		if status != http.StatusOK {
			c.t.Fatalf("put: %s", answer)
		}
		b.acknowledged++
	}
}

func (c *chaos) writeInJS(n, i int) {
	c.t.Helper()
	b := &c.bases[c.rng.IntN(len(c.bases))]
	o := op{kind: "put", value: fromJSON(fmt.Sprintf(`"js %d at step %d"`, i, n))}
	switch b.kind {
	case orbit.TypeDocuments:
		o.value = fromJSON(fmt.Sprintf(`{"_id":"%d","step":%d}`, c.rng.IntN(5), n))
	case orbit.TypeKeyValue:
		o.key = fromJSON(fmt.Sprintf(`"%d"`, c.rng.IntN(5)))
	default:
		o.kind = "add"
	}
	for range 1 + c.rng.IntN(5) {
		_, err := b.inJS[i].write(o)
		must(c.t, err)
		b.acknowledged++
	}
}
