package main

import (
	"fmt"
	"slices"
	"time"
)

// percentile returns the smallest value that is at least as large as p percent
// of the values; 0 if there are none.
func percentile[T int | float64 | time.Duration](values []T, p int) T {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, (len(s)*p+99)/100-1)]
}

// median returns the middle value, the lower one of two.
func median[T int | float64 | time.Duration](values []T) T { return percentile(values, 50) }

// ms formats a duration in milliseconds, with three digits.
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

// us formats a duration in microseconds, or in milliseconds from one on.
func us(d time.Duration) string {
	if d >= time.Millisecond {
		return ms(d)
	}
	return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
}

// ratios returns the quotients of values that were measured side by side.
func ratios[T int | float64 | time.Duration](a, b []T) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = float64(a[i]) / float64(b[i])
	}
	return out
}

// differences returns the differences of values that were measured side by
// side.
func differences[T int | float64 | time.Duration](a, b []T) []T {
	out := make([]T, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}

// ratio formats the median of quotients.
func ratio(quotients []float64) string { return fmt.Sprintf("%.2f", median(quotients)) }

// spread formats the range of the middle half of quotients; "" for a single
// one.
func spread(quotients []float64) string {
	if len(quotients) == 1 {
		return ""
	}
	return fmt.Sprintf("%.2f–%.2f", percentile(quotients, 25), percentile(quotients, 75))
}

// share formats a number and its share of all.
func share(n, all int) string { return fmt.Sprintf("%d (%.1f %%)", n, 100*float64(n)/float64(all)) }
