package message

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/store"
)

func TestEncodeMakesJSONOfWhatAPersonWrote(t *testing.T) {
	for _, test := range []struct {
		text, data string
		err        error // also if not strict
	}{
		{text: `{ "a" : [1, 2 ] }` + "\n", data: `{"a":[1,2]}`},
		{text: " 1e2 ", data: "1e2"},
		{text: "null", data: "null"},
		{text: `""`, data: `""`},
		{text: `"<é\u00e9>"`, data: `"<é\u00e9>"`},
		{text: "hello", data: `"hello"`},
		{text: "hello\n", data: `"hello"`},
		{text: "hello\r\n", data: `"hello"`},
		{text: "hello\n\n", data: `"hello\n"`},
		{text: " hello ", data: `" hello "`},
		{text: "<b>&é\u2028", data: `"<b>&é\u2028"`},
		{text: "{", data: `"{"`},
		{text: "1 2", data: `"1 2"`},
		{text: "\x00", data: `"\u0000"`},
		{text: "", err: ErrEmpty},
		{text: " \r\n\t", err: ErrEmpty},
		{text: "\xff", err: ErrNotText},
		{text: "\"\xff\"", err: ErrNotText},
	} {
		data, err := Encode([]byte(test.text), false)
		if string(data) != test.data || !errors.Is(err, test.err) {
			t.Errorf("Encode(%q) = %q, %v; want %q, %v", test.text, data, err, test.data, test.err)
		}
		data, err = Encode([]byte(test.text), true)
		switch {
		case isJSON([]byte(test.text)):
			if string(data) != test.data || err != nil {
				t.Errorf("strict Encode(%q) = %q, %v; want %q", test.text, data, err, test.data)
			}
		case strings.TrimSpace(test.text) == "":
			wantErr(t, err, ErrEmpty)
		default:
			wantErr(t, err, ErrNotJSON)
		}
	}
}

func FuzzEncode(f *testing.F) {
	for _, s := range []string{`{"a": 1}`, "hello\r\n", "\n", "\xff", "\u2028<>", "\ufffd"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		data, err := Encode(text, false)
		if err != nil {
			if !errors.Is(err, ErrEmpty) && !errors.Is(err, ErrNotText) {
				t.Fatal(err)
			}
			return
		}
		if (&Message{Data: data}).JSON() == nil {
			t.Fatalf("%q is no JSON", data)
		}
		again, err := Encode(data, true)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q encoded again is %q, %v", data, again, err)
		}
		if json.Valid(text) {
			return
		}
		var back string
		must(t, json.Unmarshal(data, &back))
		if !strings.HasPrefix(string(text), back) || len(text)-len(back) > 2 || !utf8.ValidString(back) {
			t.Fatalf("%q came back as %q", text, back)
		}
	})
}

func TestJSONOfWhatIsNoneIsNil(t *testing.T) {
	for data, want := range map[string]bool{`{"a":1}`: true, " 1 ": true, "null": true, "": false, "x": false, "\xff": false, "\"\xff\"": false, `{"a":1}{`: false} {
		m := Message{Data: []byte(data)}
		if got := m.JSON(); (got != nil) != want || want && string(got) != data {
			t.Errorf("JSON of %q is %q", data, got)
		}
	}
}

