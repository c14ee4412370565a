package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/multiformats/go-multibase"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/newpieceplease/npp/test/harness"
)

// sent is the outcome of a message as `ipfs npp send` prints it.
type sent struct {
	ID, To, Topic, Status, Via, Warning, Error string
	Subscribers                                int
	RecipientSubscribed                        bool
}

// arrived is a message as `ipfs npp listen` and `ipfs npp messages ls` print
// it.
type arrived struct {
	From, Data, Seqno, ID, Via string
	TopicIDs                   []string
	Message                    json.RawMessage
	Sent, Received             string
}

func (m arrived) data(t *testing.T) string { return decoded(t, m.Data) }

// decoded returns the content of multibase text.
func decoded(t *testing.T, text string) string {
	t.Helper()
	_, b, err := multibase.Decode(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return string(b)
}

// stored returns the messages in the store of the node's daemon.
func stored(t *testing.T, n *harness.Node) []arrived {
	t.Helper()
	return decodeLines[arrived](t, n.MustRun("npp", "messages", "ls", "--enc=json"))
}

// pair returns two running daemons with npp that are connected.
func pair(t *testing.T) (a, b *harness.Node) {
	t.Helper()
	a, b = harness.New(t).Start(), harness.New(t).Start()
	a.Connect(b)
	return a, b
}

// mailer calls the RPC of a daemon. It may be used by concurrent goroutines.
type mailer struct {
	url    string
	client *http.Client
}

func newMailer(t *testing.T, n *harness.Node) *mailer {
	t.Helper()
	m := &mailer{
		url:    n.APIURL() + "npp/",
		client: &http.Client{Timeout: harness.Patience, Transport: &http.Transport{}},
	}
	t.Cleanup(m.client.CloseIdleConnections)
	return m
}

// send posts a message as a multipart body.
func (m *mailer) send(query url.Values, message []byte) (sent, error) {
	return m.call("send", query, bytes.NewReader(message))
}

// call calls a command of npp, with a multipart body unless body is nil. It
// returns the outcome of the message and the error of the daemon or of HTTP.
func (m *mailer) call(command string, query url.Values, body io.Reader) (s sent, err error) {
	contentType := ""
	if body != nil {
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("file", "file")
		if err == nil {
			_, err = io.Copy(part, body)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			return s, err
		}
		body, contentType = &form, w.FormDataContentType()
	}
	resp, err := m.client.Post(m.url+command+"?"+query.Encode(), contentType, body)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return s, err
	}
	if resp.StatusCode != http.StatusOK {
		var e struct{ Message string }
		if err := json.Unmarshal(answer, &e); err != nil {
			return s, fmt.Errorf("%s: %s", resp.Status, answer)
		}
		return s, errors.New(e.Message)
	}
	if err := json.Unmarshal(answer, &s); err != nil {
		return s, fmt.Errorf("%w: %s", err, answer)
	}
	if e := resp.Trailer.Get("X-Stream-Error"); e != "" {
		return s, errors.New(e)
	}
	return s, nil
}

// values are JSON texts, each with the message that must arrive.
var values = []struct{ text, message string }{
	{`{"piece":"Prelude in C","page":2}`, `{"piece":"Prelude in C","page":2}`},
	{` { "b" : 1 , "a" : [ ] }` + "\n", `{"b":1,"a":[]}`},
	{`[1,[2,{"three":null}],"4"]`, `[1,[2,{"three":null}],"4"]`},
	{`12345678901234567890123456789.50e-3`, `12345678901234567890123456789.50e-3`},
	{`-0`, `-0`},
	{`true`, `true`},
	{`null`, `null`},
	{`""`, `""`},
	{`"a b"`, `"a b"`},
	{`"Dvořák 𝄞 \u00e9\ud834\udd1e"`, `"Dvořák 𝄞 \u00e9\ud834\udd1e"`},
	{`{"a":1,"a":2}`, `{"a":1,"a":2}`},
	{`<&>`, `"<&>"`},
	{`hello, Dvořák`, `"hello, Dvořák"`},
	{"two\nlines\n", `"two\nlines"`},
	{"\a\x1b[31mred", `"\u0007\u001b[31mred"`},
	{`{"open":`, `"{\"open\":"`},
	{`NaN`, `"NaN"`},
	{`01`, `"01"`},
}

