// Package card implements the protocol by which two connected daemons exchange
// cards. A card has the owner's username, the address of the user database, and
// whether the daemon follows the other peer.
//
// The connection authenticates the sender. The contents are claims of the
// sender: a peer may announce the user database of another peer. A card opens
// no database. It stays in memory while the peer is connected.
//
// # Protocol
//
// The protocol ID is /npp/card/1.0.0. Each stream carries one exchange. The
// initiator writes its card. The responder reads it, writes its own card and
// closes its side for writing. The initiator reads the response and closes the
// stream, which tells the responder that its card arrived. The protocol also
// runs on limited connections.
//
// A card is an unsigned varint length, followed by that many bytes of JSON in
// UTF-8, at most 4096:
//
//	{"username":"alice","user":"/orbitdb/zdpu…","follows":true}
//
// All members are optional, and unknown members are ignored. "user" is empty,
// or at most 256 visible ASCII characters that begin with /orbitdb/. "follows"
// is a boolean. Any other value of these two resets the stream. "username" has
// at most 64 printable code points after white space around it is trimmed. An
// invalid username is treated as empty.
//
// An exchange takes at most ten seconds. A peer may initiate one exchange per
// second on average, up to sixteen in a burst, and may have four streams open
// at a time. Streams beyond these limits are reset.
//
// When identify reports that a peer supports the protocol, the peer with the
// smaller peer ID (compared as bytes) initiates an exchange at once. The other
// peer initiates one if it received no card within three seconds. A peer whose
// card changes initiates another exchange. A JavaScript peer therefore only
// needs to respond:
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
// This package writes nothing to disk and verifies no signatures. A card of at
// most 4 KiB is decoded once. At most 512 bytes of it stay in memory while the
// peer is connected, for at most 4096 peers. An inbound stream uses one
// goroutine for at most ten seconds. A peer may have 4 inbound streams, and all
// peers together 1024. The rates of 4096 peers are remembered. When there are
// as many, a new peer causes a scan of all of them, and is refused if none has
// been idle for a while. Calls of [Config].Received do not overlap. The
// Exchanger initiates exchanges with at most 16 peers at a time, and with each
// peer at most once per second. After four failures it waits until the peer is
// identified on another connection, or until the card changes.
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

// ErrInvalid is returned for a card that violates the protocol.
var ErrInvalid = errors.New("invalid card")

// Card describes a daemon to a connected peer.
type Card struct {
	Username string `json:"username"` // of the owner, "" if unknown
	User     string `json:"user"`     // address of the user database, "" if there is none
	Follows  bool   `json:"follows"`  // whether the sender follows the recipient
}

// Check returns the card with its username trimmed, or with an empty username
// if it is too long or unprintable. It returns [ErrInvalid] if User cannot be
// the address of a user database.
func (c Card) Check() (Card, error) {
	c.Username = strings.TrimSpace(c.Username)
	if utf8.RuneCountInString(c.Username) > maxUsername || strings.ContainsFunc(c.Username, unprintable) {
		c.Username = ""
	}
	switch {
	case c.User == "":
	case len(c.User) > maxUser:
		return Card{}, fmt.Errorf("%w: the address of the user database has %d bytes, at most %d are allowed", ErrInvalid, len(c.User), maxUser)
	case !strings.HasPrefix(c.User, userPrefix), strings.ContainsFunc(c.User, notVisibleASCII):
		return Card{}, fmt.Errorf("%w: %q is not the address of a user database", ErrInvalid, c.User)
	}
	return c, nil
}

// unprintable reports whether a rune is not allowed in a username. U+FFFD
// replaces bytes that are not UTF-8.
func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// notVisibleASCII reports whether a rune is a space, a control character or
// outside ASCII.
func notVisibleASCII(r rune) bool { return r <= ' ' || r > '~' }

// encode returns the frame of a card that passed Check.
func encode(c Card) ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return append(binary.AppendUvarint(nil, uint64(len(text))), text...), nil
}

// read reads one frame and no byte after it.
func read(r io.Reader) (Card, error) {
	in := msgio.NewVarintReaderSize(r, maxFrame)
	text, err := in.ReadMsg()
	if err != nil {
		return Card{}, fmt.Errorf("read card: %w", err)
	}
	defer in.ReleaseMsg(text)
	return decode(text)
}

// decode decodes the JSON of a card. Member names are case-sensitive, as in
// JavaScript.
func decode(text []byte) (Card, error) {
	var members map[string]json.RawMessage
	switch err := json.Unmarshal(text, &members); {
	case err != nil:
		return Card{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	case members == nil, !utf8.Valid(text):
		return Card{}, fmt.Errorf("%w: not a JSON object in UTF-8", ErrInvalid)
	}
	var c Card
	_ = json.Unmarshal(members["username"], &c.Username) // a value that is not a string counts as ""
	for name, to := range map[string]any{"user": &c.User, "follows": &c.Follows} {
		if value, ok := members[name]; ok {
			if err := json.Unmarshal(value, to); err != nil {
				return Card{}, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
			}
		}
	}
	return c.Check()
}
