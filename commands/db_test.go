package commands

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/replicate"
)

func TestJSONForTheTerminalIsTheSameJSON(t *testing.T) {
	for _, v := range []string{"", "a", hostile, `\u003c`, `\\u003c`, "<&>", "é𝄞 \U000e0001 \u2028", `"\`} {
		v = strings.ToValidUTF8(v, "?")
		encoded, err := json.Marshal(map[string]any{v: []any{v, 1.5, nil}})
		if err != nil {
			t.Fatal(err)
		}
		got := jsonText(encoded)
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q becomes %q", encoded, got)
		}
		var back map[string][]any
		if err := json.Unmarshal([]byte(got), &back); err != nil || len(back[v]) != 3 || back[v][0] != v {
			t.Errorf("%q becomes %s: %v", encoded, got, err)
		}
	}
	if got := jsonText(json.RawMessage(`{"a":"\u003cé\u003e\\u003c"}`)); got != `{"a":"<é>\\u003c"}` {
		t.Errorf("got %s", got)
	}
}

func FuzzJSONText(f *testing.F) {
	f.Add(`{"a":"\u003c\u001b\\u003c"}`)
	f.Fuzz(func(t *testing.T, raw string) {
		got := jsonText(json.RawMessage(raw))
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) && r != '\uFFFD' }) {
			t.Errorf("%q becomes %q", raw, got)
		}
		var before, after any
		if json.Unmarshal([]byte(raw), &before) == nil && strings.TrimSpace(raw) == raw && !strings.ContainsAny(raw, "\n\r\t") {
			if err := json.Unmarshal([]byte(got), &after); err != nil {
				t.Errorf("%q becomes %q: %v", raw, got, err)
			}
		}
	})
}

func TestDatabaseTextsAreHarmless(t *testing.T) {
	key, _ := json.Marshal(hostile)
	payload, _ := json.Marshal(map[string]any{"op": hostile, "key": hostile})
	for name, got := range map[string]string{
		"ls":      text(t, dbLsCmd, nil, &listLine{Name: hostile, Type: hostile, ManifestType: hostile, Error: hostile}),
		"info":    text(t, dbInfoCmd, nil, &infoLine{Name: hostile, Type: hostile, ManifestType: hostile, IndexBy: hostile, Meta: key, Access: accessLine{Type: hostile, Address: hostile, Capabilities: map[string][]string{hostile: {hostile}}}, Missing: []string{hostile}}),
		"all":     strings.Replace(text(t, dbAllCmd, nil, &itemLine{Key: key, Value: key}), "\t", " ", 1),
		"get":     text(t, dbGetCmd, nil, &itemLine{Value: key}),
		"log":     text(t, dbLogCmd, nil, &entryLine{Hash: hostile, Writer: hostile, Payload: payload}),
		"rebuild": text(t, dbRebuildCmd, nil, &rebuildLine{Lost: []lostLine{{1, hostile}}}),
		"import":  text(t, dbImportCmd, nil, &importLine{Name: hostile}),
		"export":  text(t, dbExportCmd, nil, &exportLine{File: hostile}),
		"open":    text(t, dbOpenCmd, nil, &openLine{Name: hostile, statusLine: hostileStatus()}),
		"state":   text(t, dbInfoCmd, nil, &infoLine{statusLine: hostileStatus(), Missing: []string{hostile}}),
		"close":   text(t, dbCloseCmd, nil, &closeLine{Name: hostile, Here: true}),
		"drop":    text(t, dbDropCmd, nil, &dropLine{Name: hostile, Here: true}),
		"peers":   text(t, dbPeersCmd, nil, &dbPeerLine{Agent: hostile, Error: hostile}),
		"watch":   text(t, dbWatchCmd, nil, &watchLine{Event: "update", Op: key, Key: key, Value: key, Writer: hostile}),
		"doctor":  text(t, dbDoctorCmd, nil, &findingLine{Text: hostile, Advice: hostile}),
		"grant":   text(t, dbGrantCmd, nil, &capabilitiesLine{Capabilities: map[string][]string{hostile: {hostile}}}),
		"id":      text(t, idCmd, nil, &idLine{Username: hostile, Stores: []storeLine{{Name: "user", Error: hostile}}}),
	} {
		if strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) || !strings.Contains(got, "kubo\\n") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func hostileStatus() statusLine {
	return statusLine{
		State:         "fetching",
		Error:         hostile,
		MissingBlocks: []missingLine{{Hash: hostile, Error: hostile}},
		Refused:       []refusedLine{{Hash: hostile, Error: hostile}},
		Peers:         []dbPeerLine{{Agent: hostile, Error: hostile}},
	}
}

func TestBothTypesAreShownWhereTheyDiffer(t *testing.T) {
	for kind, want := range map[string]string{"documents": "documents, indexed by hash", "events": "events"} {
		l := &infoLine{Type: kind, ManifestType: otherType(kind, "events"), Heads: []string{}}
		if kind == "documents" {
			l.IndexBy = "hash"
			want += "; its manifest says events"
		}
		if got := l.text(); !strings.Contains(got, "\ntype      "+want+"\n") {
			t.Errorf("info: %s", got)
		}
		got := text(t, dbLsCmd, nil, &listLine{Type: kind, ManifestType: otherType(kind, "events")})
		if strings.Contains(got, "(its manifest says events)") != (kind == "documents") {
			t.Errorf("ls: %s", got)
		}
	}
	if got := otherType("documents", "error"); got != "unknown" { // see safeType
		t.Errorf("got %q", got)
	}
}

func TestWhatIsEncryptedIsNotShownAsOpen(t *testing.T) {
	s := newStatusLine(replicate.Status{State: replicate.Open, Encrypted: true}, nil)
	for want, got := range map[string]string{
		"state     encrypted\n": text(t, dbInfoCmd, nil, &infoLine{statusLine: s}),
		"  encrypted  pieces\n": text(t, dbLsCmd, nil, &listLine{Name: "pieces", State: s.State}),
		"encrypted /orbitdb/z: no entry can be read, open at 0 peers\n": text(t, dbOpenCmd, nil, &openLine{Address: "/orbitdb/z", statusLine: s}),
		"values    encrypted by the apps":                               text(t, dbInfoCmd, nil, &infoLine{Encrypted: true}),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := text(t, dbInfoCmd, nil, &infoLine{}); strings.Contains(got, "encrypted") {
		t.Errorf("got %q", got)
	}
}

func TestInfoNamesManyHashesInPart(t *testing.T) {
	l := infoLine{Heads: strings.Fields(strings.Repeat("head ", maxRows+3))}
	got := l.text()
	if strings.Count(got, "head      head") != maxRows || !strings.Contains(got, "head      and 3 more\n") {
		t.Errorf("got:\n%s", got)
	}
}

func TestLogTextOfPayloadsThatAreNoOperations(t *testing.T) {
	for payload, want := range map[string]string{
		`{"op":"PUT","key":"a","value":1}`:  "PUT       0  a\n",
		`{"op":"ADD","key":null,"value":1}`: "ADD       0  -\n",
		`{"op":"PUT","key":[1,2]}`:          "PUT       0  [1,2]\n",
		`{"op":5}`:                          "5         0  -\n",
		`[1]`:                               "?         0  -\n",
		`null`:                              "?         0  -\n",
	} {
		l := entryLine{Payload: json.RawMessage(payload)}
		if got := l.text(); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q", payload, got)
		}
	}
}

func TestDatabaseErrorsSayWhatToDo(t *testing.T) {
	for _, test := range []struct {
		err    error
		called string
		want   string
	}{
		{orbit.ErrUnknown, "x", "hint: ipfs npp db ls"},
		{orbit.ErrLegacyAddress, "x", "hint: npp cannot open such a database"},
		{orbit.ErrDamaged, "pieces", "hint: ipfs npp db rebuild pieces"},
		{orbit.ErrDamaged, "two words", "hint: ipfs npp db rebuild <db>"},
		{orbit.ErrDamaged, "\x1b[31m", "hint: ipfs npp db rebuild <db>"},
		{orbit.ErrUnavailable, "x", "hint: connect to a peer"},
		{entry.ErrTooLarge, "x", "hint: add it to IPFS"},
		{orbit.ErrUnknown, "/orbitdb/zdpu", "ipfs npp db open /orbitdb/zdpu fetches it"},
		{orbit.ErrInUse, "x", "hint: close or drop that database"},
		{orbit.ErrDropped, "x", "hint: ipfs npp db ls"},
		{replicate.ErrNotReplicated, "gigs", "hint: ipfs npp db open gigs"},
		{replicate.ErrFailed, "x", "hint: check the address"},
		{fmt.Errorf("x %w: %w", replicate.ErrFailed, orbit.ErrType), "/orbitdb/zdpu", "hint: ipfs npp db open /orbitdb/zdpu --type with"},
		{fmt.Errorf("x %w: %w", replicate.ErrFailed, &orbit.AccessTypeError{Type: "custom"}), "x", "hint: npp opens databases with the access controllers"},
		{fmt.Errorf("x: %w", orbit.ErrEncrypted), "x", "hint: --plain writes it"},
	} {
		got := dbError(test.err, test.called)
		if !errors.Is(got, test.err) || !strings.Contains(got.Error(), test.want) {
			t.Errorf("%v: %v", test.err, got)
		}
	}
	if err := dbError(orbit.ErrClosed, "x"); !errors.Is(err, daemon.ErrStopping) {
		t.Errorf("closed: %v", err)
	}
	if err := dbError(nil, "x"); err != nil {
		t.Errorf("none: %v", err)
	}
}

func TestLinesAreBounded(t *testing.T) {
	read := func(text string) (lines []string, err error) {
		r := bufio.NewReaderSize(strings.NewReader(text), 16)
		for {
			line, err := readLine(r)
			if len(line) > 0 {
				lines = append(lines, string(line))
			}
			if err != nil {
				return lines, err
			}
		}
	}
	long := strings.Repeat("x", 1000)
	if lines, err := read("a\n\n" + long + "\nb"); strings.Join(lines, "|") != "a\n|\n|"+long+"\n|b" || err != io.EOF {
		t.Errorf("%q, %v", lines, err)
	}
	endless := &counted{}
	_, err := readLine(bufio.NewReaderSize(endless, 64<<10))
	if !errors.Is(err, entry.ErrTooLarge) || endless.n > maxJSON+128<<10 {
		t.Errorf("%d bytes read of an endless line: %v", endless.n, err)
	}
}

// counted is a reader of an endless line. It counts what was read.
type counted struct{ n int }

func (c *counted) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	c.n += len(b)
	return len(b), nil
}

func TestReadsEndWithTheContext(t *testing.T) {
	never, w := io.Pipe()
	defer w.Close()
	stopping := errors.New("stopping")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, stop, _ := contextReader(ctx, never)
	defer stop()
	go cancel(stopping)
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, stopping) {
		t.Errorf("read: %v", err)
	}
	r, stop, _ = contextReader(t.Context(), strings.NewReader("all of it"))
	if b, err := io.ReadAll(r); string(b) != "all of it" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	stop()
}

func TestProgressIsShownFromTheFirstSecondOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for wait, want := range map[time.Duration]string{0: "", 2500 * time.Millisecond: "\r3 lines sent\r3 lines sent\r4 lines sent\n"} {
			var out bytes.Buffer
			in, w := io.Pipe()
			go func() {
				io.WriteString(w, "1\n2\n3\n")
				time.Sleep(wait) // of the bubble's clock
				io.WriteString(w, "4\n")
				w.Close()
			}()
			p := &progress{Reader: in, w: &out, what: "lines sent", count: func(b []byte) int { return bytes.Count(b, []byte("\n")) }}
			if b, err := io.ReadAll(p); string(b) != "1\n2\n3\n4\n" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			if out.String() != want {
				t.Errorf("after %v: %q", wait, out.String())
			}
		}
	})
}

func TestValueComesFromOnePlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("from the file"), 0o600); err != nil {
		t.Fatal(err)
	}
	many := cmds.OptMap{manyOption: true}
	for _, test := range []source{
		{"argument", []string{"db", "1"}, nil, "1", 1, ""},
		{"key and argument", []string{"db", "k", "1"}, nil, "1", 2, ""},
		{"stdin", []string{"db"}, nil, "", 1, ""},
		{"stdin by dash", []string{"db", "-"}, nil, "", 1, ""},
		{"key, stdin by dash", []string{"db", "k", "-"}, nil, "", 2, ""},
		{"file", []string{"db"}, cmds.OptMap{fileOption: file}, "from the file", 1, ""},
		{"key and file", []string{"db", "k"}, cmds.OptMap{fileOption: file}, "from the file", 2, ""},
		{"many, stdin", []string{"db"}, many, "", 1, ""},
		{"many, stdin by dash", []string{"db", "-"}, many, "", 1, ""},
		{"many, file", []string{"db"}, cmds.OptMap{manyOption: true, fileOption: file}, "from the file", 1, ""},
		{"many, argument", []string{"db", "1"}, many, "", 0, "--many reads from"},
		{"many, argument and file", []string{"db", "1"}, cmds.OptMap{manyOption: true, fileOption: file}, "", 0, "given twice"},
		{"key, argument and file", []string{"db", "k", "1"}, cmds.OptMap{fileOption: file}, "", 0, "given twice"},
		{"dash and file", []string{"db", "-"}, cmds.OptMap{fileOption: file}, "", 0, "given twice"},
		{"no such file", []string{"db"}, cmds.OptMap{fileOption: file + "?"}, "", 0, "read the value: open "},
	} {
		test.check(t, putBody)
	}
}

func TestFileIsThereWhenItIsWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "car")
	failed := errors.New("failed")
	if _, err := saveFile(path, io.MultiReader(strings.NewReader("half"), failingReader{failed}), true); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	for _, content := range []string{"whole", "another"} {
		if n, err := saveFile(path, strings.NewReader(content), true); n != int64(len(content)) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if b, err := os.ReadFile(path); string(b) != content || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }
