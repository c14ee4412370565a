package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	cmds "github.com/ipfs/go-ipfs-cmds"
)

// hostile is a text that a peer may choose: colours, a title for the terminal,
// a cleared line, right-to-left text, a forged line.
const hostile = "kubo\n\x1b[31m\x1b]0;owned\a\r\x00\u202e\u009b2J\u2028x\x7f\xff"

const escaped = `kubo\n\x1b[31m\x1b]0;owned\a\r\x00\u202e\u009b2J\u2028x\x7f` + "\ufffd"

func TestPrintableLeavesNothingToObey(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "",
		"kubo/0.43.1":        "kubo/0.43.1",
		"Frère Jacques ♪ 音楽": "Frère Jacques ♪ 音楽",
		`{"a":"\u001b"}`:     `{"a":"\u001b"}`,
		"a\tb\nc":            `a\tb\nc`,
		"\u00a0":             `\u00a0`,
		hostile:              escaped,
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("kubo/0.43.1")
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, text string) {
		got := printable(text)
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q becomes %q", text, got)
		}
		if again := printable(got); again != got {
			t.Errorf("%q becomes %q, and that %q", text, got, again)
		}
	})
}

// text returns what a command prints for a line.
func text[T any](t *testing.T, c *cmds.Command, options cmds.OptMap, line *T) string {
	t.Helper()
	var b bytes.Buffer
	req := &cmds.Request{Command: c, Options: options}
	if err := c.Encoders[cmds.Text](req)(&b).Encode(line); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPeersTextOfAHostilePeerIsHarmless(t *testing.T) {
	since := time.Now()
	row := PeerLine{Peer: "12D3KooW", Agent: hostile, Since: &since, Direction: "inbound", Relayed: true, Kept: "npp", Topics: []string{hostile}}
	event := row
	event.Event = "connect"
	gone := row
	gone.Event = "disconnect"
	for name, got := range map[string]string{
		"list":       text(t, peersCmd, nil, &peersLine{PeerLine: &row}),
		"watch":      text(t, peersCmd, cmds.OptMap{watchOption: true}, &peersLine{PeerLine: &row}),
		"connect":    text(t, peersCmd, cmds.OptMap{watchOption: true}, &peersLine{PeerLine: &event}),
		"disconnect": text(t, peersCmd, cmds.OptMap{watchOption: true}, &peersLine{PeerLine: &gone}),
	} {
		if strings.Count(got, "\n") != 1 || strings.ContainsFunc(strings.TrimSuffix(got, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := text(t, peersCmd, nil, &peersLine{PeerLine: &row}); !strings.Contains(got, escaped) {
		t.Errorf("the agent is not in %q", got)
	}
}

func TestPeersTextOfLittleKnownPeer(t *testing.T) {
	fields := strings.Fields(text(t, peersCmd, nil, &peersLine{PeerLine: &PeerLine{Peer: "12D3KooW", Addr: "/ip4/127.0.0.1"}}))
	want := "12D3KooW ? ? direct - - 0 topics ? /ip4/127.0.0.1"
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPeersJSONIsAPeerOrTheCountOrAdviceAlone(t *testing.T) {
	zero, age := 0, 12.5
	for want, l := range map[string]peersLine{
		`{"count":0}`:        {Count: &zero},
		`{"advice":"do so"}`: {Advice: "do so"},
		`{"peer":"12D3KooW","latencyMs":0.5,"latencyAgeMs":12.5,"connected":true,"relayed":false,"npp":false}`: {
			PeerLine: &PeerLine{Peer: "12D3KooW", LatencyMS: 0.5, LatencyAgeMS: &age, Connected: true}},
		`{"peer":"12D3KooW","connected":false,"relayed":false,"npp":false}`: {PeerLine: &PeerLine{Peer: "12D3KooW"}},
	} {
		got, err := json.Marshal(&l)
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
		var again peersLine
		if err := json.Unmarshal(got, &again); err != nil || !reflect.DeepEqual(again, l) {
			t.Errorf("%s is read as %+v, %v", got, again, err)
		}
	}
}

// plurals matches a plural after the number 1.
var plurals = regexp.MustCompile(`(?:^|\D)1 (?:\w+s|entries|were|are|have)\b`)

func TestTextsCountOneRight(t *testing.T) {
	texts := func(n int) map[string]string {
		u := uint64(n)
		status := statusOutput{Databases: n, Companions: companionsStatus{n, n, n, n}, Stores: []storeStatusLine{{Keys: u, Open: n}}}
		return map[string]string{
			"peers":        text(t, peersCmd, nil, &peersLine{PeerLine: &PeerLine{Topics: make([]string, n)}}),
			"send":         text(t, sendCmd, nil, &sendLine{Status: "published", Subscribers: n}),
			"status":       status.text(),
			"db rebuild":   text(t, dbRebuildCmd, nil, &rebuildLine{Entries: u}),
			"db drop":      text(t, dbDropCmd, nil, &dropLine{Here: true, Entries: u, Kept: n}),
			"db open":      text(t, dbOpenCmd, nil, &openLine{Entries: u, statusLine: statusLine{State: "open"}}),
			"pieces add":   (&addLine{Progress: &addProgress{Bytes: &u}}).progress(),
			"pieces pin":   (&addLine{Progress: &addProgress{Blocks: &n}}).progress(),
			"pieces get":   text(t, piecesGetCmd, nil, &getLine{Bytes: int64(n)}),
			"practice":     text(t, practiceCmd, nil, &practiceLine{Practice: u, PracticeAll: u}),
			"companions":   text(t, companionsAddCmd, nil, &companionAddLine{Status: "here", Pieces: &n}),
			"missing":      (&missingLine{Since: time.Now(), Tries: n}).text(),
			"db export":    text(t, dbExportCmd, nil, &exportLine{Bytes: int64(n)}),
			"pieces show":  (&pieceLine{pieceFacts: pieceFacts{Size: u}}).text(),
			"db put":       text(t, dbPutCmd, nil, &putLine{Put: &n}),
			"messages rm":  text(t, messagesRmCmd, nil, &removeLine{Removed: n}),
			"db import":    text(t, dbImportCmd, nil, &importLine{Entries: n}),
			"companion ls": (&companionLine{Companion: true, Pieces: &n}).text(false),
		}
	}
	many := texts(2)
	for name, got := range texts(1) {
		if wrong := plurals.FindString(got); wrong != "" {
			t.Errorf("%s: %q in %q", name, wrong, got)
		}
		if got == many[name] {
			t.Errorf("%s has no number: %q", name, got)
		}
	}
}

func TestConnectTextOfHostileErrorsIsHarmless(t *testing.T) {
	for _, l := range []connectLine{
		{Peer: "12D3KooW", Error: hostile},
		{Peer: "12D3KooW", Error: "no way", Tried: []tryLine{{Way: "relay", Error: hostile}}},
		{Peer: "12D3KooW", OK: true, Tried: []tryLine{{Way: "relay", Error: hostile}}},
	} {
		got := text(t, connectCmd, nil, &l)
		if !strings.Contains(got, escaped) || strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%+v: %q", l, got)
		}
	}
}

func TestDurationsArePositive(t *testing.T) {
	for value, want := range map[string]time.Duration{"30s": 30 * time.Second, "1.5h": 90 * time.Minute, "1ns": 1} {
		got, err := durationOption(&cmds.Request{Options: cmds.OptMap{"deadline": value}}, "deadline")
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", value, got, err)
		}
	}
	for _, value := range []any{"", "soon", "30", "0", "0s", "-1s", "9999999h", strings.Repeat("9", 5000), "\x1b[31m", 30, nil} {
		_, err := durationOption(&cmds.Request{Options: cmds.OptMap{"deadline": value}}, "deadline")
		if err == nil || !strings.HasPrefix(err.Error(), "--deadline is ") || len(err.Error()) > 300 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%.20v: %v", value, err)
		}
	}
}

func TestBeforeIsADurationOrATime(t *testing.T) {
	day := time.Date(2026, 5, 1, 20, 15, 3, 0, time.UTC)
	got, err := beforeOf(&cmds.Request{Options: cmds.OptMap{beforeOption: day.Format(time.RFC3339)}})
	if err != nil || !got.Equal(day) {
		t.Errorf("time: %v, %v", got, err)
	}
	start := time.Now()
	got, err = beforeOf(&cmds.Request{Options: cmds.OptMap{beforeOption: "720h"}})
	if err != nil || got.Before(start.Add(-720*time.Hour)) || got.After(time.Now().Add(-720*time.Hour)) {
		t.Errorf("duration: %v, %v", got, err)
	}
	if got, err = beforeOf(&cmds.Request{}); err != nil || got.Before(time.Now()) {
		t.Errorf("not given: %v, %v", got, err)
	}
	for _, value := range []string{"", "yesterday", "-1h", "2026-05-01"} {
		if got, err := beforeOf(&cmds.Request{Options: cmds.OptMap{beforeOption: value}}); err == nil {
			t.Errorf("%q: %v", value, got)
		}
	}
}

// source is a command line, and the input that it chooses.
type source struct {
	name    string
	args    []string
	options cmds.OptMap
	want    string
	left    int // arguments
	err     string
}

// check reads what open returns. Standard input is empty, and must be used if
// and only if the name contains "stdin".
func (s source) check(t *testing.T, open func(*cmds.Request) (io.Reader, error)) {
	t.Helper()
	stdin, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	write.Close()
	old := os.Stdin
	os.Stdin = stdin
	defer func() { os.Stdin = old }()

	req := &cmds.Request{Arguments: s.args, Options: s.options}
	r, err := open(req)
	if s.err != "" {
		if err == nil || !strings.Contains(err.Error(), s.err) {
			t.Errorf("%s: got %v, want %s", s.name, err, s.err)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", s.name, err)
		return
	}
	if isStdin := r == io.Reader(stdin); isStdin != strings.Contains(s.name, "stdin") {
		t.Errorf("%s: read from stdin: %v", s.name, isStdin)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != s.want || len(req.Arguments) != s.left {
		t.Errorf("%s: got %q, %v, with arguments %q left", s.name, got, err, req.Arguments)
	}
	if f, ok := r.(*os.File); ok && f != stdin {
		f.Close()
	}
}

func TestMessageComesFromOnePlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(file, []byte("from the file"), 0o600); err != nil {
		t.Fatal(err)
	}
	const fromStdin = ""
	for _, test := range []source{
		{"argument", []string{"peer", "hello"}, nil, "hello", 1, ""},
		{"empty argument", []string{"peer", ""}, nil, "", 1, ""},
		{"stdin", []string{"peer"}, nil, fromStdin, 1, ""},
		{"stdin by dash", []string{"peer", "-"}, nil, fromStdin, 1, ""},
		{"file", []string{"peer"}, cmds.OptMap{fileOption: file}, "from the file", 1, ""},
		{"no such file", []string{"peer"}, cmds.OptMap{fileOption: file + "?"}, "", 0, "read the message: open "},
		{"argument and file", []string{"peer", "hello"}, cmds.OptMap{fileOption: file}, "", 0, "given twice"},
		{"topic", []string{"hello"}, cmds.OptMap{topicOption: "rehearsals"}, "hello", 0, ""},
		{"topic, stdin", nil, cmds.OptMap{topicOption: "rehearsals"}, fromStdin, 0, ""},
		{"topic, file", nil, cmds.OptMap{topicOption: "rehearsals", fileOption: file}, "from the file", 0, ""},
		{"topic and peer", []string{"peer", "hello"}, cmds.OptMap{topicOption: "rehearsals"}, "", 0, "--topic takes no peer"},
		{"nobody", nil, nil, "", 0, "the recipient is missing"},
	} {
		test.check(t, messageBody)
	}
}

// Only a path below /npp/ that is not found means that the daemon has no npp.
func TestNotFoundIsExplainedForNPPAlone(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/fine") {
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	client := http.Client{Transport: newTransport()}
	for path, want := range map[string]int{
		"/api/v0/npp/peers": http.StatusInternalServerError,
		"/api/v0/npp/fine":  http.StatusOK,
		"/api/v0/cat":       http.StatusNotFound,
	} {
		resp, err := client.Post(server.URL+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || strings.Contains(string(body), "without npp; hint: ") != (want == http.StatusInternalServerError) {
			t.Errorf("%s: %s: %s, %v", path, resp.Status, body, err)
		}
	}
}

// The client reports the answer of a daemon that does not read the body. It
// sends the body to a daemon that does.
func TestAnswerIsReportedWhereTheBodyIsNotRead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			io.Copy(w, r.Body)
			return
		}
		w.Header().Set("Connection", "close")
		http.Error(w, "refused", http.StatusInternalServerError)
	}))
	defer server.Close()
	client := http.Client{Transport: newTransport()}
	for path, want := range map[string]string{"/read": "the body", "/refuse": "refused\n"} {
		body := &countingReader{Reader: strings.NewReader("the body")}
		resp, err := client.Post(server.URL+path, "", body)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(answer) != want {
			t.Errorf("%s: %q, %v", path, answer, err)
		}
		if read := body.n.Load() > 0; read != (path == "/read") {
			t.Errorf("%s: the client sent the body: %v", path, read)
		}
	}
}

type countingReader struct {
	io.Reader
	n atomic.Int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n.Add(int64(n))
	return n, err
}

func TestInterruptIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	req := &cmds.Request{Context: ctx, Command: &cmds.Command{}}
	run := func(end error) (emitted int, err error) {
		re, res := cmds.NewChanResponsePair(req)
		out, printed := cmds.NewChanResponsePair(&cmds.Request{Context: t.Context(), Command: &cmds.Command{}})
		go func() {
			re.Emit("a line")
			re.CloseWithError(end)
		}()
		go func() { out.CloseWithError(untilInterrupted[cmds.CLI](res, out)) }()
		for {
			if _, err := printed.Next(); err != nil {
				return emitted, err
			}
			emitted++
		}
	}
	if n, err := run(nil); n != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("end: %d lines, %v", n, err)
	}
	failed := errors.New("failed")
	if n, err := run(failed); n != 1 || !errors.Is(err, failed) {
		t.Errorf("failure: %d lines, %v", n, err)
	}
	if n, err := run(context.Canceled); n != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled by the daemon: %d lines, %v", n, err)
	}
	cancel()
	if _, err := run(context.Canceled); !errors.Is(err, io.EOF) {
		t.Errorf("interrupted: %v", err)
	}
}
