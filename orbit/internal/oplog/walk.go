package oplog

import "container/heap"

// walk is a priority queue of entries by number, the largest first. Each entry
// has a mark.
type walk struct {
	numbers maxHeap
	marks   map[uint64]mark
	doubted int
}

func newWalk() *walk { return &walk{marks: make(map[uint64]mark)} }

// push adds an entry. If the entry has a mark already, the larger of the two
// remains.
func (w *walk) push(number uint64, m mark) {
	old, ok := w.marks[number]
	if ok && old >= m {
		return
	}
	if !ok {
		heap.Push(&w.numbers, number)
	} else if old == doubted {
		w.doubted--
	}
	if m == doubted {
		w.doubted++
	}
	w.marks[number] = m
}

func (w *walk) pop() (number uint64, m mark) {
	number = heap.Pop(&w.numbers).(uint64)
	m = w.marks[number]
	delete(w.marks, number)
	if m == doubted {
		w.doubted--
	}
	return number, m
}

// maxHeap is a heap of numbers, the largest first.
type maxHeap []uint64

func (n maxHeap) Len() int { return len(n) }

func (n maxHeap) Less(i, j int) bool { return n[i] > n[j] }

func (n maxHeap) Swap(i, j int) { n[i], n[j] = n[j], n[i] }

func (n *maxHeap) Push(x any) { *n = append(*n, x.(uint64)) }

func (n *maxHeap) Pop() any {
	last := len(*n) - 1
	x := (*n)[last]
	*n = (*n)[:last]
	return x
}
