package piece

import "sync/atomic"

// Room is memory that several indexes share, in bytes.
type Room struct{ left atomic.Int64 }

// NewRoom returns a room of so many bytes.
func NewRoom(bytes int64) *Room {
	r := &Room{}
	r.left.Store(bytes)
	return r
}

// Rooms are those that something has to find room in, all of them.
type Rooms []*Room

// Take takes bytes of each room, and reports whether there were that many.
func (rs Rooms) Take(bytes int) bool {
	for i, r := range rs {
		if r.left.Add(-int64(bytes)) < 0 {
			rs[:i+1].Give(bytes)
			return false
		}
	}
	return true
}

// Has reports whether there are that many bytes in each room.
func (rs Rooms) Has(bytes int) bool {
	for _, r := range rs {
		if r.left.Load() < int64(bytes) {
			return false
		}
	}
	return true
}

// Give gives bytes back.
func (rs Rooms) Give(bytes int) {
	for _, r := range rs {
		r.left.Add(int64(bytes))
	}
}
