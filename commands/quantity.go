package commands

import (
	"fmt"
	"strconv"
	"time"

	"github.com/newpieceplease/npp/daemon"
)

// quantity is [daemon.Quantity].
func quantity[N int | int64 | uint64](n N, one, more string) string {
	return daemon.Quantity(n, one, more)
}

// size returns a number of bytes in the largest binary unit of which there is
// at least one.
func size(bytes uint64) string {
	if bytes < 1<<10 {
		return quantity(bytes, "byte", "bytes")
	}
	n, unit := float64(bytes)/(1<<10), 0
	for n >= 1<<10 {
		n, unit = n/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", n, "KMGTPE"[unit])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// since returns the time that has passed since t, in seconds.
func since(t time.Time) string { return time.Since(t).Round(time.Second).String() }

// ago returns how long ago t was, or "never" if t is nil.
func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return since(*t) + " ago"
}

// optionalTime returns nil for the zero time.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// localTime returns a time as a line of text begins with it.
func localTime(t time.Time) string { return t.Local().Format(time.DateTime) }

// clockText returns a time of a Lamport clock: all digits below 2^53, which no
// honest clock reaches, and an exponent from there on.
func clockText(t float64) string {
	if t < 1<<53 {
		return strconv.FormatFloat(t, 'f', -1, 64)
	}
	return strconv.FormatFloat(t, 'g', -1, 64)
}
