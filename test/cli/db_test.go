package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-datastore"
	leveldb "github.com/ipfs/go-ds-leveldb"

	"github.com/newpieceplease/npp/test/harness"
)

func init() {
	for command, args := range map[string][]string{
		"ls":      nil,
		"info":    {"pieces"},
		"create":  {"rehearsals"},
		"put":     {"pieces", `{"hash":"Qm"}`},
		"get":     {"user", "username"},
		"del":     {"pieces", "Qm"},
		"all":     {"pieces"},
		"query":   {"pieces", "--where=true"},
		"log":     {"pieces"},
		"export":  {"pieces"},
		"import":  nil,
		"rebuild": {"pieces"},
	} {
		calls["ipfs npp db "+command] = append([]string{"npp", "db", command}, args...)
	}
}

// dbLine has the fields of all lines of `npp db`.
type dbLine struct {
	Address, Name, Type, IndexBy, AccessOf, Error string
	Hash, Writer, Identity                        string
	Key, Value, Meta, Payload                     json.RawMessage
	Put                                           *int
	Number, Entries, Keys, Faults, Waiting, Last  uint64
	Known, Size                                   int
	Refused                                       any // a number for an import, a list for a database
	Writable                                      bool
	Next, Heads                                   []string
	Clock                                         json.RawMessage
	Lost                                          []struct{ Hash string }
}

// call is a call of a command below `npp`. The body is the value, or nil.
type call struct {
	command string
	args    []string
	options url.Values
	body    []byte
}

// ways are the ways to call a command. Each returns the output of the command
// and its error.
var ways = map[string]func(*testing.T, *harness.Node, call) (out, err string){
	"CLI": func(t *testing.T, n *harness.Node, c call) (string, string) {
		t.Helper()
		args := append([]string{"npp"}, strings.Split(c.command, "/")...)
		for name, values := range c.options {
			for _, v := range values {
				args = append(args, "--"+name+"="+v)
			}
		}
		args = append(append(args, "--enc=json", "--"), c.args...)
		if c.command == "db/put" && c.body != nil && len(c.args) > 1 {
			args = append(args, "-")
		}
		r := n.RunStdin(string(c.body), args...)
		if (r.Code == 0) != (r.Stderr == "") {
			t.Errorf("%v: %v", args, r)
		}
		return r.Stdout, strings.TrimSuffix(strings.TrimPrefix(r.Stderr, "Error: "), "\n")
	},
	"RPC": func(t *testing.T, n *harness.Node, c call) (string, string) {
		t.Helper()
		query := url.Values{"arg": c.args}
		maps.Copy(query, c.options)
		var body io.Reader
		contentType := ""
		if c.body != nil {
			contentType, body = partsOf(t, string(c.body))
		}
		_, out, failure := post(t, n, c.command, query, contentType, body)
		return out, failure
	},
}

// db calls a command of `npp db` at the command line. It must succeed.
func db(t *testing.T, n *harness.Node, command string, args ...string) []dbLine {
	t.Helper()
	return decodeLines[dbLine](t, n.MustRun(append([]string{"npp", "db", command, "--enc=json"}, args...)...))
}

