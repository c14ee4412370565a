// Package card is the protocol by which daemons that are connected show each
// other a card: what the owner is called, the address of his user store, and
// whether the daemon follows the other one.
//
// The connection proves whose card it is, so it answers with certainty which
// user store belongs to a peer. What it says of that is the peer's own word. A
// card opens nothing; it is remembered while the peer is connected.
//
// # Protocol
//
// The name is /npp/card/1.0.0. A stream is for one exchange: the opener writes
// its card; the other side reads it, writes its own card and closes its end;
// the opener reads that and closes the stream. This is how the other side
// knows that its card arrived. Streams over a relay are taken as well.
//
// A card is a length, as an unsigned varint, and as many bytes of JSON, at most
// 4096, in UTF-8:
//
//	{"username":"alice","user":"/orbitdb/zdpu…","follows":true}
//
// All members may be missing, and others are ignored. "user" is empty, or at
// most 256 characters of ASCII that can be seen and begin with /orbitdb/;
// "follows" is true or false. Who shows another card is answered with a reset.
// A "username" has, without white space around it, at most 64 code points, all
// of which can be printed; another one counts as none.
//
// An exchange takes ten seconds at most. A peer may begin one a second, sixteen
// at once after a while of silence, and have four open at a time. Others are
// reset.
//
// Who has met a peer that speaks the protocol, as identify tells, begins an
// exchange: at once if its own peer ID is the smaller one (in bytes), and else
// after three seconds without a card. Whose card has changed begins another
// one. So a JavaScript peer may leave it at answering:
//
//	libp2p.handle('/npp/card/1.0.0', async (stream, connection) => {
//	  const lp = lpStream(stream) // of @libp2p/utils
//	  const theirs = JSON.parse(new TextDecoder().decode((await lp.read()).subarray()))
//	  await lp.write(new TextEncoder().encode(JSON.stringify({ username: 'alice' })))
//	  await stream.close()
//	}, { runOnLimitedConnection: true })
//
// # Cost
//
// Nothing is written to disk here, and no signature is checked. A card of at most 4 KiB
// is decoded once, and what is kept of it has at most 512 bytes while the peer is
// connected; 4096 peers are dealt with. A stream costs one goroutine for ten seconds at
// most: a peer has four, all peers have 1024. Of 4096 peers the rate is remembered; a
// further one is taken once one of them has been silent for a while, for which all are
// looked at. [Config].Received is called for one card at a time. This side begins
// exchanges with 16 peers at a time, and one a second with the same peer; after four
// failures it waits for news of the peer.
package card

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
)

// Protocol is the stream protocol.
const Protocol protocol.ID = "/npp/card/1.0.0"

const (
	maxFrame    = 4 << 10 // bytes of JSON
	maxUsername = 64      // code points
	maxUser     = 256     // bytes

	userPrefix = "/orbitdb/"
)

// ErrInvalid says that a card is not as it must be.
var ErrInvalid = errors.New("invalid card")

// Card is what a daemon shows of itself.
type Card struct {
	Username string `json:"username"` // how the owner is called, "" if that is not known
	User     string `json:"user"`     // address of the user store, "" if there is none
	Follows  bool   `json:"follows"`  // whether the peer that is shown the card is followed
}

// Check returns the card as it may be shown: with its username trimmed, or
// without one that is too long or cannot be printed. It fails for what may not
// be a user store's address.
func (c Card) Check() (Card, error) {
	c.Username = strings.TrimSpace(c.Username)
	if utf8.RuneCountInString(c.Username) > maxUsername || strings.ContainsFunc(c.Username, hidden) {
		c.Username = ""
	}
	switch {
	case c.User == "":
	case len(c.User) > maxUser:
		return Card{}, fmt.Errorf("%w: the address of the user store has %d bytes", ErrInvalid, len(c.User))
	case !strings.HasPrefix(c.User, userPrefix), strings.ContainsFunc(c.User, notSeen):
		return Card{}, fmt.Errorf("%w: no address of a user store: %q", ErrInvalid, c.User)
	}
	return c, nil
}

// hidden reports whether a rune has no place in a name. U+FFFD is what became
// of bytes that were no text.
func hidden(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// notSeen reports whether a rune is not of ASCII, or leaves no mark.
func notSeen(r rune) bool { return r <= ' ' || r > '~' }

// encode returns the frame of a card that was checked.
func encode(c Card) ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return append(binary.AppendUvarint(nil, uint64(len(text))), text...), nil
}

// read reads one frame, and nothing after it.
func read(r io.Reader) (Card, error) {
	in := msgio.NewVarintReaderSize(r, maxFrame)
	text, err := in.ReadMsg()
	if err != nil {
		return Card{}, fmt.Errorf("read card: %w", err)
	}
	defer in.ReleaseMsg(text)
	return decode(text)
}

// decode takes the JSON of a card. Names of members are matched exactly, as
// JavaScript does.
func decode(text []byte) (Card, error) {
	var members map[string]json.RawMessage
	switch err := json.Unmarshal(text, &members); {
	case err != nil:
		return Card{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	case members == nil, !utf8.Valid(text):
		return Card{}, fmt.Errorf("%w: no object in UTF-8", ErrInvalid)
	}
	var c Card
	_ = json.Unmarshal(members["username"], &c.Username) // what is no text leaves none
	for name, to := range map[string]any{"user": &c.User, "follows": &c.Follows} {
		if value, ok := members[name]; ok {
			if err := json.Unmarshal(value, to); err != nil {
				return Card{}, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
			}
		}
	}
	return c.Check()
}
