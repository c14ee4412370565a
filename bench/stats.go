package main

import (
	"fmt"
	"slices"
	"time"
)

// percentile returns the smallest of the values that at least p percent of
// them do not exceed; 0 of none.
func percentile[T int | float64 | time.Duration](values []T, p int) T {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, (len(s)*p+99)/100-1)]
}

// median is the middle of the values, the lower one of two.
func median[T int | float64 | time.Duration](values []T) T { return percentile(values, 50) }

// ms writes a duration in milliseconds, to three digits.
func ms(d time.Duration) string {
	v := float64(d) / float64(time.Millisecond)
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	case v >= 10:
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.2f ms", v)
}

// ratio writes a/b.
func ratio[T int | float64 | time.Duration](a, b T) string {
	if b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}