func TestDatabasesByCLIAndRPC(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	for name, way := range ways {
		do := func(body []byte, options url.Values, command string, args ...string) []dbLine {
			t.Helper()
			out, err := way(t, n, call{"db/" + command, args, options, body})
			if err != "" {
				t.Fatalf("%s: %s %q: %s", name, command, args, err)
			}
			return decodeLines[dbLine](t, out)
		}
		one := func(body []byte, options url.Values, command string, args ...string) dbLine {
			t.Helper()
			lines := do(body, options, command, args...)
			if len(lines) != 1 {
				t.Fatalf("%s: %s %q: %d lines", name, command, args, len(lines))
			}
			return lines[0]
		}
		keys := func(lines []dbLine) (keys []string) {
			for _, l := range lines {
				keys = append(keys, string(l.Key))
			}
			return keys
		}
		expect := func(what string, got, want any) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s: got %v, want %v", name, what, got, want)
			}
		}

		// Documents.
		docs := name + " docs"
		made := one(nil, url.Values{"type": {"documents"}, "index-by": {"hash"}, "meta": {`{"about":"<scores>"}`}}, "create", docs)
		expect("made again", one(nil, url.Values{"type": {"documents"}, "index-by": {"hash"}, "meta": {`{"about":"<scores>"}`}}, "create", docs).Address, made.Address)
		for i := range 3 {
			one(nil, nil, "put", docs, fmt.Sprintf(`{"hash":"Qm%d","year":%d}`, i, 1700+i))
		}
		put := one([]byte(` {"hash":"Qm1", "year": 1850, "title":"<Prélude & Fugue>"}`), nil, "put", made.Address)
		expect("get", string(one(nil, nil, "get", docs, "Qm1").Value), `{"hash":"Qm1","year":1850,"title":"\u003cPrélude \u0026 Fugue\u003e"}`)
		expect("hash", one(nil, nil, "get", docs, "Qm1").Hash, put.Hash)
		expect("all", keys(do(nil, nil, "all", docs)), `["Qm0" "Qm2" "Qm1"]`)
		page := do(nil, url.Values{"amount": {"2"}}, "all", docs)
		expect("page", keys(page), `["Qm1" "Qm2"]`)
		expect("next page", keys(do(nil, url.Values{"behind": {page[1].Hash}}, "all", docs)), `["Qm0"]`)
		expect("oldest", keys(do(nil, url.Values{"oldest": {"true"}, "amount": {"1"}}, "all", docs)), `["Qm0"]`)
		expect("query", keys(do(nil, url.Values{"where": {`year < 1800 or title contains "Fugue"`}}, "query", docs)), `["Qm1" "Qm2" "Qm0"]`)
		expect("query", keys(do(nil, url.Values{"where": {`year < 1800`}, "amount": {"1"}}, "query", docs)), `["Qm2"]`)
		one(nil, nil, "del", docs, "Qm2")
		expect("deleted", keys(do(nil, nil, "all", docs)), `["Qm0" "Qm1"]`)
		expect("put many", *one([]byte("{\"hash\":\"Qm8\"}\n\n{\"hash\":\"Qm9\"}"), url.Values{"many": {"true"}}, "put", docs).Put, 2)
		info := one(nil, nil, "info", docs)
		if info.Address != made.Address || info.Name != docs || info.Type != "documents" || info.IndexBy != "hash" || !info.Writable ||
			info.Entries != 7 || info.Keys != 4 || info.Last != 7 || len(info.Heads) != 1 || string(info.Meta) != `{"about":"\u003cscores\u003e"}` {
			t.Errorf("%s: info: %+v", name, info)
		}
		log := do(nil, nil, "log", docs)
		if len(log) != 7 || log[0].Hash != info.Heads[0] || log[3].Hash != put.Hash || log[3].Next[0] != log[4].Hash || log[3].Writer == "" || log[3].Size < 300 ||
			!strings.HasPrefix(string(log[2].Payload), `{"op":"DEL","key":"Qm2"`) {
			t.Errorf("%s: log: %+v", name, log)
		}
		expect("range", len(do(nil, url.Values{"gte": {log[4].Hash}, "lt": {log[1].Hash}}, "log", docs)), 3)
		arrived := do(nil, url.Values{"since": {"5"}}, "log", docs)
		if len(arrived) != 2 || arrived[0].Number != 6 || arrived[1].Hash != log[0].Hash {
			t.Errorf("%s: since: %+v", name, arrived)
		}

		// Keyvalue.
		kv := name + " kv"
		one(nil, url.Values{"type": {"keyvalue"}, "write": {"*", "somebody"}}, "create", kv)
		one(nil, nil, "put", kv, "42", "1")
		one([]byte(`"two"`), nil, "put", kv, "a\tb")
		one([]byte(`{"key":[1],"value":null}`), url.Values{"many": {"true"}}, "put", kv)
		expect("all", keys(do(nil, nil, "all", kv)), `["42" "a\tb" [1]]`)
		expect("get by JSON", string(one(nil, url.Values{"json-key": {"true"}}, "get", kv, "[1]").Value), "null")
		expect("query", keys(do(nil, url.Values{"where": {`value == "two"`}}, "query", kv)), `["a\tb"]`)
		one(nil, url.Values{"json-key": {"true"}}, "del", kv, "[1]")
		expect("keys", one(nil, nil, "info", kv).Keys, 2)

		// Events.
		events := name + " events"
		one(nil, nil, "create", events)
		first := one(nil, nil, "put", events, `"tuesday"`)
		one([]byte("1\n{\"at\":8}\n"), url.Values{"many": {"true"}}, "put", events)
		expect("get", string(one(nil, nil, "get", events, first.Hash).Value), `"tuesday"`)
		all := do(nil, nil, "all", events)
		if len(all) != 3 || all[0].Hash != first.Hash || all[0].Key != nil || string(all[2].Value) != `{"at":8}` {
			t.Errorf("%s: events: %+v", name, all)
		}
		expect("behind", len(do(nil, url.Values{"behind": {all[2].Hash}}, "all", events)), 2)
		expect("query", len(do(nil, url.Values{"where": {"at == 8"}}, "query", events)), 1)

		// All of them.
		types := map[string]string{}
		for _, l := range do(nil, nil, "ls") {
			if l.AccessOf == "" {
				types[l.Name] = l.Type
			}
		}
		for db, want := range map[string]string{docs: "documents", kv: "keyvalue", events: "events", "pieces": "documents", "user": "keyvalue", "companions": "keyvalue", "practice": "keyvalue"} {
			expect("type of "+db, types[db], want)
		}
		car, err := way(t, n, call{"db/export", []string{docs}, nil, nil})
		if err != "" {
			t.Fatal(err)
		}
		if name == "CLI" {
			imported := decodeLines[dbLine](t, n.RunStdin(car, "npp", "db", "import", "--enc=json").Stdout)[0]
			expect("imported", imported.Known, 7)
		} else {
			expect("imported", one([]byte(car), nil, "import").Known, 7)
		}
		rebuilt := one(nil, nil, "rebuild", docs)
		if rebuilt.Entries != 7 || rebuilt.Address != made.Address || len(rebuilt.Lost) != 0 {
			t.Errorf("%s: rebuilt %+v", name, rebuilt)
		}
		expect("get", one(nil, nil, "get", docs, "Qm1").Hash, put.Hash)
	}
}

