package sheet

import (
	"bytes"
	"encoding/binary"
)

// maxEvents is the number of MIDI events that are searched for a title.
const maxEvents = 64

// isMIDI reports whether head begins a Standard MIDI File: it is a header chunk
// of at least six bytes, and the first two are a format from 0 to 2.
func isMIDI(head []byte) bool {
	return len(head) >= 14 && bytes.HasPrefix(head, []byte("MThd")) &&
		binary.BigEndian.Uint32(head[4:]) >= 6 && binary.BigEndian.Uint16(head[8:]) <= 2
}

// midiTitle returns the name of the first track, which is the name of the
// sequence according to Standard MIDI Files 1.0. Only the events before the
// first note are searched.
func midiTitle(head []byte) string {
	n := uint64(binary.BigEndian.Uint32(head[4:])) + 8
	if n > uint64(len(head)) {
		return ""
	}
	track, ok := bytes.CutPrefix(head[n:], []byte("MTrk"))
	if !ok || len(track) < 4 {
		return ""
	}
	n = uint64(binary.BigEndian.Uint32(track))
	track = track[4:]
	track = track[:min(n, uint64(len(track)))]
	for range maxEvents {
		_, event, ok := variableLength(track) // delta time
		if !ok || len(event) < 2 {
			return ""
		}
		kind := byte(0)
		switch event[0] {
		case 0xff:
			kind, event = event[1], event[2:]
		case 0xf0, 0xf7:
			event = event[1:]
		default:
			return ""
		}
		size, data, ok := variableLength(event)
		if !ok || size > len(data) {
			return ""
		}
		if kind == 3 {
			return cleanTitle(utf8OrWindows1252(data[:size]))
		}
		track = data[size:]
	}
	return ""
}

// variableLength reads a variable-length quantity of at most four bytes, and
// returns it and the bytes after it.
func variableLength(b []byte) (int, []byte, bool) {
	n := 0
	for i := 0; i < 4 && i < len(b); i++ {
		if n = n<<7 | int(b[i]&0x7f); b[i] < 0x80 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}
