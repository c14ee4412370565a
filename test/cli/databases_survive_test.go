package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/test/harness"
	"github.com/newpieceplease/npp/test/offline"
)

// stopped has the databases of a node whose daemon does not run.
type stopped struct{ *offline.Databases }

// open opens the databases in the repo of a node.
func open(t *testing.T, n *harness.Node) *stopped {
	t.Helper()
	d, err := offline.Open(t.Context(), n.Repo)
	if err != nil {
		t.Fatal(err)
	}
	return &stopped{d}
}

func (s *stopped) close(t *testing.T) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func (s *stopped) documents(t *testing.T, name string) (*orbit.Database, *orbit.Documents) {
	t.Helper()
	db, err := s.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := db.Documents()
	if err != nil {
		t.Fatal(err)
	}
	return db, docs
}

// putter puts documents over the RPC of a daemon and records which were
// acknowledged.
type putter struct {
	url string

	mu    sync.Mutex
	acked map[string]int // by document ID, the number in its last acknowledged put
	count int
	on    func(count int) // called after each put, with the lock held
}

// put puts a document and reports whether it was acknowledged.
func (p *putter) put(ctx context.Context, id string, n int) bool {
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, _ := w.CreateFormFile("value", "value")
	json.NewEncoder(part).Encode(map[string]any{"_id": id, "n": n, "title": "Prelude No. 1 in C major", "composer": "J. S. Bach"})
	w.Close()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, p.url, &form)
	req.Header.Set("Content-Type", w.FormDataContentType())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"hash"`)) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked[id] = n
	p.count++
	p.on(p.count)
	return true
}

// A daemon is killed at random moments while sixteen clients put documents
// repeatedly. After each kill, every acknowledged document has its last value,
// and the index agrees with the log: an export of the log, joined to a new
// database, gives the same content.
func TestAcknowledgedPutsSurviveKills(t *testing.T) {
	t.Parallel()
	harness.Repeat(t, putAndKill)
}

// putAndKill kills one daemon 40 times, and up to 200 times while
// [harness.Soaking].
func putAndKill(t *testing.T) {
	const clients, name = 16, "concerts"
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	n := harness.New(t).Start()
	n.MustRun("npp", "db", "create", name, "--type=documents")
	acked := make(map[string]int)
	for kill := 0; kill < 40 || kill < 200 && harness.Soaking(t); kill++ {
		if kill > 0 {
			n.Start()
		}
		reached := make(chan struct{})
		target := 1 + random.IntN(120)
		p := &putter{url: n.APIURL() + "npp/db/put?" + url.Values{"arg": {name}}.Encode(), acked: make(map[string]int)}
		p.on = func(count int) {
			if count == target {
				close(reached)
			}
		}
		var running sync.WaitGroup
		for client := range clients {
			running.Go(func() {
				// Each client has a few documents of its own, which it puts
				// repeatedly.
				for i := 0; p.put(t.Context(), fmt.Sprintf("%d/%d", client, i%40), kill*100000+i); i++ {
				}
			})
		}
		ended := make(chan struct{})
		go func() {
			running.Wait()
			close(ended)
		}()
		select {
		case <-reached:
		case <-ended:
			t.Fatalf("kill %d: after %d of %d puts, none succeeds any more", kill, p.count, target)
		}
		n.Kill()
		<-ended

		s := open(t, n)
		_, docs := s.documents(t, name)
		for id, number := range p.acked {
			acked[id] = number
			checkDocument(t, docs, id, number)
		}
		if kill%20 == 19 {
			for id, number := range acked {
				checkDocument(t, docs, id, number)
			}
			checkWhole(t, s, name)
		}
		s.close(t)
		if t.Failed() {
			t.Fatalf("after kill %d", kill)
		}
	}
}

// checkDocument checks that a document has a number or a later one: an
// unacknowledged put may be there too.
func checkDocument(t *testing.T, docs *orbit.Documents, id string, number int) {
	t.Helper()
	item, err := docs.Get(t.Context(), id)
	if err != nil {
		t.Errorf("document %s: %v", id, err)
		return
	}
	var doc struct{ N int }
	if err := item.Value.Decode(&doc); err != nil || doc.N < number {
		t.Errorf("document %s is %s, %v; put with %d", id, item.Value, err, number)
	}
}

// checkWhole compares a database with a new one that joins its exported log.
func checkWhole(t *testing.T, s *stopped, name string) {
	t.Helper()
	db, docs := s.documents(t, name)
	var car bytes.Buffer
	exported, err := db.Export(t.Context(), &car)
	if err != nil || len(exported.Damaged) > 0 {
		t.Fatalf("export: %+v, %v", exported, err)
	}
	fresh, err := orbit.New(t.Context(), orbit.Config{
		Store: store.New(dssync.MutexWrap(datastore.NewMapDatastore()), "/orbit"), Keystore: keystore.NewMemKeystore(),
	})
	if err != nil {
		t.Fatal(err)
	}
	other, imported, err := fresh.Import(t.Context(), &car, nil)
	if err != nil || imported.Entries != exported.Entries {
		t.Fatalf("exported %+v, imported %+v, %v", exported, imported, err)
	}
	otherDocs, err := other.Documents()
	if err != nil {
		t.Fatal(err)
	}
	stats, err := db.Stats(t.Context())
	otherStats, otherErr := other.Stats(t.Context())
	if err != nil || otherErr != nil || fmt.Sprint(stats) != fmt.Sprint(otherStats) {
		t.Errorf("%+v, %v; from the log: %+v, %v", stats, err, otherStats, otherErr)
	}
	if a, b := allOf(t, docs), allOf(t, otherDocs); a != b {
		t.Errorf("the index has\n%s\nthe log\n%s", a, b)
	}
	if a, b := orderOf(t, db), orderOf(t, other); a != b {
		t.Errorf("in order\n%s\nfrom the log\n%s", a, b)
	}
}

func allOf(t *testing.T, docs *orbit.Documents) string {
	t.Helper()
	var all bytes.Buffer
	for item, err := range docs.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&all, item.Hash, item.Value)
	}
	return all.String()
}

func orderOf(t *testing.T, db *orbit.Database) string {
	t.Helper()
	var order bytes.Buffer
	var e *entry.Entry
	var err error
	for e, err = range db.Iterate(t.Context(), orbit.Range{}) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&order, e.Hash())
	}
	return order.String()
}