// A refused command states the reason and a remedy, and writes nothing.
func TestDatabaseCommandsRefuseBadInput(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	db(t, n, "create", "events")
	db(t, n, "create", "closed", "--write=somebody", "--type=keyvalue")
	db(t, n, "create", "twice", "--type=keyvalue")
	db(t, n, "create", "twice", "--type=documents")
	huge := bytes.Repeat([]byte("x"), 3<<20)
	large := []byte(`"` + strings.Repeat("x", 1044400) + `"`)
	hash := "zdpuAwHevBbd7V9QXeP8zC1pdb3HmugJ7zgzKnyiWxJG3p2Y4"
	many := url.Values{"many": {"true"}}
	where := func(e string) url.Values { return url.Values{"where": {e}} }
	for _, test := range []struct {
		call
		want []string
	}{
		{call{"db/info", []string{"nobody"}, nil, nil}, []string{`unknown database: "nobody"`, "hint: ipfs npp db ls"}},
		{call{"db/info", []string{"/orbitdb/" + hash}, nil, nil}, []string{"unknown database: /orbitdb/" + hash, "hint: ipfs npp db ls"}},
		{call{"db/all", []string{"/orbitdb/nothing"}, nil, nil}, []string{"invalid OrbitDB address", "hint: "}},
		{call{"db/get", []string{"/orbitdb/" + hash + "/old", "k"}, nil, nil}, []string{"format before OrbitDB 1.0", "hint: "}},
		{call{"db/log", []string{"twice"}, nil, nil}, []string{"several databases have that name", "/orbitdb/zdpu", "hint: use one of these addresses"}},
		{call{"db/rebuild", []string{"twice"}, nil, nil}, []string{"several databases have that name"}},
		{call{"db/rebuild", []string{"nobody"}, nil, nil}, []string{"unknown database"}},
		{call{"db/put", []string{"closed", "k", "1"}, nil, nil}, []string{"not allowed to write", "hint: ipfs npp db info closed"}},
		{call{"db/del", []string{"closed", "k"}, nil, nil}, []string{"not allowed to write"}},
		{call{"db/put", []string{"pieces", "hello"}, nil, nil}, []string{"the value is not JSON", "hint: plain text needs quotes"}},
		{call{"db/put", []string{"pieces", `{"a":1,"a":2}`}, nil, nil}, []string{"is not JSON"}},
		{call{"db/put", []string{"pieces", ``}, nil, nil}, []string{"is not JSON"}},
		{call{"db/put", []string{"pieces", `{"title":"no key"}`}, nil, nil}, []string{`document without its key "hash"`}},
		{call{"db/put", []string{"pieces", `"a"`}, nil, nil}, []string{`document without its key "hash"`}},
		{call{"db/put", []string{"pieces", "Qm1", `{"hash":"Qm1"}`}, nil, nil}, []string{`whose key is the field "hash"`, "hint: "}},
		{call{"db/put", []string{"user", "1"}, nil, nil}, []string{"there must be a key and a value", "hint: ipfs npp db put user <key> <value>"}},
		{call{"db/put", []string{"user", "k", "[", "1"}, nil, nil}, []string{"too many", "hint: "}},
		{call{"db/put", []string{"events", "k", "1"}, nil, nil}, []string{"too many", "hint: "}},
		{call{"db/put", []string{"user", "{", "1"}, url.Values{"json-key": {"true"}}, nil}, []string{"the key is not JSON"}},
		{call{"db/put", []string{"events"}, nil, huge}, []string{"too large", "hint: add it to IPFS"}},
		{call{"db/put", []string{"events"}, nil, large}, []string{"too large", "hint: add it to IPFS"}},
		{call{"db/put", []string{"events"}, many, huge}, []string{"0 put, and then: line 1: ", "too large", "hint: add it to IPFS"}},
		{call{"db/put", []string{"events"}, many, large}, []string{"0 put, and then: line 1: ", "too large", "hint: add it to IPFS"}},
		{call{"db/put", []string{"events"}, nil, []byte{}}, []string{"is not JSON"}},
		{call{"db/put", []string{"events"}, nil, []byte("\xff\xfe")}, []string{"is not JSON"}},
		{call{"db/put", []string{"events"}, nil, []byte(strings.Repeat("[", 5000))}, []string{"nested"}},
		{call{"db/put", []string{"user"}, many, []byte(`{"key":1}`)}, []string{"line 1: it is not", `{"key":…,"value":…}`}},
		{call{"db/get", []string{"user", "nobody"}, nil, nil}, []string{`no such key: "nobody"`}},
		{call{"db/get", []string{"events", hash}, nil, nil}, []string{"no such entry in the log"}},
		{call{"db/get", []string{"events", "../../x"}, nil, nil}, []string{"no such entry in the log"}},
		{call{"db/del", []string{"pieces", "nobody"}, nil, nil}, []string{"no such key"}},
		{call{"db/del", []string{"events", hash}, nil, nil}, []string{"wrong type of database", "events, which stay"}},
		{call{"db/all", []string{"pieces"}, url.Values{"amount": {"-1"}}, nil}, []string{"--amount is -1, but must be 1 or more"}},
		{call{"db/all", []string{"pieces"}, url.Values{"amount": {"0"}}, nil}, []string{"--amount is 0"}},
		{call{"db/all", []string{"pieces"}, url.Values{"behind": {hash}}, nil}, []string{"no such entry"}},
		{call{"db/all", []string{"events"}, url.Values{"behind": {hash}}, nil}, []string{"no such entry"}},
		{call{"db/all", []string{"events"}, url.Values{"behind": {"../x"}}, nil}, []string{`--behind is "../x", but must be the hash of an entry`}},
		{call{"db/all", []string{"pieces"}, url.Values{"behind": {hash}, "oldest": {"true"}}, nil}, []string{"cannot be combined"}},
		{call{"db/query", []string{"pieces"}, nil, nil}, []string{"--where is missing", "hint: "}},
		{call{"db/query", []string{"pieces"}, where(""), nil}, []string{"invalid expression: it is empty"}},
		{call{"db/query", []string{"pieces"}, where(`a = 1`), nil}, []string{"invalid expression", "use == to compare", "hint: "}},
		{call{"db/query", []string{"pieces"}, where(`repeat("a", 99) == a`), nil}, []string{"unknown function repeat", "hint: "}},
		{call{"db/log", []string{"pieces"}, url.Values{"lt": {"x"}}, nil}, []string{`--lt is "x"`}},
		{call{"db/log", []string{"user"}, url.Values{"gt": {hash}}, nil}, []string{"no such entry"}},
		{call{"db/log", []string{"user"}, url.Values{"gt": {hash}, "gte": {hash}}, nil}, []string{"both gt and gte"}},
		{call{"db/log", []string{"user"}, url.Values{"gt": {hash}, "since": {"1"}}, nil}, []string{"cannot be combined"}},
		{call{"db/log", []string{"user"}, url.Values{"amount": {"-5"}}, nil}, []string{"--amount is -5"}},
		{call{"db/create", []string{"x"}, url.Values{"type": {"table"}}, nil}, []string{`type "table"; there are documents, keyvalue and events`}},
		{call{"db/create", []string{"x"}, url.Values{"meta": {"{"}}, nil}, []string{"--meta is not JSON"}},
		{call{"db/create", []string{"x"}, url.Values{"index-by": {"a"}}, nil}, []string{"only documents"}},
		{call{"db/create", []string{"/orbitdb/x"}, nil, nil}, []string{"begins like an address"}},
	} {
		for name, way := range ways {
			c := test.call
			if name == "RPC" && c.command == "db/put" && c.body == nil && len(c.args) > 1 && c.args[len(c.args)-1] == "" {
				c.args, c.body = c.args[:len(c.args)-1], []byte{} // an empty arg= is no argument
			}
			out, err := way(t, n, c)
			if out != "" {
				t.Errorf("%s: %s %q: %s", name, c.command, c.args, out)
			}
			for _, want := range test.want {
				if !strings.Contains(err, want) || strings.Contains(err, "\n") {
					t.Errorf("%s: %s %q %v: error is %q, want %q", name, c.command, c.args, c.options, err, want)
				}
			}
		}
	}
	// Values before an invalid line stay.
	for name, way := range ways {
		lines := "{\"hash\":\"" + name + "\"}\n\n{\"hash\":\n{\"hash\":\"never\"}\n"
		if _, err := way(t, n, call{"db/put", []string{"pieces"}, many, []byte(lines)}); !strings.Contains(err, "1 put, and then: line 3: ") {
			t.Errorf("%s: bad line: %s", name, err)
		}
	}
	if _, err := ways["RPC"](t, n, call{"db/put", []string{"pieces"}, url.Values{"file": {"/etc/hostname"}}, []byte("1")}); !strings.Contains(err, "--file works only at the command line") {
		t.Errorf("a file of the daemon: %s", err)
	}
	for _, args := range [][]string{
		{"put", "pieces", "--file=x", "1", "2"},
		{"put", "pieces", "--many", "1"},
		{"put", "pieces", "--file=x", "--many", "1"},
	} {
		if r := n.Run(append([]string{"npp", "db"}, args...)...); r.Code != 1 {
			t.Errorf("%q: %v", args, r)
		}
	}
	for _, l := range db(t, n, "ls") {
		if want := map[string]uint64{"pieces": 2, "user": 4}[l.Name]; l.Entries != want && l.AccessOf == "" {
			t.Errorf("%s has %d entries, want %d", l.Name, l.Entries, want)
		}
	}
}

