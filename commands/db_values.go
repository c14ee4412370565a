package commands

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/files"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/orbit/where"
)

const (
	manyOption    = "many"
	jsonKeyOption = "json-key"
	amountOption  = "amount"
	behindOption  = "behind"
	oldestOption  = "oldest"
	whereOption   = "where"
	plainOption   = "plain"

	// maxJSON is the longest JSON of one value that is read: that of the
	// largest entry, which may be longer than the entry itself.
	maxJSON = 2 * entry.MaxSize
	// maxPayload is the largest value that is put with others: so much is the
	// most that an entry has around it.
	maxPayload = entry.MaxSize - 32<<10

	// valueName is the name of the value in the multipart body.
	valueName = "value"
)

// putLine is the output of `npp db put` and `npp db del`.
type putLine struct {
	Hash string `json:"hash,omitempty"` // of the entry
	Put  *int   `json:"put,omitempty"`  // how many, with --many
}

var putEncoders = cmds.EncoderMap{
	cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *putLine) error {
		if l.Put != nil {
			_, err := fmt.Fprintln(w, "put", *l.Put)
			return err
		}
		_, err := fmt.Fprintln(w, l.Hash)
		return err
	}),
}

var (
	jsonKey     = cmds.BoolOption(jsonKeyOption, "The key is JSON; if not given, it is a text.")
	plainValues = cmds.BoolOption(plainOption, "Write where apps encrypt the values: they will not be able to read it.")
)

// writableAs is a database for the writes that --plain allows.
func writableAs(req *cmds.Request, db *orbit.Database) *orbit.Database {
	if on(req, plainOption) {
		return db.Plain()
	}
	return db
}

var dbPutCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Put a document or a value, or add an event.",
		ShortDescription: `
Puts a document, whose key is one of its fields; a value at a key; or adds an
event, whatever the database has. Prints the hash of the entry, which is on
disk by then. The value is JSON: a text has quotes of its own.

  > ipfs npp db put pieces '{"hash":"QmNR2n…","instrument":"Piano"}'
  zdpuB2g…
  > ipfs npp db put user username '"Anna"'
  > ipfs npp db put rehearsals --file tuesday.json
  > date +%s | ipfs npp db put user seen -

The value '-', or none at all, is read from standard input. With '--many' what
is read has a value on each line, or {"key":…,"value":…} for keyvalue. They
are put in their order, and those before a line that cannot be put stay.

  > ipfs npp db put pieces --many --file pieces.jsonl
  put 1200

Where apps encrypt the values (encryption.data), nothing is put: they fail at
a plain value, and with it at all that they have. '--plain' puts it all the
same.
`,
	},
	Arguments: []cmds.Argument{
		dbArg,
		cmds.StringArg("value", false, true, "The value; for keyvalue, the key and the value."),
	},
	Options: []cmds.Option{
		cmds.StringOption(fileOption, "Read the value, or with --many the lines, from this file."),
		cmds.BoolOption(manyOption, "Put many values, one on each line."),
		jsonKey,
		plainValues,
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if req.Files != nil {
			return nil // kubo runs this twice where the daemon does not answer
		}
		r, err := putBody(req)
		if err != nil {
			return err
		}
		delete(req.Options, fileOption)
		if on(req, manyOption) && term.IsTerminal(int(os.Stderr.Fd())) {
			r = &progress{Reader: r, w: os.Stderr, what: "lines sent", count: func(b []byte) int { return strings.Count(string(b), "\n") }}
		}
		req.Files = files.NewMapDirectory(map[string]files.Node{valueName: files.NewReaderFile(r)})
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		if _, ok := req.Options[fileOption]; ok {
			return fmt.Errorf("--%s is for the command line; hint: post the value as a multipart body", fileOption)
		}
		r, err := body(req, res, "body", errEmptyBody)
		if err != nil {
			return err
		}
		args := req.Arguments[1:]
		if r == nil {
			if len(args) == 0 {
				return errors.New("there is no value; hint: post it as a multipart body, or as the last arg=")
			}
			r, args = strings.NewReader(args[len(args)-1]), args[:len(args)-1]
		}
		input, stop := stoppable(ctx, r)
		defer stop()
		db = writableAs(req, db)
		if on(req, manyOption) {
			n, err := putMany(ctx, db, req.Arguments[0], args, input)
			if err != nil {
				return err
			}
			return res.Emit(&putLine{Put: &n})
		}
		hash, err := putOne(ctx, db, req, args, input)
		if err != nil {
			return err
		}
		return res.Emit(&putLine{Hash: hash})
	},
	Type:     putLine{},
	Encoders: putEncoders,
}

