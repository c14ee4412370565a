package message

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/message/pb"
)

// Via is how a message arrived.
type Via string

// The values of Via.
const (
	Direct Via = "direct" // on a stream from its sender, with a receipt
	Pubsub Via = "pubsub" // on a topic, signed by its author
)

// Message is a received message.
type Message struct {
	Number   uint64 // position in the log; numbers of removed messages are not used again
	ID       string
	From     peer.ID // proven by the connection (direct) or by the signature (pubsub)
	Data     []byte
	Seqno    []byte    // pubsub's sequence number, or the bytes of the ID of a direct message
	Topics   []string  // the topics of a pubsub message, or the recipient's peer ID of a direct one
	Sent     time.Time // by the sender's clock; zero if unknown
	Received time.Time // by this daemon's clock; never earlier than that of the previous message
	Via      Via
}

// JSON returns the message's data if it is valid JSON, and nil otherwise.
func (m *Message) JSON() json.RawMessage {
	if !isJSON(m.Data) {
		return nil
	}
	return m.Data
}

// isJSON reports whether b is JSON in UTF-8. encoding/json alone accepts
// invalid UTF-8 within strings.
func isJSON(b []byte) bool { return utf8.Valid(b) && json.Valid(b) }

// maxIDLength is the largest length of an ID.
const maxIDLength = 64

// ErrBadID is returned for an ID that is not 1 to 64 of A-Z a-z 0-9 - _.
var ErrBadID = errors.New("a message ID is 1 to 64 letters, digits, - or _")

// NewID returns a fresh message ID: 128 random bits in hex.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func checkID(id string) error {
	ok := len(id) > 0 && len(id) <= maxIDLength
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
	}
	if !ok {
		return fmt.Errorf("%w: %.80q", ErrBadID, id)
	}
	return nil
}

// pubsubID returns the ID under which a pubsub message is stored, a hash of its
// author and sequence number.
func pubsubID(author peer.ID, seqno []byte) string {
	h := sha256.New()
	h.Write([]byte(author))
	h.Write(seqno)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Errors of [Encode].
var (
	ErrEmpty   = errors.New("the message is empty")
	ErrNotJSON = errors.New("the message is not JSON")
	ErrNotText = errors.New("the message is neither JSON nor UTF-8 text")
)

// Encode makes the data of a message from text. JSON is compacted. Any other
// text becomes a JSON string without its final line break, or ErrNotJSON if
// strict.
func Encode(text []byte, strict bool) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, ErrEmpty
	}
	switch {
	case utf8.Valid(text):
	case strict:
		return nil, fmt.Errorf("%w: it is not UTF-8", ErrNotJSON)
	default:
		return nil, ErrNotText
	}
	if json.Valid(text) {
		var b bytes.Buffer
		if err := json.Compact(&b, text); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotJSON, err)
		}
		return b.Bytes(), nil
	}
	if strict {
		var v any
		return nil, fmt.Errorf("%w: %w", ErrNotJSON, json.Unmarshal(text, &v))
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(string(text)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotJSON, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func encodeRecord(m *Message) ([]byte, error) {
	r := &pb.Record{
		Id:       m.ID,
		From:     []byte(m.From),
		Data:     m.Data,
		Seqno:    m.Seqno,
		Topics:   m.Topics,
		Received: m.Received.UnixNano(),
	}
	if !m.Sent.IsZero() {
		r.Sent = m.Sent.UnixNano()
	}
	switch m.Via {
	case Direct:
		r.Via = pb.Record_DIRECT
	case Pubsub:
		r.Via = pb.Record_PUBSUB
	}
	b, err := proto.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode message %s: %w", m.ID, err)
	}
	return b, nil
}

func decodeRecord(number uint64, b []byte) (*Message, error) {
	var r pb.Record
	if err := proto.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("decode stored message %d: %w", number, err)
	}
	m := &Message{
		Number:   number,
		ID:       r.GetId(),
		From:     peer.ID(r.GetFrom()),
		Data:     r.GetData(),
		Seqno:    r.GetSeqno(),
		Topics:   r.GetTopics(),
		Received: time.Unix(0, r.GetReceived()),
	}
	if r.GetSent() != 0 {
		m.Sent = time.Unix(0, r.GetSent())
	}
	switch r.GetVia() {
	case pb.Record_DIRECT:
		m.Via = Direct
	case pb.Record_PUBSUB:
		m.Via = Pubsub
	default:
		return nil, fmt.Errorf("decode stored message %d: via %d is not known", number, r.GetVia())
	}
	return m, nil
}
