package compat

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// call calls a command of the RPC. The query has its arguments and options.
func (m *musician) call(path string, query url.Values) (answer string) {
	m.t.Helper()
	status, answer := m.RPC("npp/"+path, query, nil)
	if status != http.StatusOK {
		m.t.Fatalf("%s %v: %d: %s", path, query, status, answer)
	}
	return answer
}

// shared is a database that both musicians have open and may write.
type shared struct {
	address string
	entries int // acknowledged
}

// createMany creates databases with an entry each.
func (m *musician) createMany(n int) (list []*shared) {
	m.t.Helper()
	for i := range n {
		var created struct{ Address string }
		out := m.call("db/create", url.Values{"arg": {fmt.Sprintf("shared %d of %s", i, m.PeerID())}, "type": {"events"}, "write": {"*"}})
		if err := json.Unmarshal([]byte(out), &created); err != nil {
			m.t.Fatal(err)
		}
		s := &shared{address: created.Address}
		m.add(s)
		list = append(list, s)
	}
	return list
}

// add adds an entry.
func (m *musician) add(s *shared) {
	m.t.Helper()
	s.entries++
	m.call("db/put", url.Values{"arg": {s.address, fmt.Sprintf(`"entry %d"`, s.entries)}})
}

// open replicates databases.
func (m *musician) open(list []*shared) {
	m.t.Helper()
	for _, s := range list {
		m.call("db/open", url.Values{"arg": {s.address}})
	}
}

// entries returns the number of entries of each database.
func (m *musician) entries() map[string]int {
	m.t.Helper()
	counts := make(map[string]int)
	lines := json.NewDecoder(strings.NewReader(m.call("db/ls", nil)))
	for lines.More() {
		var line struct {
			Address string
			Entries int
		}
		if err := lines.Decode(&line); err != nil {
			m.t.Fatal(err)
		}
		counts[line.Address] = line.Entries
	}
	return counts
}

// agree waits until both musicians have all entries.
func agree(t *testing.T, what string, list []*shared, both ...*musician) {
	t.Helper()
	begin := time.Now()
	for _, m := range both {
		eventually(t, what, func() bool {
			counts := m.entries()
			for _, s := range list {
				if counts[s.address] != s.entries {
					return false
				}
			}
			return true
		})
	}
	t.Logf("%s: after %v", what, time.Since(begin).Round(time.Millisecond))
}

// Two daemons of different versions have many databases in common. They come in
// sync, whichever is started first, and stay so: by entries of either, and after
// a restart of either.
func TestManyDatabasesInCommonOfTwoVersions(t *testing.T) {
	t.Parallel()
	old, now := before(t), harness.NPP(t)
	for name, bins := range map[string][2]string{"the version before first": {old, now}, "this version first": {now, old}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newMusician(t, bins[0]), newMusician(t, bins[1])
			both := []*musician{a, b}
			var list []*shared
			for _, m := range both {
				m.Hide().Start()
			}
			for i, m := range both {
				created := m.createMany(100)
				both[1-i].open(created)
				list = append(list, created...)
			}
			for _, m := range both {
				m.Stop()
			}
			for _, m := range both {
				m.Start()
			}
			b.MustRun("swarm", "connect", a.ListenAddr())
			agree(t, "they come in sync", list, both...)

			for i := range 20 {
				s := list[rand.IntN(len(list))]
				both[i%2].add(s)
			}
			agree(t, "they stay in sync", list, both...)

			for i, m := range both {
				other := both[1-i]
				m.Stop()
				for range 20 {
					other.add(list[rand.IntN(len(list))])
				}
				m.Start()
				m.MustRun("swarm", "connect", other.ListenAddr())
				agree(t, "they are in sync after a restart", list, both...)
				m.add(list[0])
				other.add(list[1])
				agree(t, "they stay in sync after a restart", list, both...)
			}
		})
	}
}
