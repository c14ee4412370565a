package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
	"github.com/newpieceplease/npp/test/offline"
)

// document is a document that a client put into a database.
type document struct{ address, key string }

// putters are clients that put documents into random databases of a daemon.
type putters struct {
	acknowledged chan document
	failed       error // of the first put that failed; valid after wait

	enough context.CancelFunc
	tasks  sync.WaitGroup
	once   sync.Once
}

// putsAtMost bounds the puts of all putters of a daemon.
const putsAtMost = 2000

// startPutters starts clients. Each ends with the first put that fails.
func startPutters(t *testing.T, n *harness.Node, addresses []string, name string) *putters {
	t.Helper()
	const clients = 4
	daemon, err := n.Node.RPC()
	if err != nil {
		t.Fatal(err)
	}
	ctx, enough := context.WithCancel(t.Context())
	p := &putters{acknowledged: make(chan document, putsAtMost), enough: enough}
	for client := range clients {
		p.tasks.Go(func() {
			for i := 0; i < putsAtMost/clients && ctx.Err() == nil; i++ {
				d := document{addresses[rand.IntN(len(addresses))], fmt.Sprintf("%s-%d-%d", name, client, i)}
				_, err := daemon.Call(t.Context(), "npp/db/put", url.Values{"arg": {d.address}}, fmt.Appendf(nil, `{"_id":%q,"title":"Prelude No. 1 in C major"}`, d.key))
				if err != nil {
					p.once.Do(func() { p.failed = err })
					return
				}
				p.acknowledged <- d
			}
		})
	}
	return p
}

// take waits for the given number of acknowledged documents.
func (p *putters) take(count int) (documents []document, err error) {
	ended := make(chan struct{})
	go func() {
		p.tasks.Wait()
		close(ended)
	}()
	for len(documents) < count {
		select {
		case d := <-p.acknowledged:
			documents = append(documents, d)
		case <-ended:
			if len(p.acknowledged) == 0 {
				return documents, fmt.Errorf("%d of %d puts were acknowledged: %w", len(documents), count, p.failed)
			}
		}
	}
	return documents, nil
}

// wait ends the clients and returns the acknowledged documents that take did
// not.
func (p *putters) wait() (documents []document) {
	p.enough()
	p.tasks.Wait()
	close(p.acknowledged)
	for d := range p.acknowledged {
		documents = append(documents, d)
	}
	return documents
}

// Two daemons have 2000 databases in common, and clients put documents into
// random ones at both. One daemon is killed, and later stopped, in the middle
// of it, and comes back. In the end, all databases are the same at both
// daemons, and have all acknowledged documents.
func TestManyDatabasesAreInSyncAfterKill(t *testing.T) {
	t.Parallel()
	const databases, putsBefore, putsAfter = 2000, 200, 100
	a, b := harness.New(t).Hide(), harness.New(t).Hide()
	addresses := seedBoth(t, a, b, databases)
	a.Start()
	var put []document
	for round, end := range []func(){b.Kill, func() { b.Stop() }} {
		b.Start()
		b.MustRun("swarm", "connect", a.ListenAddr())
		atA := startPutters(t, a, addresses, fmt.Sprint("a", round))
		atB := startPutters(t, b, addresses, fmt.Sprint("b", round))
		some, err := atB.take(putsBefore)
		if err != nil {
			t.Fatal(err)
		}
		end()
		put = append(append(put, some...), atB.wait()...)
		if some, err = atA.take(putsAfter); err != nil {
			t.Fatal(err)
		}
		put = append(append(put, some...), atA.wait()...)
		if atA.failed != nil {
			t.Errorf("the other daemon refused a put: %v", atA.failed)
		}
	}
	b.Start()
	b.MustRun("swarm", "connect", a.ListenAddr())
	t.Logf("%d puts were acknowledged", len(put))
	awaitAllSame(t, a, b, addresses)
	for _, n := range []*harness.Node{a, b} {
		checkPut(t, n, put)
	}
}

// seedBoth creates the same databases in the repos of two nodes.
func seedBoth(t *testing.T, a, b *harness.Node, databases int) (addresses []string) {
	t.Helper()
	d, err := offline.Open(t.Context(), a.Repo)
	if err != nil {
		t.Fatal(err)
	}
	err = d.Seed(t.Context(), 0, databases, func(address string) { addresses = append(addresses, address) })
	if err = errors.Join(err, d.Close()); err == nil {
		err = offline.Copy(a.Repo, b.Repo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return addresses
}

// awaitAllSame waits until two daemons have the same heads of all databases.
func awaitAllSame(t *testing.T, a, b *harness.Node, addresses []string) {
	t.Helper()
	differ := addresses
	defer func() {
		if len(differ) > 0 {
			t.Logf("%d databases differ, such as %s", len(differ), differ[0])
		}
	}()
	eventually(t, "the daemons have the same heads", func() bool {
		differ = slices.DeleteFunc(slices.Clone(differ), func(address string) bool {
			return slices.Equal(headsOf(t, a, address), headsOf(t, b, address))
		})
		return len(differ) == 0
	})
}

// headsOf returns the heads of a database, sorted.
func headsOf(t *testing.T, n *harness.Node, address string) []string {
	t.Helper()
	l := ask[dbLine](t, n, "db/info", url.Values{"arg": {address}})[0]
	if l.Waiting > 0 || l.Faults > 0 {
		return []string{fmt.Sprintf("%s: %d entries are pending, %d unauthorized", n.PeerID(), l.Waiting, l.Faults)}
	}
	return slices.Sorted(slices.Values(l.Heads))
}

// checkPut checks that a daemon has documents.
func checkPut(t *testing.T, n *harness.Node, documents []document) {
	t.Helper()
	daemon, err := n.Node.RPC()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents {
		if _, err := daemon.Call(t.Context(), "npp/db/get", url.Values{"arg": {d.address, d.key}}, nil); err != nil {
			t.Errorf("an acknowledged document is missing: %v", err)
		}
	}
}
