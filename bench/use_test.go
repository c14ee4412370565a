package main

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestCPUIsUserAndSystemTime(t *testing.T) {
	const stat = "12 (a) name (b)) S 1 12 12 0 -1 4194560 4100 0 7 0 125 25 3 4 20 0 12 0 990 126 30 18446744073709551615"
	if got, err := parseCPU(stat); err != nil || got != 1500*time.Millisecond {
		t.Errorf("the CPU time is %v (%v), want 1.5s", got, err)
	}
	if _, err := parseCPU("12 (a) S 1"); err == nil {
		t.Error("a truncated line has a CPU time")
	}
}

// used returns the CPU time of this process from getrusage.
func used(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func TestUseOfAProcess(t *testing.T) {
	before := used(t)
	u, err := beginUse(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begun := used(t); used(t)-begun < 100*time.Millisecond; {
	}
	if err := u.end(); err != nil {
		t.Fatal(err)
	}
	if most := used(t) - before; u.cpu < 100*time.Millisecond-2*clockTick || u.cpu > most+2*clockTick {
		t.Errorf("a loop that took from 100 ms to %v of CPU took %v", most, u.cpu)
	}
	if u.before <= 0 || u.most < u.after {
		t.Errorf("memory: %.1f MiB before, %.1f after, %.1f at most", u.before, u.after, u.most)
	}
}