// Values survive a restart and garbage collection.
func TestDatabasesStay(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	put := db(t, n, "put", "pieces", `{"hash":"Qm1","year":1722}`)[0].Hash
	db(t, n, "create", "band", "--type=keyvalue", "--managed")
	before := n.MustRun("npp", "db", "ls", "--enc=json") + n.MustRun("npp", "db", "all", "user", "--enc=json") + n.MustRun("npp", "id", "--enc=json")
	n.MustRun("repo", "gc")
	if got := n.MustRun("block", "stat", put); !strings.Contains(got, "Size: ") {
		t.Errorf("block after gc: %s", got)
	}
	if r := n.Run("block", "rm", put); r.Code != 1 || !strings.Contains(r.Stderr, "belongs to an OrbitDB database and stays") {
		t.Errorf("block rm: %v", r)
	}
	n.Stop()
	n.Start()
	if got := n.MustRun("npp", "db", "ls", "--enc=json") + n.MustRun("npp", "db", "all", "user", "--enc=json") + n.MustRun("npp", "id", "--enc=json"); got != before {
		t.Errorf("after a restart:\n%s\nbefore:\n%s", got, before)
	}
	if got := n.MustRun("npp", "db", "get", "pieces", "Qm1"); got != "{\"hash\":\"Qm1\",\"year\":1722}\n" {
		t.Errorf("get after a restart: %s", got)
	}
	if block := n.MustRun("block", "get", put); !strings.Contains(block, "Qm1") {
		t.Error("block get after a restart")
	}
}

