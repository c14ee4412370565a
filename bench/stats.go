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

// us writes a duration in microseconds, or in milliseconds where it has some.
func us(d time.Duration) string {
	if d >= time.Millisecond {
		return ms(d)
	}
	return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
}

// ratios are the quotients of what was measured side by side.
func ratios[T int | float64 | time.Duration](a, b []T) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = float64(a[i]) / float64(b[i])
	}
	return out
}

// differences are those of what was measured side by side.
func differences[T int | float64 | time.Duration](a, b []T) []T {
	out := make([]T, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}

// ratio writes the median of quotients.
func ratio(quotients []float64) string { return fmt.Sprintf("%.2f", median(quotients)) }

// spread writes where the middle half of quotients is; of a single one, nothing.
func spread(quotients []float64) string {
	if len(quotients) == 1 {
		return ""
	}
	return fmt.Sprintf("%.2f–%.2f", percentile(quotients, 25), percentile(quotients, 75))
}

// share writes a number and what part of all it is.
func share(n, all int) string { return fmt.Sprintf("%d (%.1f %%)", n, 100*float64(n)/float64(all)) }
