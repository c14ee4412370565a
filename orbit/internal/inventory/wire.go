package inventory

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// kind is the kind of a frame.
type kind uint64

const (
	kindHello kind = iota
	kindClaim
	kindMatch
	kindStates
	kindChange
	kindGone
	kindAsk
)

// frame is one of the types below.
type frame interface{ append(b []byte) []byte }

type (
	// hello begins a session.
	hello struct {
		nonce     nonce
		magnitude uint64 // binary digits of the number of databases
	}

	// claim contains the tags of databases, numbered after those before.
	claim []tag

	// match answers the claims below a number.
	match struct {
		upTo  uint32
		found []found
	}

	// found is a claimed database that the sender has.
	found struct {
		number uint32
		proof  tag
		state  State
	}

	// states confirms the matches below a number. The sender's replicas of those
	// that are not listed have the state that the match said.
	states struct {
		upTo   uint32
		differ []differing
	}

	differing struct {
		number uint32
		state  State
	}

	// change is a new state of the sender's replica, and some of the entries
	// that are new.
	change struct {
		channel channel
		state   State
		entries []block.Block
	}

	// gone ends channels.
	gone []channel

	// ask asks for the states of the receiver's replicas.
	ask []channel
)

// channel names a common database: by the number of the claim, and by whether
// the receiver of the frame claimed it.
type channel struct {
	number   uint32
	received bool
}

func (c channel) encode() uint64 {
	n := 2 * uint64(c.number)
	if c.received {
		n++
	}
	return n
}

// encode returns a frame preceded by its length.
func encode(f frame) []byte {
	const room = binary.MaxVarintLen32
	b := f.append(make([]byte, room, 512))
	var length [room]byte
	n := binary.PutUvarint(length[:], uint64(len(b)-room))
	start := room - n
	copy(b[start:], length[:n])
	return b[start:]
}

// begin begins a frame of a number of items.
func begin(b []byte, items int, k kind) []byte {
	return dagcbor.AppendUint(dagcbor.AppendArray(b, items), uint64(k))
}

func (f hello) append(b []byte) []byte {
	b = begin(b, 3, kindHello)
	b = dagcbor.AppendBytes(b, f.nonce[:])
	return dagcbor.AppendUint(b, f.magnitude)
}

func (f claim) append(b []byte) []byte {
	b = begin(b, 2, kindClaim)
	all := make([]byte, 0, len(f)*len(tag{}))
	for _, t := range f {
		all = append(all, t[:]...)
	}
	return dagcbor.AppendBytes(b, all)
}

func (f match) append(b []byte) []byte {
	b = begin(b, 3, kindMatch)
	b = dagcbor.AppendUint(b, uint64(f.upTo))
	b = dagcbor.AppendArray(b, 2*len(f.found))
	for _, m := range f.found {
		b = dagcbor.AppendUint(b, uint64(m.number))
		both := append(m.proof[:], m.state[:]...)
		b = dagcbor.AppendBytes(b, both)
	}
	return b
}

func (f states) append(b []byte) []byte {
	b = begin(b, 3, kindStates)
	b = dagcbor.AppendUint(b, uint64(f.upTo))
	b = dagcbor.AppendArray(b, 2*len(f.differ))
	for _, d := range f.differ {
		b = dagcbor.AppendUint(b, uint64(d.number))
		b = dagcbor.AppendBytes(b, d.state[:])
	}
	return b
}

func (f change) append(b []byte) []byte {
	b = begin(b, 4, kindChange)
	b = dagcbor.AppendUint(b, f.channel.encode())
	b = dagcbor.AppendBytes(b, f.state[:])
	b = dagcbor.AppendArray(b, len(f.entries))
	for _, e := range f.entries {
		b = dagcbor.AppendBytes(b, e.Data)
	}
	return b
}

func (f gone) append(b []byte) []byte { return appendChannels(b, kindGone, f) }
func (f ask) append(b []byte) []byte  { return appendChannels(b, kindAsk, f) }

func appendChannels(b []byte, k kind, all []channel) []byte {
	b = begin(b, 2, k)
	b = dagcbor.AppendArray(b, len(all))
	for _, c := range all {
		b = dagcbor.AppendUint(b, c.encode())
	}
	return b
}

