package message

import (
	"fmt"
	"time"
)

// Duration is a [time.Duration] that is written as text: "36h", "90s".
type Duration time.Duration

// UnmarshalText reads what [time.ParseDuration] reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// WhenFull says what becomes of a direct message whose sender's share is full.
type WhenFull string

// What may become of it.
const (
	Refuse     WhenFull = "refuse"      // it is refused, and the sender told
	DropOldest WhenFull = "drop-oldest" // the sender's oldest messages make room
)

// Limits bound what peers can make us keep and do.
type Limits struct {
	// MaxMessageBytes is the largest direct message that is taken or sent. 1 MiB.
	MaxMessageBytes uint64
	// MaxPerSecond is how many direct messages a second are taken from one peer,
	// with bursts of twice as many. 2000.
	MaxPerSecond uint64
	// StoreBytes is the space for direct messages. 1 GiB.
	StoreBytes uint64
	// PeerBytes is each sender's share of StoreBytes. 64 MiB.
	PeerBytes uint64
	// PubsubBytes is the space for messages that came by pubsub; one author has
	// a quarter of it. 64 MiB.
	PubsubBytes uint64
	// KeepFor is how long a message is kept. 0: until it is removed.
	KeepFor Duration
	// WhenPeerFull is what happens to a direct message beyond PeerBytes. "refuse".
	WhenPeerFull WhenFull
}

// DefaultLimits are the limits where nothing is configured.
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

// Check returns an error that names the field that makes no sense.
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