// A database is copied as a file to another daemon, which has no write access
// to it.
func TestDatabaseTravelsAsCAR(t *testing.T) {
	t.Parallel()
	a, b := harness.New(t).Start(), harness.New(t).Start()
	for i := range 5 {
		db(t, a, "put", "pieces", fmt.Sprintf(`{"hash":"Qm%d"}`, i))
	}
	file := filepath.Join(t.TempDir(), "pieces.car")
	if got := a.MustRun("npp", "db", "export", "pieces", "-o", file); !strings.HasPrefix(got, "exported ") {
		t.Errorf("export: %s", got)
	}
	car, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.MustRun("npp", "db", "export", "pieces"); got != string(car) {
		t.Errorf("%d bytes to standard output, %d to a file", len(got), len(car))
	}
	l := db(t, b, "import", file)[0]
	if l.Entries != 5 || l.Known != 0 || l.Refused != 0.0 || l.Name != "pieces" {
		t.Errorf("imported: %+v", l)
	}
	if got, want := b.MustRun("npp", "db", "all", l.Address), a.MustRun("npp", "db", "all", "pieces"); got != want {
		t.Errorf("imported:\n%s\nwant:\n%s", got, want)
	}
	if info := db(t, b, "info", l.Address)[0]; info.Writable || info.Entries != 5 {
		t.Errorf("info: %+v", info)
	}
	r := b.Run("npp", "db", "put", l.Address, `{"_id":"x","hash":"x"}`)
	if r.Code != 1 || !strings.Contains(r.Stderr, "not allowed to write to "+l.Address) || !strings.Contains(r.Stderr, "hint: ipfs npp db info "+l.Address) {
		t.Errorf("put: %v", r)
	}
	// Two databases have that name now; one of them is b's own.
	if info := db(t, b, "info", "pieces")[0]; !info.Writable || info.Address == l.Address {
		t.Errorf("info by name: %+v", info)
	}
	for name, way := range ways {
		for what, body := range map[string]string{"nothing": "", "no CAR": "hello", "half a CAR": string(car[:len(car)-10])} {
			c := call{"db/import", nil, nil, []byte(body)}
			if out, err := way(t, b, c); out != "" || !strings.Contains(err, "not a CAR of an OrbitDB database") || !strings.Contains(err, "hint: ipfs npp db export") {
				t.Errorf("%s: %s: %s, %s", name, what, out, err)
			}
		}
	}
	if r := a.Run("npp", "db", "export", "pieces", "-o", filepath.Join(file, "x")); r.Code != 1 || !strings.Contains(r.Stderr, "write the file") {
		t.Errorf("export to nowhere: %v", r)
	}
}

