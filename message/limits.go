package message

import (
	"fmt"
	"time"
)

// Duration is a [time.Duration] with a textual form such as "36h" or "90s".
type Duration time.Duration

// UnmarshalText parses the format of [time.ParseDuration].
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText formats d as UnmarshalText parses it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// WhenFull selects what happens to a direct message beyond its sender's quota.
type WhenFull string

// The values of WhenFull.
const (
	Refuse     WhenFull = "refuse"      // the message is refused, and the sender receives the reason
	DropOldest WhenFull = "drop-oldest" // the sender's oldest messages are deleted
)

// Limits bounds what peers can store and request. All sizes are in bytes.
type Limits struct {
	// MaxMessageBytes is the size of the largest direct message, in both
	// directions. Default: 1 MiB.
	MaxMessageBytes uint64
	// MaxPerSecond is the rate of direct messages that one peer may send, with
	// bursts of twice as many. Default: 2000.
	MaxPerSecond uint64
	// StoreBytes is the quota for all direct messages. Default: 1 GiB.
	StoreBytes uint64
	// PeerBytes is the part of StoreBytes that one sender may use. Default: 64
	// MiB.
	PeerBytes uint64
	// PubsubBytes is the quota for pubsub messages; one author may use a
	// quarter of it. Default: 64 MiB.
	PubsubBytes uint64
	// KeepFor is the age at which a message is deleted. 0 means never.
	KeepFor Duration
	// WhenPeerFull applies to direct messages beyond PeerBytes. Default:
	// Refuse.
	WhenPeerFull WhenFull
}

// DefaultLimits returns the limits that apply without configuration.
func DefaultLimits() Limits {
	return Limits{
		MaxMessageBytes: 1 << 20,
		MaxPerSecond:    2000,
		StoreBytes:      1 << 30,
		PeerBytes:       64 << 20,
		PubsubBytes:     64 << 20,
		WhenPeerFull:    Refuse,
	}
}

// maxMessageBytes is the largest MaxMessageBytes: a message is held in memory
// while it is received, and is one value of the datastore.
const maxMessageBytes = 16 << 20

// Check returns an error that names the first invalid field, or nil.
func (l Limits) Check() error {
	switch {
	case l.MaxMessageBytes < 1 || l.MaxMessageBytes > maxMessageBytes:
		return fmt.Errorf("MaxMessageBytes is %d, must be from 1 to %d", l.MaxMessageBytes, maxMessageBytes)
	case l.MaxPerSecond < 1 || l.MaxPerSecond > 1e6:
		return fmt.Errorf("MaxPerSecond is %d, must be from 1 to 1000000", l.MaxPerSecond)
	case l.PeerBytes < l.MaxMessageBytes:
		return fmt.Errorf("PeerBytes is %d, must be MaxMessageBytes (%d) or more", l.PeerBytes, l.MaxMessageBytes)
	case l.StoreBytes < l.PeerBytes:
		return fmt.Errorf("StoreBytes is %d, must be PeerBytes (%d) or more", l.StoreBytes, l.PeerBytes)
	case l.PubsubBytes < 1<<20:
		return fmt.Errorf("PubsubBytes is %d, must be %d or more", l.PubsubBytes, 1<<20)
	case l.KeepFor < 0:
		return fmt.Errorf("KeepFor is %s, must be 0s (keep until removed) or more", time.Duration(l.KeepFor))
	case l.WhenPeerFull != Refuse && l.WhenPeerFull != DropOldest:
		return fmt.Errorf("WhenPeerFull is %q, must be %q or %q", l.WhenPeerFull, Refuse, DropOldest)
	}
	return nil
}