// Any JSON value arrives as it was written, and other text as a JSON string:
// through each input of the command line and over the RPC, in both directions.
func TestWhatIsSentArrives(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	file := filepath.Join(t.TempDir(), "message")
	type way struct {
		name string
		send func(t *testing.T, from, to *harness.Node, text string) sent
	}
	cli := func(stdin string, args ...string) func(*testing.T, *harness.Node) sent {
		return func(t *testing.T, from *harness.Node) sent {
			t.Helper()
			r := from.RunStdin(stdin, append([]string{"npp", "send", "--enc=json"}, args...)...)
			if r.Code != 0 || r.Stderr != "" {
				t.Fatalf("send %q: %v", args, r)
			}
			return decodeLines[sent](t, r.Stdout)[0]
		}
	}
	rpc := func(t *testing.T, s sent, err error) sent {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, way := range []way{
		{"argument", func(t *testing.T, from, to *harness.Node, text string) sent {
			return cli("not this", to.PeerID(), "--", text)(t, from)
		}},
		{"stdin", func(t *testing.T, from, to *harness.Node, text string) sent {
			return cli(text, to.PeerID())(t, from)
		}},
		{"dash", func(t *testing.T, from, to *harness.Node, text string) sent {
			return cli(text, to.PeerID(), "-")(t, from)
		}},
		{"file", func(t *testing.T, from, to *harness.Node, text string) sent {
			write(t, file, text)
			return cli("not this", "--file", file, to.PeerID())(t, from)
		}},
		{"multipart", func(t *testing.T, from, to *harness.Node, text string) sent {
			s, err := newMailer(t, from).send(url.Values{"arg": {to.PeerID()}}, []byte(text))
			return rpc(t, s, err)
		}},
		{"arg", func(t *testing.T, from, to *harness.Node, text string) sent {
			s, err := newMailer(t, from).call("send", url.Values{"arg": {to.PeerID(), text}}, nil)
			return rpc(t, s, err)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			var ids []string
			nodes := []*harness.Node{a, b}
			for i, value := range values {
				from, to := nodes[i%2], nodes[1-i%2]
				s := way.send(t, from, to, value.text)
				if s.Status != "delivered" || s.Via != "direct" || s.To != to.PeerID() {
					t.Errorf("%q: %+v", value.text, s)
				}
				ids = append(ids, s.ID)
			}
			in := [][]arrived{stored(t, a), stored(t, b)}
			for i, value := range values {
				from, to := nodes[i%2], nodes[1-i%2]
				all := in[1-i%2]
				got := all[len(all)-len(values)/2+i/2]
				if got.ID != ids[i] || got.From != from.PeerID() || got.Via != "direct" ||
					!slices.Equal(got.TopicIDs, []string{to.PeerID()}) || got.Sent == "" || got.Received == "" {
					t.Errorf("%q: sent as %s, stored %+v", value.text, ids[i], got)
				}
				if data := got.data(t); data != value.message {
					t.Errorf("%q: data is %q, want %q", value.text, data, value.message)
				}
				if !sameJSON(t, got.Message, []byte(value.message)) {
					t.Errorf("%q: message is %s, want %s", value.text, got.Message, value.message)
				}
			}
		})
	}
}

// sameJSON reports whether two JSON texts have the same value, with numbers
// compared to the last digit.
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	for _, v := range []struct {
		text []byte
		into *any
	}{{a, &x}, {b, &y}} {
		d := json.NewDecoder(bytes.NewReader(v.text))
		d.UseNumber()
		if err := d.Decode(v.into); err != nil {
			t.Fatalf("%v: %q", err, v.text)
		}
	}
	return fmt.Sprintf("%#v", x) == fmt.Sprintf("%#v", y)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each script in testdata runs with two connected daemons. Its commands a and b
// run ipfs on their repos; $A and $B are their peer IDs.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			run := func(n *harness.Node) func(*testscript.TestScript, bool, []string) {
				return func(ts *testscript.TestScript, neg bool, args []string) {
					ts.Setenv("IPFS_PATH", n.Repo)
					err := ts.Exec(n.Bin, args...)
					var exit *exec.ExitError
					switch {
					case !neg:
						ts.Check(err)
					case !errors.As(err, &exit) || exit.ExitCode() != 1:
						ts.Fatalf("want exit status 1, got %v", err)
					}
				}
			}
			testscript.Run(t, testscript.Params{
				Files:               []string{file},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("A", a.PeerID())
					env.Setenv("B", b.PeerID())
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"a": run(a), "b": run(b)},
			})
		})
	}
}