// A follower receives new entries. It ends without an error when it is
// interrupted and when the daemon stops, which it does not delay.
func TestFollowersEndWithTheDaemon(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	db(t, n, "create", "events")
	for i := range 3 {
		db(t, n, "put", "events", fmt.Sprint(i))
	}
	interrupted := n.Spawn("npp", "db", "log", "events", "--follow", "--since=1", "--enc=json")
	follower := n.Spawn("npp", "db", "log", "events", "--follow", "--since=0")
	resp, err := http.Post(n.APIURL()+"npp/db/log?arg=events&follow=true", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	put := db(t, n, "put", "events", `"later"`)[0].Hash
	follower.Expect(put)
	if got := decodeLines[dbLine](t, interrupted.Expect(put)); got[0].Number != 4 {
		t.Errorf("followed: %+v", got)
	}
	interrupted.Signal(syscall.SIGINT)
	if r := interrupted.Wait(); r.Code != 0 || r.Stderr != "" || len(decodeLines[dbLine](t, strings.TrimSuffix(r.Stdout, "\n\n")+"\n")) != 3 {
		t.Errorf("interrupted: %v", r)
	}

	// A put with unfinished input does not delay it, either.
	cmd := n.Command("npp", "db", "put", "events", "--many")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if _, err := io.WriteString(stdin, strings.Repeat("5\n", 300)); err != nil { // more than the daemon writes at once
		t.Fatal(err)
	}
	eventually(t, "the daemon reads", func() bool { return held(t, n, "events").Entries > 4 })

	begin := time.Now()
	n.MustRun("shutdown")
	if r := n.Daemon().Wait(); r.Code != 0 {
		t.Errorf("daemon: %v", r)
	}
	// kubo would wait 30 seconds for an answer that does not end.
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the daemon took %v to stop", took)
	}
	if r := follower.Wait(); r.Code != 0 || r.Stderr != "" {
		t.Errorf("follower: %v", r)
	}
	lines, err := io.ReadAll(resp.Body)
	if err != nil || resp.Trailer.Get("X-Stream-Error") != "" || !strings.Contains(string(lines), put) {
		t.Errorf("RPC: %s, %v, %v", lines, err, resp.Trailer)
	}
	stdin.Close()
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "put, and then: the daemon is stopping") {
		t.Errorf("put: %v: %s", err, stderr.String())
	}
}

