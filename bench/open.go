package main

import (
	"context"
	"fmt"
)

// open measures the memory of a daemon by the number of its databases.
func (m *replicateBench) open(ctx context.Context) ([]*section, error) {
	counts := []int{0, 1, 100, 500}
	rounds := m.pick(3, 1)
	resident, settled, heap := make([][]float64, len(counts)), make([][]float64, len(counts)), make([][]float64, len(counts))
	round := func() error {
		d, err := startDaemonReplica(ctx, m.bench)
		if err != nil {
			return err
		}
		defer d.stop()
		for at, made := 0, 0; at < len(counts); at++ {
			progress("%d databases", counts[at])
			for ; made < counts[at]; made++ {
				if err := d.open(ctx, fmt.Sprint("open ", made)); err != nil {
					return err
				}
			}
			if err := wait(ctx, m.settle()); err != nil {
				return err
			}
			rss, err := d.memory("VmRSS")
			if err != nil {
				return err
			}
			live, err := d.heap(ctx)
			if err != nil {
				return err
			}
			if err := wait(ctx, m.settle()); err != nil {
				return err
			}
			after, err := d.memory("VmRSS")
			if err != nil {
				return err
			}
			resident[at], settled[at], heap[at] = append(resident[at], rss), append(settled[at], after), append(heap[at], live)
		}
		return nil
	}
	for range rounds {
		if err := round(); err != nil {
			return nil, err
		}
	}
	s := &section{
		title: "Replication: memory of a daemon by its databases",
		how: fmt.Sprintf("One daemon creates databases besides its own; all are open and replicated, and no peer is connected. Resident memory (VmRSS) %.0f s after the last was created and %.0f s after a garbage collection; "+
			"live objects on the heap then; %d rounds.", m.settle().Seconds(), m.settle().Seconds(), rounds),
	}
	s.row("databases", "resident", "resident after a garbage collection", "heap")
	for at, n := range counts {
		s.row(fmt.Sprint(n), mib(median(resident[at])), mib(median(settled[at])), mib(median(heap[at])))
	}
	last := len(counts) - 1
	each := func(of [][]float64) string {
		kib := differences(of[last], of[1])
		return fmt.Sprintf("%.1f KiB", 1024*median(kib)/float64(counts[last]-counts[1]))
	}
	s.row("per further database", each(resident), each(settled), each(heap))
	return []*section{s}, nil
}
