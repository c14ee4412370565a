package sim

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	logging "github.com/ipfs/go-log/v2"
)

// TestMain has one goroutine run at a time, and garbage collected while none does:
// the order of those that begin together is then nearly always the same.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	logging.SetAllLoggers(logging.LevelFatal) // disks fail on purpose
	if err := prepare(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// number returns that of an environment variable, or another one.
func number(name string, otherwise int) int {
	n, _ := strconv.Atoi(os.Getenv(name))
	return cmp.Or(n, otherwise)
}

// sized is how large the history of a seed is.
func sized(seed uint64) size {
	return size{replicas: number("NPP_SIM_REPLICAS", 15), operations: number("NPP_SIM_OPERATIONS", 60+int(seed%3)*70)}
}

// happen has the history of a seed happen, and returns the sum of its events.
func happen(t *testing.T, seed uint64, n size, trace func(string)) (sum uint64) {
	synctest.Test(t, func(t *testing.T) {
		s := newHistory(seed, n)
		s.trace = trace
		if err := s.run(); err != nil {
			t.Errorf("%v\nTo see that again: NPP_SIM_SEED=%d go test ./test/sim -run TestSeed", err, seed)
		}
		entries := 0
		for _, b := range s.bases {
			entries += len(b.written)
		}
		t.Logf("seed %d: %d replicas, %d hostile peers, %d entries, %d events, %v, sum %016x", seed, len(s.replicas), len(s.hostiles), entries, s.count, time.Since(s.begun), s.sum)
		sum = s.sum
	})
	return sum
}

// TestHistories has the histories of many seeds happen: NPP_SIM_SEEDS is how many,
// NPP_SIM_SEED the first. Each has a process of its own, as it has when it is seen
// again; there are as many as there are processors.
func TestHistories(t *testing.T) {
	first := number("NPP_SIM_SEED", 1)
	seeds := make(chan int)
	var group sync.WaitGroup
	for range runtime.NumCPU() {
		group.Go(func() {
			for seed := range seeds {
				one := exec.Command(os.Args[0], "-test.run=^TestSeed$", "-test.v")
				one.Env = append(os.Environ(), fmt.Sprintf("NPP_SIM_SEED=%d", seed))
				if out, err := one.CombinedOutput(); err != nil {
					t.Errorf("seed %d: %v\n%s", seed, err, out)
				}
			}
		})
	}
	for i := range number("NPP_SIM_SEEDS", 100) {
		seeds <- first + i
	}
	close(seeds)
	group.Wait()
}

// TestSeed has the history of NPP_SIM_SEED happen, and tells it where NPP_SIM_TRACE
// is set.
func TestSeed(t *testing.T) {
	var trace func(string)
	if os.Getenv("NPP_SIM_TRACE") != "" {
		trace = func(line string) { fmt.Println(line) }
	}
	seed := uint64(number("NPP_SIM_SEED", 1))
	happen(t, seed, sized(seed), trace)
}

func TestSameSeedSameHistory(t *testing.T) {
	small := size{replicas: 15, operations: 60}
	for seed := uint64(1); seed <= 6; seed++ {
		var first, second []string
		one := happen(t, seed, small, func(line string) { first = append(first, line) })
		two := happen(t, seed, small, func(line string) { second = append(second, line) })
		if one == two {
			continue
		}
		slices.Sort(first)
		slices.Sort(second)
		i := 0
		for i < min(len(first), len(second)) && first[i] == second[i] {
			i++
		}
		t.Errorf("seed %d: %d events, then %d, which differ from %v, then %v", seed, len(first), len(second), first[i:min(i+1, len(first))], second[i:min(i+1, len(second))])
	}
}