// The fields of the library databases exist from the start, and are recreated
// if they were deleted.
func TestLibraryDatabases(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	id := decodeLines[idLine](t, n.MustRun("npp", "id", "--enc=json"))[0]
	user := map[string]string{}
	for _, l := range db(t, n, "all", "user") {
		user[string(l.Key)] = string(l.Value)
	}
	want := map[string]string{
		`"username"`: `"musician-` + n.PeerID()[len(n.PeerID())-6:] + `"`,
		`"nodeId"`:   `"` + n.PeerID() + `"`,
		`"pieces"`:   `"` + id.Stores[0].Address + `"`,
		`"practice"`: `"` + id.Stores[3].Address + `"`,
	}
	if !maps.Equal(user, want) {
		t.Errorf("user: %v, want %v", user, want)
	}
	if pieces := db(t, n, "info", "pieces")[0]; pieces.Type != "documents" || pieces.IndexBy != "hash" || pieces.Address != id.Stores[0].Address {
		t.Errorf("pieces: %+v", pieces)
	}
	for _, name := range ownStores {
		granted := replica(t, n, "grant", name, someIdentity).Capabilities
		if revoked := replica(t, n, "revoke", name, someIdentity).Capabilities; !slices.Contains(granted["write"], someIdentity) || slices.Contains(revoked["write"], someIdentity) {
			t.Errorf("%s: writers: granted %v, revoked %v", name, granted, revoked)
		}
		if r := n.Run("npp", "db", "drop", "--force", name); r.Code != 1 || !strings.Contains(r.Stderr, "is the daemon's own") {
			t.Errorf("drop %s: %v", name, r)
		}
	}
	db(t, n, "del", "user", "pieces")
	db(t, n, "put", "user", "username", `"Anna"`)
	n.Stop()
	n.Start()
	if got := n.MustRun("npp", "db", "get", "user", "pieces"); got != want[`"pieces"`]+"\n" {
		t.Errorf("pieces key after a restart: %s", got)
	}
	if got := n.MustRun("npp", "db", "get", "user", "username"); got != "\"Anna\"\n" {
		t.Errorf("username after a restart: %s", got)
	}
}