// A message up to the limit is delivered. A larger one is refused by the
// sender's daemon, with the limit in the error.
func TestMessageSizeLimit(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	a, b := pair(t)
	to := url.Values{"arg": {b.PeerID()}}
	as := func(n int) string { return strings.Repeat("a", n) }
	for _, test := range []struct {
		name, text string
		data       string // empty if it is refused
	}{
		{"text up to it", as(limit - 2), `"` + as(limit-2) + `"`},
		{"text above it", as(limit - 1), ""},
		{"JSON up to it", `"` + as(limit-2) + `"`, `"` + as(limit-2) + `"`},
		{"JSON above it", `"` + as(limit-1) + `"`, ""},
		{"JSON up to it without white space", "[" + strings.Repeat(" ", limit/2) + `"` + as(limit-4) + `"]`, `["` + as(limit-4) + `"]`},
		{"far above it", as(10 * limit), ""},
	} {
		check := func(way string, err string) {
			t.Helper()
			if test.data == "" {
				if !strings.Contains(err, "too large") || !strings.Contains(err, fmt.Sprint(limit)) {
					t.Errorf("%s: %s: error is %q", test.name, way, err)
				}
				return
			}
			if err != "" {
				t.Errorf("%s: %s: %s", test.name, way, err)
				return
			}
			all := stored(t, b)
			if got := all[len(all)-1].data(t); got != test.data {
				t.Errorf("%s: %s: %d bytes are stored, want %d", test.name, way, len(got), len(test.data))
			}
			b.MustRun("npp", "messages", "rm", "--all")
		}
		r := a.RunStdin(test.text, "npp", "send", b.PeerID())
		if (r.Code == 1) != (test.data == "") {
			t.Errorf("%s: %v", test.name, r)
		}
		check("CLI", r.Stderr)
		_, err := newMailer(t, a).send(to, []byte(test.text))
		if err == nil {
			err = errors.New("")
		}
		check("RPC", err.Error())
	}
	if got := len(stored(t, b)); got != 0 {
		t.Errorf("%d refused messages are stored", got)
	}
}

