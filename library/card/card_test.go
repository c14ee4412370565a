package card

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-msgio"
)

const address = "/orbitdb/zdpuAmJ5BeUT9rxbUvGWBbUQkRVDCcFKyCYPyyFXMxTgbYfAr"

func framed(text string) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(text))), text...)
}

func TestCheckName(t *testing.T) {
	for _, test := range []struct{ name, want string }{
		{"alice", "alice"},
		{"", ""},
		{" \t\nalice\r\n ", "alice"},
		{"Alice B. Ünal 音楽 🎻", "Alice B. Ünal 音楽 🎻"},
		{strings.Repeat("ü", 64), strings.Repeat("ü", 64)},
		{" " + strings.Repeat("ü", 64) + " ", strings.Repeat("ü", 64)},
		{strings.Repeat("ü", 65), ""},
		{strings.Repeat("a", 1<<20), ""},
		{"ali\nce", ""},
		{"ali\x00ce", ""},
		{"ali\x1b[31mce", ""},
		{"ali\x7fce", ""},
		{"ali\u0085ce", ""}, // next line
		{"ali\u009bce", ""}, // control sequence introducer
		{"ali\u2028ce", ""}, // line separator
		{"ali\u202ece", ""}, // right-to-left override
		{"ali\u200bce", ""}, // zero width space
		{"ali\u00a0ce", ""}, // no-break space
		{"ali\ufeffce", ""},
		{"ali\ue000ce", ""},
		{"ali\xffce", ""},
		{"ali\ufffdce", ""},
	} {
		got, err := Card{Username: test.name, User: address, Follows: true}.Check()
		if want := (Card{test.want, address, true}); err != nil || got != want {
			t.Errorf("%.80q became %+v, %v; want %+v", test.name, got, err, want)
		}
	}
}

func TestCheckUser(t *testing.T) {
	longest := "/orbitdb/" + strings.Repeat("z", 256-len("/orbitdb/"))
	for _, user := range []string{"", address, longest} {
		if got, err := (Card{User: user}).Check(); err != nil || got.User != user {
			t.Errorf("%q: %+v, %v", user, got, err)
		}
	}
	for _, user := range []string{
		longest + "z", "zdpu", "orbitdb/zdpu", " " + address, address + "\n", address + " b",
		"/orbitdb/\x1b[31m", "/orbitdb/\u202e", "/orbitdb/ü", "/orbitdb/\xff", "/ipfs/zdpu",
	} {
		if got, err := (Card{Username: "alice", User: user}).Check(); !errors.Is(err, ErrInvalid) || got != (Card{}) {
			t.Errorf("%q: %+v, %v", user, got, err)
		}
	}
}

func TestEncodingMatchesTheSpecification(t *testing.T) {
	want := ":" + `{"username":"alice","user":"/orbitdb/zdpu","follows":true}` // 58 bytes
	if frame, err := encode(Card{"alice", "/orbitdb/zdpu", true}); err != nil || string(frame) != want {
		t.Errorf("%q, %v", frame, err)
	}
}

// The largest valid card fits into a frame.
func TestLargestCardFits(t *testing.T) {
	for _, r := range []string{"<", "\U0001f3bb", "\\", `"`} {
		c := Card{strings.Repeat(r, maxUsername), userPrefix + strings.Repeat("<", maxUser-len(userPrefix)), false}
		frame, err := encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(bytes.NewReader(frame)); err != nil || got != c {
			t.Errorf("frame of %d bytes: %+v, %v", len(frame), got, err)
		}
	}
}

func TestRead(t *testing.T) {
	for _, test := range []struct {
		text string
		want Card
	}{
		{`{"username":"alice","user":"` + address + `","follows":true}`, Card{"alice", address, true}},
		{`{}`, Card{}},
		{` { "follows" : true } ` + "\n", Card{Follows: true}},
		{`{"username":null,"user":null,"follows":null}`, Card{}},
		{`{"username":"alice","age":[{"user":7}],"":{}}`, Card{Username: "alice"}},
		{`{"Username":"alice","USER":7,"follows":true,"Follows":"no"}`, Card{Follows: true}},
		{`{"username":42,"user":"/orbitdb/z"}`, Card{User: "/orbitdb/z"}},
		{`{"username":["alice"],"user":"/orbitdb/z"}`, Card{User: "/orbitdb/z"}},
		{`{"username":"\u001b[31m","user":"/orbitdb/z"}`, Card{User: "/orbitdb/z"}},
		{`{"username":"\ud800","user":"/orbitdb/z"}`, Card{User: "/orbitdb/z"}},
		{`{"username":"alice\n"}`, Card{Username: "alice"}},
		{`{"x":"` + strings.Repeat("x", 4096-len(`{"x":""}`)) + `"}`, Card{}},
	} {
		in := bytes.NewReader(append(framed(test.text), "rest"...))
		got, err := read(iotest.OneByteReader(in))
		if err != nil || got != test.want {
			t.Errorf("%.80q: %+v, %v; want %+v", test.text, got, err, test.want)
		}
		if rest, _ := io.ReadAll(in); string(rest) != "rest" {
			t.Errorf("%.80q: %q remains", test.text, rest)
		}
	}
}