// edit changes a record of the databases in the repo of a stopped node.
func edit(t *testing.T, n *harness.Node, key string, change func([]byte) []byte) {
	t.Helper()
	ds, err := leveldb.NewDatastore(filepath.Join(n.Repo, "datastore"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ds.Close()
	k := datastore.NewKey("/npp/orbit/" + key)
	record, err := ds.Get(t.Context(), k)
	if err == nil {
		err = ds.Put(t.Context(), k, change(record))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// numberOf returns the number of a database in the repo of a stopped node.
func numberOf(t *testing.T, n *harness.Node, address string) (number uint64) {
	t.Helper()
	edit(t, n, "database/"+strings.TrimPrefix(address, "/orbitdb/"), func(record []byte) []byte {
		var r struct{ Number uint64 }
		if err := json.Unmarshal(record, &r); err != nil {
			t.Fatal(err)
		}
		number = r.Number
		return record
	})
	return number
}

// A damaged store does not affect anything else. It is reported with a remedy
// that works.
func TestDamagedStoreIsNamedAndMended(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	for i := range 3 {
		db(t, n, "put", "pieces", fmt.Sprintf(`{"hash":"Qm%d"}`, i))
	}
	address := db(t, n, "info", "pieces")[0].Address
	n.Stop()
	edit(t, n, fmt.Sprintf("log/%d/summary", numberOf(t, n, address)), func([]byte) []byte { return []byte("garbage") })
	n.Start()

	id := decodeLines[idLine](t, n.MustRun("npp", "id", "--enc=json"))[0]
	if id.Stores[0].Address != "" || !strings.Contains(id.Stores[0].Error, "damaged log of "+address) || !strings.HasSuffix(id.Stores[0].Error, "; hint: ipfs npp db rebuild pieces") ||
		id.Stores[1].Error+id.Stores[2].Error+id.Stores[3].Error != "" || id.Username == "" {
		t.Errorf("id: %+v", id)
	}
	if got := n.MustRun("npp", "id"); !strings.Contains(got, "\npieces      open "+address+": damaged log") || !strings.Contains(got, "\nusername    musician-") {
		t.Errorf("id: %s", got)
	}
	listed := map[string]dbLine{}
	for _, l := range db(t, n, "ls") {
		listed[l.Address] = l
	}
	if p, user := listed[address], listed[id.Stores[1].Address]; !strings.Contains(p.Error, "damaged log") || p.Type != "documents" || user.Error != "" || user.Entries != 4 {
		t.Errorf("ls: %+v", listed)
	}
	for _, args := range [][]string{{"info", "pieces"}, {"all", address}, {"put", "pieces", `{"hash":"x"}`}, {"export", "pieces"}, {"log", "pieces", "--follow"}} {
		r := n.Run(append([]string{"npp", "db"}, args...)...)
		if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "damaged log") || !strings.Contains(r.Stderr, "hint: ipfs npp db rebuild ") {
			t.Errorf("%q: %v", args, r)
		}
	}
	if got := n.MustRun("npp", "db", "rebuild", "pieces"); got != "rebuilt "+address+": 3 entries, 0 lost\n" {
		t.Errorf("rebuild: %s", got)
	}
	id = decodeLines[idLine](t, n.MustRun("npp", "id", "--enc=json"))[0]
	if id.Stores[0].Address != address || id.Stores[0].Error != "" {
		t.Errorf("id after the rebuild: %+v", id)
	}
	db(t, n, "put", "pieces", `{"hash":"Qm3"}`)
	if got := strings.Count(n.MustRun("npp", "db", "all", "pieces"), "\n"); got != 4 {
		t.Errorf("%d pieces after the rebuild", got)
	}

	// A damaged entry is left out and reported.
	log := db(t, n, "log", "pieces")
	n.Stop()
	edit(t, n, fmt.Sprintf("log/%d/entry/0/2", numberOf(t, n, address)), func(record []byte) []byte {
		record[len(record)-1]++
		return record
	})
	n.Start()
	for _, way := range ways {
		out, err := way(t, n, call{"db/all", []string{"pieces"}, nil, nil})
		lines := decodeLines[dbLine](t, out)
		bad := slices.IndexFunc(lines, func(l dbLine) bool { return l.Error != "" })
		if len(lines) != 4 || bad != 1 || lines[1].Hash != log[2].Hash || !strings.Contains(err, "1 left out: damaged block: "+log[2].Hash) || !strings.Contains(err, "hint: ipfs npp db rebuild pieces") {
			t.Errorf("all: %s, %s", out, err)
		}
	}
	if got := n.MustRun("npp", "db", "rebuild", "pieces"); got != "rebuilt "+address+": 3 entries, 1 lost\nlost 2 "+log[2].Hash+"\n" {
		t.Errorf("rebuild: %s", got)
	}
	n.MustRun("npp", "db", "all", "pieces")
}

// No text of a database reaches the terminal with control characters, and JSON
// output remains valid.
func TestDatabaseTextIsHarmless(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	const text = "a\x1b[31m\u009b2J\u202e\n\t<é𝄞\U000e0001>"
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	n.MustRun("npp", "db", "create", "--type=keyvalue", "--", text)
	n.MustRun("npp", "db", "put", text, text, string(quoted))
	for _, args := range [][]string{{"ls"}, {"info", text}, {"get", text, text}, {"all", text}, {"log", text}, {"query", text, "--where=true"}} {
		out := n.MustRun(append([]string{"npp", "db"}, args...)...)
		if i := strings.IndexFunc(out, func(r rune) bool {
			return r < ' ' && r != '\n' && r != '\t' || r == 0x9b || r == 0x202e || r == 0xe0001
		}); i >= 0 {
			t.Errorf("%s: %q", args[0], out)
		}
	}
	key, value, _ := strings.Cut(n.MustRun("npp", "db", "all", text), "\t")
	var got string
	if err := json.Unmarshal([]byte(value), &got); err != nil || got != text || !strings.HasSuffix(key, `\n\t<é𝄞\U000e0001>`) {
		t.Errorf("all: %s\t%s: %v", key, value, err)
	}
}