// decode decodes a frame without its length. It returns nil for a frame of an
// unknown kind. The entries of a change share the bytes of the frame.
func decode(b []byte) (frame, error) {
	r := dagcbor.NewReader(b)
	items, err := r.Array()
	if err != nil {
		return nil, err
	}
	k, err := r.Uint()
	if err != nil {
		return nil, err
	}
	var f frame
	want := 3
	switch kind(k) {
	case kindHello:
		f, err = readHello(r)
	case kindClaim:
		want = 2
		f, err = readClaim(r)
	case kindMatch:
		f, err = readMatch(r)
	case kindStates:
		f, err = readStates(r)
	case kindChange:
		want = 4
		f, err = readChange(r)
	case kindGone:
		want = 2
		f, err = readChannels[gone](r)
	case kindAsk:
		want = 2
		f, err = readChannels[ask](r)
	default:
		return nil, nil
	}
	if err == nil && items != want {
		err = fmt.Errorf("%d items, want %d", items, want)
	}
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func readHello(r *dagcbor.Reader) (f hello, err error) {
	if err = readFixed(r, f.nonce[:]); err != nil {
		return f, err
	}
	f.magnitude, err = r.Uint()
	if err == nil && f.magnitude > 64 {
		err = fmt.Errorf("a number of %d digits", f.magnitude)
	}
	return f, err
}

func readClaim(r *dagcbor.Reader) (f claim, err error) {
	all, err := r.Bytes()
	if err != nil {
		return nil, err
	}
	const size = len(tag{})
	if len(all) == 0 || len(all)%size != 0 || len(all) > maxTags*size {
		return nil, fmt.Errorf("tags of %d bytes", len(all))
	}
	f = make(claim, 0, len(all)/size)
	for ; len(all) > 0; all = all[size:] {
		f = append(f, tag(all[:size]))
	}
	return f, nil
}

func readMatch(r *dagcbor.Reader) (f match, err error) {
	f.upTo, err = readNumbered(r, maxMatches, func(number uint32) error {
		var both [len(tag{}) + len(State{})]byte
		err := readFixed(r, both[:])
		f.found = append(f.found, found{number, tag(both[:len(tag{})]), State(both[len(tag{}):])})
		return err
	})
	return f, err
}

func readStates(r *dagcbor.Reader) (f states, err error) {
	f.upTo, err = readNumbered(r, maxStates, func(number uint32) error {
		d := differing{number: number}
		err := readFixed(r, d.state[:])
		f.differ = append(f.differ, d)
		return err
	})
	return f, err
}

// readNumbered reads a number and a list of pairs, whose first items are
// ascending numbers below it. item reads the second.
func readNumbered(r *dagcbor.Reader, most int, item func(number uint32) error) (upTo uint32, err error) {
	if upTo, err = readNumber(r); err != nil {
		return 0, err
	}
	n, err := r.Array()
	if err != nil {
		return 0, err
	}
	if n%2 != 0 || n/2 > most {
		return 0, fmt.Errorf("%d items", n)
	}
	next := uint32(0)
	for range n / 2 {
		number, err := readNumber(r)
		if err != nil {
			return 0, err
		}
		if number < next || number >= upTo {
			return 0, fmt.Errorf("number %d, want at least %d and less than %d", number, next, upTo)
		}
		next = number + 1
		if err := item(number); err != nil {
			return 0, err
		}
	}
	return upTo, nil
}

func readNumber(r *dagcbor.Reader) (uint32, error) {
	n, err := r.Uint()
	if err == nil && n > maxNumber {
		err = fmt.Errorf("number %d", n)
	}
	return uint32(n), err
}

func readChange(r *dagcbor.Reader) (f change, err error) {
	if f.channel, err = readChannel(r); err != nil {
		return f, err
	}
	if err = readFixed(r, f.state[:]); err != nil {
		return f, err
	}
	n, err := r.Array()
	if err != nil {
		return f, err
	}
	if n > maxEntries {
		return f, fmt.Errorf("%d entries", n)
	}
	for range n {
		data, err := r.Bytes()
		if err == nil && len(data) == 0 {
			err = errors.New("an empty entry")
		}
		if err != nil {
			return f, err
		}
		f.entries = append(f.entries, block.New(data))
	}
	return f, nil
}

func readChannels[T ~[]channel](r *dagcbor.Reader) (f T, err error) {
	n, err := r.Array()
	if err != nil {
		return nil, err
	}
	if n == 0 || n > maxChannels {
		return nil, fmt.Errorf("%d channels", n)
	}
	for range n {
		c, err := readChannel(r)
		if err != nil {
			return nil, err
		}
		f = append(f, c)
	}
	return f, nil
}

// readChannel reads a channel as the receiver of the frame sees it.
func readChannel(r *dagcbor.Reader) (c channel, err error) {
	n, err := r.Uint()
	if err == nil && n/2 >= maxNumber {
		err = fmt.Errorf("channel %d", n)
	}
	return channel{uint32(n / 2), n%2 == 1}, err
}

func readFixed(r *dagcbor.Reader, to []byte) error {
	b, err := r.Bytes()
	if err == nil && len(b) != len(to) {
		err = errors.New("bytes of another length")
	}
	copy(to, b)
	return err
}
