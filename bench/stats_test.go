package main

import (
	"testing"
	"time"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	values := []int{40, 15, 50, 20, 35}
	for p, want := range map[int]int{0: 15, 5: 15, 30: 20, 40: 20, 50: 35, 99: 50, 100: 50} {
		if got := percentile(values, p); got != want {
			t.Errorf("percentile %d of %v is %d, want %d", p, values, got, want)
		}
	}
	if got := median([]time.Duration{4, 1, 3, 2}); got != 2 {
		t.Errorf("the median of 1 to 4 is %d, want 2", got)
	}
	if got := median[int](nil); got != 0 {
		t.Errorf("the median of nothing is %d, want 0", got)
	}
	if values[0] != 40 {
		t.Error("percentile sorts the caller's values")
	}
}

func TestDurationsAreWrittenToThreeDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		56 * time.Microsecond:     "0.06 ms",
		1234 * time.Microsecond:   "1.23 ms",
		45678 * time.Microsecond:  "45.7 ms",
		123456 * time.Microsecond: "123 ms",
	} {
		if got := ms(d); got != want {
			t.Errorf("%v is formatted as %q, want %q", d, got, want)
		}
	}
}

func TestRatiosAreTakenSideBySide(t *testing.T) {
	// the ratio of the medians is 20/20
	got := ratios([]int{10, 20, 60}, []int{20, 40, 20})
	if ratio(got) != "0.50" || spread(got) != "0.50–3.00" {
		t.Errorf("ratios %v: median %s, middle half %s; want 0.50 and 0.50–3.00", got, ratio(got), spread(got))
	}
	if got := median(differences([]int{1, 5, 9}, []int{3, 4, 7})); got != 1 {
		t.Errorf("the median difference is %d, want 1", got)
	}
}
