package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	logging "github.com/ipfs/go-log/v2"

	"github.com/newpieceplease/npp/test/children"
	"github.com/newpieceplease/npp/test/harness"
)

// TestMain lets one goroutine run at a time, and turns off the garbage
// collector, which runs between events: goroutines that start together then
// nearly always run in the same order.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	logging.SetAllLoggers(logging.LevelFatal) // disks fail on purpose
	if err := prepare(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// number returns the number in an environment variable, or a default.
func number(name string, otherwise int) int {
	n, _ := strconv.Atoi(os.Getenv(name))
	return cmp.Or(n, otherwise)
}

// sized returns the size of the history of a seed.
func sized(seed uint64) size {
	return size{replicas: number("NPP_SIM_REPLICAS", 15), operations: number("NPP_SIM_OPERATIONS", 60+int(seed%3)*70)}
}

// manySized returns the size of the history with many databases of a seed.
func manySized(seed uint64) size {
	return size{replicas: number("NPP_SIM_REPLICAS", 4+int(seed%3)), operations: number("NPP_SIM_OPERATIONS", 200), databases: number("NPP_SIM_DATABASES", 200+int(seed%5)*50)}
}

// happen runs the history of a seed, and returns the sum of its events.
func happen(t *testing.T, seed uint64, n size, trace func(string)) (sum uint64) {
	synctest.Test(t, func(t *testing.T) {
		s := newHistory(seed, n)
		s.trace = trace
		if err := s.run(); err != nil {
			t.Errorf("%v\nTo reproduce: NPP_SIM_SEED=%d go test ./orbit/internal/sim -run %s", err, seed, t.Name())
		}
		entries := 0
		for _, b := range s.databases {
			entries += len(b.written)
		}
		t.Logf("seed %d: %d replicas, %d hostile peers, %d entries, %d events, %v, sum %016x", seed, len(s.replicas), len(s.hostiles), entries, s.count, time.Since(s.begun), s.sum)
		sum = s.sum
	})
	return sum
}

// TestHistories runs the histories of many seeds: NPP_SIM_SEEDS is their
// number, and NPP_SIM_SEED the first. It goes on with further seeds while
// [harness.Soaking]. Each history has a process of its own, as it has when it
// is reproduced. As many processes as processors run at once.
func TestHistories(t *testing.T) {
	runSeeds(t, "TestSeed", number("NPP_SIM_SEEDS", 54))
}

// TestManyHistories is TestHistories, with many databases: NPP_SIM_MANY is the
// number of seeds.
func TestManyHistories(t *testing.T) {
	runSeeds(t, "TestManySeed", number("NPP_SIM_MANY", 3))
}

// runSeeds runs a test with a number of seeds.
func runSeeds(t *testing.T, test string, count int) {
	processes, err := children.New("npp-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(processes.End)
	first := number("NPP_SIM_SEED", 1)
	seeds := make(chan int)
	var group sync.WaitGroup
	for range runtime.NumCPU() {
		group.Go(func() {
			for seed := range seeds {
				one := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v", "-test.timeout=15m")
				one.Env = append(os.Environ(), fmt.Sprintf("NPP_SIM_SEED=%d", seed))
				processes.Add(one)
				if out, err := one.CombinedOutput(); err != nil {
					t.Errorf("seed %d: %v\n%s", seed, err, out)
				}
			}
		})
	}
	next := first
	for next < first+count || harness.Soaking(t) {
		seeds <- next
		next++
	}
	close(seeds)
	group.Wait()
	t.Logf("seeds %d to %d", first, next-1)
}

// TestManySeed is TestSeed, with many databases.
func TestManySeed(t *testing.T) { runSeed(t, manySized) }

// TestSeed runs the history of NPP_SIM_SEED, and prints its events if
// NPP_SIM_TRACE is set.
func TestSeed(t *testing.T) { runSeed(t, sized) }

func runSeed(t *testing.T, sized func(seed uint64) size) {
	var trace func(string)
	if os.Getenv("NPP_SIM_TRACE") != "" {
		trace = func(line string) { fmt.Println(line) }
	}
	seed := uint64(number("NPP_SIM_SEED", 1))
	happen(t, seed, sized(seed), trace)
}

// A seed always draws the same plan, and each event of the plan happens at its
// time in each run. The events that follow are mostly the same as well, which
// the log shows, but that is not guaranteed; see the package.
func TestSameSeedSamePlan(t *testing.T) {
	small := size{replicas: 15, operations: 60}
	other := ""
	for seed := uint64(1); seed <= 6; seed++ {
		var plans, planned [2]string
		var sums [2]uint64
		for i := range sums {
			var events map[string]bool
			synctest.Test(t, func(t *testing.T) { plans[i], events = plan(newHistory(seed, small)) })
			var happened []string
			sums[i] = happen(t, seed, small, func(line string) {
				if events[line] {
					happened = append(happened, line)
				}
			})
			planned[i] = strings.Join(happened, "\n")
			if len(happened) != len(events) {
				t.Errorf("seed %d: %d events are planned, %d of them happened", seed, len(events), len(happened))
			}
		}
		if plans[0] != plans[1] {
			t.Errorf("seed %d: one plan is\n%s\nthe other\n%s", seed, plans[0], plans[1])
		}
		if planned[0] != planned[1] {
			t.Errorf("seed %d: of the plan, there happened\n%s\nthen\n%s", seed, planned[0], planned[1])
		}
		if plans[0] == other {
			t.Errorf("seed %d: the same plan as that of another seed", seed)
		}
		other = plans[0]
		if sums[0] != sums[1] {
			t.Logf("seed %d: the events that followed from the plan differed", seed)
		}
	}
}

// plan returns the plan of a history as text, and the events that are certain
// to happen, as the lines of [world.trace].
func plan(s *history) (text string, events map[string]bool) {
	var b strings.Builder
	name := func(n *node) string { return fmt.Sprintf("%s %s %q", n.name, n.id, n.unknown) }
	fmt.Fprintln(&b, "lasts", s.lasts)
	for _, r := range s.replicas {
		fmt.Fprintln(&b, "replica", name(r.node))
	}
	for _, x := range s.hostiles {
		fmt.Fprintln(&b, "hostile", name(x.node), x.signer.ID)
	}
	for _, l := range s.links {
		fmt.Fprintln(&b, "link", l.nodes[0].name, l.nodes[1].name, l.least, l.most, l.loss, l.repeats)
	}
	for _, d := range s.databases {
		fmt.Fprint(&b, "database ", d.name, " ", d.kind, " ", d.guard, " of ", d.creator.name)
		for _, r := range slices.Concat(d.admins, d.writers) {
			fmt.Fprint(&b, " ", r.name)
		}
		fmt.Fprintln(&b)
	}
	events = make(map[string]bool)
	for len(s.queue) > 0 {
		e := heap.Pop(&s.queue).(step)
		line := e.line(e.at.Sub(s.begun))
		events[line] = true
		fmt.Fprintln(&b, line)
	}
	return b.String(), events
}