func TestIDsAreBoundedAndPlain(t *testing.T) {
	for _, id := range []string{"a", "A-z_9", strings.Repeat("a", 64), NewID(), pubsubID("author", []byte{1})} {
		if err := checkID(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", strings.Repeat("a", 65), "a/b", "..", "ü", "a b", "a\x00"} {
		wantErr(t, checkID(id), ErrBadID)
	}
	if NewID() == NewID() {
		t.Error("two fresh IDs are the same")
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]Since{
		"":                          SinceNow,
		"all":                       SinceAll,
		"15m":                       SinceTime(now.Add(-15 * time.Minute)),
		"2006-01-02T15:04:05Z":      SinceTime(time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC)),
		"abc-_9":                    SinceID("abc-_9"),
		"2006-01-02T15:04:05+01:00": SinceTime(time.Date(2006, 1, 2, 14, 4, 5, 0, time.UTC)),
	} {
		got, err := ParseSince(text, now)
		if err != nil || !got.at.Equal(want.at) || got.id != want.id || got.all != want.all {
			t.Errorf("ParseSince(%q) = %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"yesterday at noon", "2006-01-02 15:04", strings.Repeat("a", 1000), "\xff"} {
		if got, err := ParseSince(text, now); err == nil || len(err.Error()) > 500 {
			t.Errorf("ParseSince(%q) = %+v, %v", text, got, err)
		}
	}
}

func FuzzParseSince(f *testing.F) {
	for _, s := range []string{"", "all", "15m", "2006-01-02T15:04:05Z", "id", "-1h", "9999999h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		now := time.Unix(1e9, 0)
		since, err := ParseSince(text, now)
		if err == nil && (since.id != "" && checkID(since.id) != nil || since.at.After(now) && !strings.Contains(text, "T")) {
			t.Fatalf("ParseSince(%q) = %+v", text, since)
		}
	})
}

func FuzzRecord(f *testing.F) {
	for _, m := range []*Message{
		{ID: "id", From: "p", Data: []byte("x"), Via: Direct, Received: time.Unix(1, 2), Sent: time.Unix(3, 4)},
		{ID: "id", Seqno: []byte{1}, Topics: []string{"a", "b"}, Via: Pubsub, Received: time.Unix(1, 2)},
	} {
		b, err := encodeRecord(m)
		must(f, err)
		f.Add(b)
	}
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeRecord(7, b)
		if err != nil {
			return
		}
		again, err := encodeRecord(m)
		must(t, err)
		m2, err := decodeRecord(7, again)
		must(t, err)
		if m2.ID != m.ID || m2.From != m.From || !bytes.Equal(m2.Data, m.Data) || !bytes.Equal(m2.Seqno, m.Seqno) ||
			strings.Join(m2.Topics, "\x00") != strings.Join(m.Topics, "\x00") || !m2.Sent.Equal(m.Sent) || !m2.Received.Equal(m.Received) || m2.Via != m.Via {
			t.Fatalf("%+v came back as %+v", m, m2)
		}
	})
}

func FuzzState(f *testing.F) {
	b, err := proto.Marshal(&pb.State{Next: 3, Received: 1, DirectBytes: 5, PubsubBytes: 6, Expired: 7, RefusedPubsub: 8, Gone: 9})
	must(f, err)
	f.Add(b)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseState(b, nil); (st == nil) == (err == nil) {
			t.Fatalf("%v, %v", st, err)
		}
	})
	if st, err := parseState(nil, store.ErrNotFound); err != nil || st.Next != 0 {
		f.Errorf("state of an empty store: %v, %v", st, err)
	}
}

func TestLimitsThatMakeNoSenseAreNamed(t *testing.T) {
	must(t, DefaultLimits().Check())
	for field, change := range map[string]func(*Limits){
		"MaxMessageBytes": func(l *Limits) { l.MaxMessageBytes = 0 },
		"MaxPerSecond":    func(l *Limits) { l.MaxPerSecond = 1e6 + 1 },
		"PeerBytes":       func(l *Limits) { l.PeerBytes = l.MaxMessageBytes - 1 },
		"StoreBytes":      func(l *Limits) { l.StoreBytes = l.PeerBytes - 1 },
		"PubsubBytes":     func(l *Limits) { l.PubsubBytes = 1<<20 - 1 },
		"KeepFor":         func(l *Limits) { l.KeepFor = -1 },
		"WhenPeerFull":    func(l *Limits) { l.WhenPeerFull = "" },
	} {
		l := DefaultLimits()
		change(&l)
		if err := l.Check(); err == nil || !strings.HasPrefix(err.Error(), field+" ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	l := DefaultLimits()
	l.MaxMessageBytes = maxMessageBytes + 1
	if l.Check() == nil {
		t.Error("MaxMessageBytes has no upper end")
	}
}

func TestDurationIsText(t *testing.T) {
	var d Duration
	must(t, json.Unmarshal([]byte(`"36h"`), &d))
	b, err := json.Marshal(d)
	if err != nil || string(b) != `"36h0m0s"` || time.Duration(d) != 36*time.Hour {
		t.Errorf("%s, %v", b, err)
	}
	if json.Unmarshal([]byte(`"a while"`), &d) == nil {
		t.Error("nonsense is read")
	}
}