// Over the RPC, a refusal has a status other than 200 and a reason, or a reason
// in the trailer if the answer has begun.
func TestRPCRefusesWithReason(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	to := b.PeerID()
	for _, test := range []struct {
		name, command string
		query         url.Values
		message       []byte // nil: no body
		want          string
	}{
		{"no peer", "send", nil, []byte("hello"), "one peer is needed besides the message, not 0"},
		{"no message", "send", url.Values{"arg": {to}}, nil, "one peer is needed besides the message, not 0"},
		{"neither", "send", nil, nil, "there is no message"},
		{"two peers", "send", url.Values{"arg": {to, to}}, []byte("hello"), "one peer is needed besides the message, not 2"},
		{"bad peer", "send", url.Values{"arg": {"nobody"}}, []byte("hello"), `peer "nobody"`},
		{"empty body", "send", url.Values{"arg": {to}}, []byte{}, "the message is empty"},
		{"empty argument", "send", url.Values{"arg": {to, ""}}, nil, "the message is empty"},
		{"not text", "send", url.Values{"arg": {to}}, []byte{0xff}, "neither JSON nor UTF-8 text"},
		{"not JSON", "send", url.Values{"arg": {to}, "json": {"true"}}, []byte("hello"), "the message is not JSON"},
		{"a file of the daemon", "send", url.Values{"arg": {to}, "file": {"/etc/hostname"}}, nil, "--file works only at the command line"},
		{"bad ID", "send", url.Values{"arg": {to}, "id": {"a b"}}, []byte("hello"), "a message ID is 1 to 64"},
		{"empty ID", "send", url.Values{"arg": {to}, "id": {""}}, []byte("hello"), "a message ID is 1 to 64"},
		{"bad deadline", "send", url.Values{"arg": {to}, "deadline": {"-1s"}}, []byte("hello"), `--deadline is "-1s"`},
		{"bad flag", "send", url.Values{"arg": {to}, "private": {"perhaps"}}, []byte("hello"), "private"},
		{"itself", "send", url.Values{"arg": {a.PeerID()}}, []byte("hello"), "the recipient is this peer itself"},
		{"bad since", "listen", url.Values{"since": {"!"}}, nil, "--since"},
		{"bad from", "messages/ls", url.Values{"from": {"nobody"}}, nil, "--from"},
		{"rm of nothing", "messages/rm", nil, nil, "either message IDs or --all"},
		{"rm of what is not there", "messages/rm", url.Values{"arg": {"m1"}}, nil, "no such message: m1"},
	} {
		var body io.Reader
		if test.message != nil {
			body = bytes.NewReader(test.message)
		}
		s, err := newMailer(t, a).call(test.command, test.query, body)
		if err == nil || !strings.Contains(err.Error(), test.want) || s.Status != "" && s.Status != "failed" {
			t.Errorf("%s: %+v, %v", test.name, s, err)
		}
	}
	if got := len(stored(t, b)); got != 0 {
		t.Errorf("%d messages arrived", got)
	}
	for _, command := range []string{"send", "listen", "messages/ls", "messages/rm", "messages/stat"} {
		resp, err := http.Get(a.APIURL() + "npp/" + command + "?arg=" + to + "&arg=hello&all=true")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %s", command, resp.Status)
		}
	}
}

// Without a receipt, the fate of a message is unknown. If it is sent again
// under its ID, it is stored once.
func TestLostReceiptIsUnknown(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.MustRun("npp", "send", "--id=first", b.PeerID(), "hello")
	b.Daemon().Signal(syscall.SIGSTOP)
	r := a.Run("npp", "send", "--id=second", "--deadline=3s", b.PeerID(), "hello")
	if r.Code != 1 || !strings.HasPrefix(r.Stderr, "Error: unknown whether second was delivered: no receipt arrived: ") ||
		!strings.HasSuffix(r.Stderr, "; hint: send it again with --id second; it is stored only once\n") {
		t.Errorf("send to a peer that hangs: %v", r)
	}
	s, err := newMailer(t, a).send(url.Values{"arg": {b.PeerID()}, "id": {"third"}, "deadline": {"3s"}}, []byte("hello"))
	if err == nil || s.Status != "unknown" || s.ID != "third" {
		t.Errorf("RPC: %+v, %v", s, err)
	}
	b.Daemon().Signal(syscall.SIGCONT)
	for _, id := range []string{"second", "third"} {
		a.MustRun("npp", "send", "--id", id, b.PeerID(), "hello")
	}
	times := map[string]int{}
	for _, m := range stored(t, b) {
		times[m.ID]++
	}
	if want := (map[string]int{"first": 1, "second": 1, "third": 1}); !maps.Equal(times, want) {
		t.Errorf("stored: %v, want %v", times, want)
	}
}

// No published text reaches the terminal with a control character, nor with a
// single-byte one, which some terminals obey.
func TestTerminalGetsNoControlCharacters(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	awaitSubscriber(t, a, b.PeerID(), b)
	listener := b.Spawn("npp", "listen", "--since=all")
	for _, text := range []string{"\"\x9b31m\"", "\"\u009b31m\"", "\"\u202egnp.exe\"", "\x1b[31m", "[\n\n1]"} {
		publish(t, a, b.PeerID(), text)
		line := listener.Expect(a.PeerID())
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !utf8.ValidString(line) {
			t.Errorf("published %q, printed %q", text, line)
		}
	}
}