// putBody is what is put at the command line: the last argument, a file, or
// standard input. The argument is taken out of the request.
func putBody(req *cmds.Request) (io.Reader, error) {
	path, hasFile := req.Options[fileOption].(string)
	last := len(req.Arguments) - 1
	dash := last > 0 && req.Arguments[last] == "-"
	many := on(req, manyOption)
	switch {
	case hasFile && (last > 1 || dash || many && last > 0):
		return nil, fmt.Errorf("the value is given twice, as an argument and as --%s", fileOption)
	case many && !hasFile && last > 0 && !dash:
		return nil, fmt.Errorf("--%s reads from standard input or --%s", manyOption, fileOption)
	case hasFile:
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the value: %w", err)
		}
		return f, nil
	case last > 0 && !dash:
		text := req.Arguments[last]
		req.Arguments = req.Arguments[:last]
		return strings.NewReader(text), nil
	case dash:
		req.Arguments = req.Arguments[:last]
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprintln(os.Stderr, "(the value comes from the terminal; end it with Ctrl-D)")
	}
	return os.Stdin, nil
}

// progress shows, from the first second on, how much was read.
type progress struct {
	io.Reader
	w     io.Writer
	what  string
	count func([]byte) int // bytes if nil

	begun bool
	read  atomic.Int64
	ended chan struct{}
	done  chan struct{}
}

func (p *progress) Read(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		p.ended, p.done = make(chan struct{}), make(chan struct{})
		go p.show()
	}
	n, err := p.Reader.Read(b)
	if p.count != nil {
		p.read.Add(int64(p.count(b[:n])))
	} else {
		p.read.Add(int64(n))
	}
	if err != nil && p.ended != nil {
		close(p.ended)
		<-p.done
		p.ended = nil
	}
	return n, err
}

func (p *progress) show() {
	defer close(p.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	shown := false
	for {
		select {
		case <-tick.C:
			shown = true
			fmt.Fprintf(p.w, "\r%d %s", p.read.Load(), p.what)
		case <-p.ended:
			if shown {
				fmt.Fprintf(p.w, "\r%d %s\n", p.read.Load(), p.what)
			}
			return
		}
	}
}

// stoppable is a reader whose reads also end when the context is done.
func stoppable(ctx context.Context, r io.Reader) (io.Reader, func()) {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err)
	}()
	unwatch := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	return pr, func() {
		unwatch()
		pr.Close()
	}
}

// notJSON adds the next step to the error of a value that is no JSON.
func notJSON(what string, err error) error {
	return fmt.Errorf(`%s is no JSON: %w; hint: a text has quotes of its own: '"text"'`, what, err)
}

// keyOf is the key that an argument is.
func keyOf(req *cmds.Request, text string) (value.Value, error) {
	if !on(req, jsonKeyOption) {
		return value.Text(text), nil
	}
	key, err := value.FromJSON([]byte(text))
	if err != nil {
		return nil, notJSON("the key", err)
	}
	return key, nil
}

// putOne puts the value that r has, at the key that the arguments are.
func putOne(ctx context.Context, db *orbit.Database, req *cmds.Request, args []string, r io.Reader) (string, error) {
	called := req.Arguments[0]
	keys := 0
	if db.Type() == orbit.TypeKeyValue {
		keys = 1
	}
	switch {
	case len(args) < keys:
		return "", fmt.Errorf("%s is keyvalue, there must be a key and a value; hint: ipfs npp db put %s <key> <value>, '-' for standard input", db.Address(), shown(called))
	case len(args) > keys && db.Type() == orbit.TypeDocuments:
		return "", fmt.Errorf("%s is documents, whose key is the field %q: there must be a document alone; hint: ipfs npp db put %s <document>", db.Address(), db.IndexBy(), shown(called))
	case len(args) > keys:
		return "", fmt.Errorf("%d values are too many for %s; hint: ipfs npp db put --help", len(args)+1, db.Address())
	}
	text, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return "", fmt.Errorf("read the value: %w", err)
	}
	if len(text) > maxJSON {
		return "", dbError(tooLarge(), called)
	}
	v, err := value.FromJSON(text)
	if err != nil {
		return "", notJSON("the value", err)
	}
	var hash string
	switch db.Type() {
	case orbit.TypeKeyValue:
		var key value.Value
		if key, err = keyOf(req, args[0]); err != nil {
			return "", err
		}
		var kv *orbit.KeyValue
		if kv, err = db.KeyValue(); err == nil {
			hash, err = kv.Put(ctx, key, v)
		}
	case orbit.TypeDocuments:
		var docs *orbit.Documents
		if docs, err = db.Documents(); err == nil {
			hash, err = docs.Put(ctx, v)
		}
	default:
		var events *orbit.Events
		if events, err = db.Events(); err == nil {
			hash, err = events.Add(ctx, v)
		}
	}
	return hash, dbError(err, called)
}