func TestReadRefusesInvalidCards(t *testing.T) {
	for _, text := range []string{
		"", " ", "null", "[]", "7", `"alice"`, "{", `{"username":"alice"`, `{"username":"alice"}{}`, `{"username":"alice"}x`,
		`{"user":7}`, `{"user":[]}`, `{"user":"alice"}`, `{"follows":1}`, `{"follows":"true"}`, `{'username':'alice'}`,
		"{\"username\":\"\xff\"}", "{\"\xff\":1}", "\xff\xfe{}", strings.Repeat("[", maxFrame), "\x00",
		`{"user":"/orbitdb/` + strings.Repeat("z", maxUser) + `"}`,
	} {
		if got, err := read(bytes.NewReader(framed(text))); !errors.Is(err, ErrInvalid) || got != (Card{}) {
			t.Errorf("%.80q: %+v, %v", text, got, err)
		}
	}
	whole := framed(`{"username":"alice"}`)
	for n := range whole {
		want := io.ErrUnexpectedEOF
		if n <= 1 {
			want = io.EOF
		}
		if _, err := read(bytes.NewReader(whole[:n])); !errors.Is(err, want) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
}

// A frame that is too large is refused before its contents are read.
func TestReadRefusesLargeFrames(t *testing.T) {
	for _, length := range []uint64{4096 + 1, 1 << 20, 1 << 31, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		head := binary.AppendUvarint(nil, length)
		in := bytes.NewReader(append(head, bytes.Repeat([]byte(" "), 2*maxFrame)...))
		_, err := read(in)
		if err == nil || length < 1<<63 && !errors.Is(err, msgio.ErrMsgTooLarge) {
			t.Errorf("length %d: %v", length, err)
		}
		if n := 2*maxFrame - in.Len(); n > 0 {
			t.Errorf("length %d: %d bytes were read", length, n)
		}
	}
	in := bytes.NewReader(bytes.Repeat([]byte{0xff}, 1<<20))
	if _, err := read(in); err == nil || in.Len() < 1<<20-10 {
		t.Errorf("an endless length: %v, %d bytes remain", err, in.Len())
	}
}

func FuzzRead(f *testing.F) {
	for _, text := range []string{
		`{"username":"alice","user":"/orbitdb/zdpu","follows":true}`, `{}`, `null`, `{"username":"\ud800\u202e"}`,
		`{"user":"/orbitdb/"}`, `{"follows":1e9}`, `[[[[`, `{"username":{"username":[]}}`,
	} {
		f.Add(framed(text))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0x80, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		c, err := read(in)
		if n := len(data) - in.Len(); n > maxFrame+10 {
			t.Fatalf("%d bytes were read", n)
		}
		if err != nil {
			if c != (Card{}) {
				t.Fatalf("%+v with error %v", c, err)
			}
			return
		}
		if err := wellFormed(c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		frame, err := encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := read(bytes.NewReader(frame)); err != nil || again != c {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}

// wellFormed returns the rule that an accepted card violates, or nil.
func wellFormed(c Card) error {
	for _, r := range c.Username {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) || r == '\ufffd' {
			return fmt.Errorf("the username contains %U", r)
		}
	}
	switch {
	case !utf8.ValidString(c.Username):
		return errors.New("the username is not UTF-8")
	case strings.TrimSpace(c.Username) != c.Username:
		return errors.New("the username is not trimmed")
	case utf8.RuneCountInString(c.Username) > 64:
		return errors.New("the username is too long")
	case c.User == "":
		return nil
	case len(c.User) > 256 || !strings.HasPrefix(c.User, "/orbitdb/"):
		return errors.New("the address is invalid")
	}
	for _, b := range []byte(c.User) {
		if b <= ' ' || b >= 0x7f {
			return fmt.Errorf("the address contains %#x", b)
		}
	}
	_, err := json.Marshal(c)
	return err
}