func tooLarge() error {
	return fmt.Errorf("%w: its value is longer than %d bytes of JSON, an entry has at most %d", entry.ErrTooLarge, maxJSON, entry.MaxSize)
}

// putMany puts the values on the lines of r.
func putMany(ctx context.Context, db *orbit.Database, called string, args []string, r io.Reader) (n int, err error) {
	if len(args) > 0 {
		return 0, fmt.Errorf("--%s takes no key; hint: a line of keyvalue is {\"key\":…,\"value\":…}", manyOption)
	}
	line, bad := 0, error(nil)
	values := func(yield func(value.Value) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		for {
			var text []byte
			line++
			text, bad = readLine(in)
			if len(text) == 0 && bad != nil {
				return
			}
			if bad != nil && !errors.Is(bad, io.EOF) {
				return
			}
			if strings.TrimSpace(string(text)) == "" {
				continue
			}
			v, err := value.FromJSON(text)
			if err != nil {
				bad = notJSON("it", err)
				return
			}
			if len(v) > maxPayload {
				bad = fmt.Errorf("%w: its value has %d bytes, at most %d", entry.ErrTooLarge, len(v), maxPayload)
				return
			}
			if !yield(v) {
				return
			}
		}
	}
	switch db.Type() {
	case orbit.TypeDocuments:
		var docs *orbit.Documents
		if docs, err = db.Documents(); err == nil {
			n, err = docs.PutMany(ctx, anys(values))
		}
	case orbit.TypeKeyValue:
		var kv *orbit.KeyValue
		if kv, err = db.KeyValue(); err == nil {
			n, err = kv.PutMany(ctx, func(yield func(orbit.Pair) bool) {
				for v := range values {
					key, val := v.Field("key"), v.Field("value")
					if key == nil || val == nil {
						bad = errors.New(`it is not {"key":…,"value":…}`)
						return
					}
					if !yield(orbit.Pair{Key: key, Value: val}) {
						return
					}
				}
			})
		}
	default:
		var events *orbit.Events
		if events, err = db.Events(); err == nil {
			n, err = events.AddMany(ctx, anys(values))
		}
	}
	if err == nil && bad != nil && !errors.Is(bad, io.EOF) {
		err = bad
	}
	switch {
	case err == nil:
		return n, nil
	case context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	case bad != nil || errors.Is(err, orbit.ErrInvalid) || errors.Is(err, value.ErrInvalid):
		err = fmt.Errorf("line %d: %w", line, err)
	}
	return n, fmt.Errorf("%d put, and then: %w", n, dbError(err, called))
}

func anys(values iter.Seq[value.Value]) iter.Seq[any] {
	return func(yield func(any) bool) {
		for v := range values {
			if !yield(v) {
				return
			}
		}
	}
}

// readLine reads a line, which may lack its end at the end of all.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxJSON {
			return line, tooLarge()
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// itemLine is a key with its value, or an event.
type itemLine struct {
	Hash  string          `json:"hash"`            // of the entry
	Key   json.RawMessage `json:"key,omitempty"`   // not of events
	Value json.RawMessage `json:"value,omitempty"` // none where there is an error
	Error string          `json:"error,omitempty"` // why the entry cannot be read
}

func newItemLine(i orbit.Item) *itemLine {
	return &itemLine{Hash: i.Hash, Key: valueJSON(i.Key), Value: valueJSON(i.Value)}
}

// itemOf is an event as an item, without a key.
func itemOf(e orbit.Event) orbit.Item { return orbit.Item{Hash: e.Hash, Value: e.Value} }

// itemEncoders print key and value, or hash and value of an event.
var itemEncoders = cmds.EncoderMap{
	cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *itemLine) error {
		if l.Error != "" {
			return nil // it is in the error at the end
		}
		key := l.Hash
		if l.Key != nil {
			key = keyText(l.Key)
		}
		_, err := fmt.Fprintf(w, "%s\t%s\n", key, jsonText(l.Value))
		return err
	}),
}

var dbGetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print the value at a key.",
		ShortDescription: `
Prints the document or value with this key, or the event with this hash, as
JSON. It is an error if there is none.

  > ipfs npp db get user username
  "Anna"
  > ipfs npp db get scores --json-key 42
`,
	},
	Arguments: []cmds.Argument{dbArg, cmds.StringArg("key", true, false, "Key; of events, the hash.")},
	Options:   []cmds.Option{jsonKey},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		item, err := getOne(ctx, db, req)
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		return res.Emit(newItemLine(item))
	},
	Type: itemLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *itemLine) error {
			_, err := fmt.Fprintln(w, jsonText(l.Value))
			return err
		}),
	},
}

func getOne(ctx context.Context, db *orbit.Database, req *cmds.Request) (orbit.Item, error) {
	if db.Type() == orbit.TypeEvents {
		events, err := db.Events()
		if err != nil {
			return orbit.Item{}, err
		}
		e, err := events.Get(ctx, req.Arguments[1])
		return itemOf(e), err
	}
	key, err := keyOf(req, req.Arguments[1])
	if err != nil {
		return orbit.Item{}, err
	}
	kv, err := keyedOf(db)
	if err != nil {
		return orbit.Item{}, err
	}
	item, err := kv.Get(ctx, key)
	return item, ofAnotherKind(ctx, kv, req, err)
}

// ofAnotherKind adds the next step to an error, where the key that the second
// argument is as a text is there as JSON: 42 is not "42".
func ofAnotherKind(ctx context.Context, kv keyed, req *cmds.Request, err error) error {
	text := req.Arguments[1]
	if !errors.Is(err, orbit.ErrNotFound) || on(req, jsonKeyOption) {
		return err
	}
	key, jsonErr := value.FromJSON([]byte(text))
	if jsonErr != nil {
		return err
	}
	if _, getErr := kv.Get(ctx, key); getErr != nil {
		return err
	}
	return fmt.Errorf("%w, but there is one that is no text; hint: ipfs %s %s --%s %s", err, strings.Join(req.Path, " "), shown(req.Arguments[0]), jsonKeyOption, quoted(jsonText(valueJSON(key))))
}

// quoted is an argument as it can be typed in a shell.
func quoted(arg string) string {
	switch {
	case strings.HasPrefix(arg, "-"):
		return "-- " + arg
	case strings.Contains(arg, "'"):
		return "<key>"
	case strings.ContainsAny(arg, "[]{}\" "):
		return "'" + arg + "'"
	}
	return arg
}

// keyed is what documents and keyvalue have.
type keyed interface {
	Get(ctx context.Context, key any) (orbit.Item, error)
	Delete(ctx context.Context, key any) (string, error)
	All(ctx context.Context) iter.Seq2[orbit.Item, error]
	Iterate(ctx context.Context, p orbit.Page) iter.Seq2[orbit.Item, error]
}

func keyedOf(db *orbit.Database) (keyed, error) {
	if db.Type() == orbit.TypeKeyValue {
		return db.KeyValue()
	}
	return db.Documents()
}

var dbDelCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Delete a key.",
		ShortDescription: `
Deletes the document or value with this key, and prints the hash of the entry
that does so. What was there stays in the log. Events cannot be deleted.

  > ipfs npp db del pieces QmNR2n…
  zdpuAqq…
`,
	},
	Arguments: []cmds.Argument{dbArg, cmds.StringArg("key", true, false, "Key.")},
	Options:   []cmds.Option{jsonKey, plainValues},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		if db.Type() == orbit.TypeEvents {
			return fmt.Errorf("%w: %s is events, which stay", orbit.ErrType, db.Address())
		}
		key, err := keyOf(req, req.Arguments[1])
		if err != nil {
			return err
		}
		kv, err := keyedOf(writableAs(req, db))
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		hash, err := kv.Delete(ctx, key)
		if err != nil {
			return dbError(ofAnotherKind(ctx, kv, req, err), req.Arguments[0])
		}
		return res.Emit(&putLine{Hash: hash})
	},
	Type:     putLine{},
	Encoders: putEncoders,
}

var dbAllCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print all keys and values, or a page of them.",
		ShortDescription: `
Prints a line for each key: the key, a tab, and the value as JSON. Of events
it is the hash and the event. What was put first comes first.

  > ipfs npp db all user
  username	"Anna"
  nodeId	"12D3KooWCP9aGS…"

'--amount' prints the newest only, newest first, and '--behind' goes on from
there: it takes the hash of the last one, which '--enc=json' shows.

  > ipfs npp db all pieces --amount 20
  > ipfs npp db all pieces --amount 20 --behind zdpuB2g…
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.IntOption(amountOption, "At most so many."),
		cmds.StringOption(behindOption, "Only what was put before the entry with this hash."),
		cmds.BoolOption(oldestOption, "What was put first comes first, also with --amount."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		amount, err := amountOf(req)
		if err != nil {
			return err
		}
		behind, hasBehind, err := hashOf(req, behindOption)
		if err != nil {
			return err
		}
		if hasBehind && on(req, oldestOption) {
			return fmt.Errorf("--%s and --%s exclude each other", behindOption, oldestOption)
		}
		items := itemsOf(ctx, db, on(req, oldestOption) || amount == 0 && !hasBehind, behind)
		return emitItems(ctx, req, res, items, everything, amount)
	},
	Type:     itemLine{},
	Encoders: itemEncoders,
}

// itemsOf yields what is in a database, the oldest or the newest first.
func itemsOf(ctx context.Context, db *orbit.Database, oldest bool, behind string) iter.Seq2[orbit.Item, error] {
	return func(yield func(orbit.Item, error) bool) {
		if db.Type() != orbit.TypeEvents {
			kv, err := keyedOf(db)
			if err != nil {
				yield(orbit.Item{}, err)
				return
			}
			if oldest {
				kv.All(ctx)(yield)
			} else {
				kv.Iterate(ctx, orbit.Page{Behind: behind})(yield)
			}
			return
		}
		events, err := db.Events()
		if err != nil {
			yield(orbit.Item{}, err)
			return
		}
		all := events.Iterate(ctx, orbit.Range{Behind: behind})
		if oldest {
			all = events.All(ctx)
		}
		for e, err := range all {
			if !yield(itemOf(e), err) {
				return
			}
		}
	}
}

func everything(value.Value) (bool, error) { return true, nil }

// emitItems emits the items that match, at most an amount of them if that is not 0.
// Those that are damaged do not keep it from going on.
func emitItems(ctx context.Context, req *cmds.Request, res cmds.ResponseEmitter, items iter.Seq2[orbit.Item, error], match func(value.Value) (bool, error), amount int) error {
	count, damaged, first := 0, 0, error(nil)
	for item, err := range items {
		l := newItemLine(item)
		ok := true
		switch {
		case err == nil:
			if ok, err = match(item.Value); err != nil {
				return fmt.Errorf("%s: %w", item.Hash, err)
			}
		case context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case !errors.Is(err, orbit.ErrDamagedBlock) || item.Hash == "":
			return dbError(err, req.Arguments[0])
		default:
			l.Error = err.Error()
			if damaged++; first == nil {
				first = err
			}
		}
		if !ok {
			continue
		}
		if err := res.Emit(l); err != nil {
			return err
		}
		if count++; count == amount {
			break
		}
	}
	if first != nil {
		return dbError(fmt.Errorf("%d left out: %w", damaged, first), req.Arguments[0])
	}
	return nil
}

var dbQueryCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print the values for which an expression is true.",
		ShortDescription: `
Prints keys and values as 'db all', newest first, of those for which the
expression is true. Names in it are the members of the value, nil where there
is none; "value" is the value itself.

  > ipfs npp db query pieces --where 'instrument == "Piano" and year < 1800'
  QmNR2n…	{"hash":"QmNR2n…","year":1722,"instrument":"Piano"}
  > ipfs npp db query pieces --where 'title contains "Prelude"' --amount 5
  > ipfs npp db query pieces --where '"solo" in tags and (year ?? 0) >= 1700'
  > ipfs npp db query pieces --where 'any(movements, .key == "C")'
  > ipfs npp db query user --where 'value startsWith "/orbitdb/"'

There are == != < <= > >= and or not in contains startsWith endsWith matches
(a regular expression) + - * / % ?? ?:, len lower upper trim type, and all any
none one count of a list and a predicate about its items. Where what cannot be
compared is compared, such as nil with a number, a value does not match.
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(whereOption, "The expression."),
		cmds.IntOption(amountOption, "At most so many."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		amount, err := amountOf(req)
		if err != nil {
			return err
		}
		text, ok := req.Options[whereOption].(string)
		if !ok {
			return fmt.Errorf("--%s is missing; hint: --%s 'year < 1800', or ipfs npp db all", whereOption, whereOption)
		}
		expression, err := where.Compile(text)
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		return emitItems(ctx, req, res, itemsOf(ctx, db, false, ""), expression.Match, amount)
	},
	Type:     itemLine{},
	Encoders: itemEncoders,
}
