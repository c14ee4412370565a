package commands

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

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

	// maxJSON bounds the JSON of one value, in bytes. JSON may be longer than
	// the entry that contains the value.
	maxJSON = 2 * entry.MaxSize
	// maxPayload bounds a value of --many, in bytes: it is what remains of an
	// entry without the largest fields that surround a value.
	maxPayload = entry.MaxSize - 32<<10

	// valueName names the part of the multipart body that contains the value.
	valueName = "value"
)

// putLine is the output of `npp db put` and `npp db del`.
type putLine struct {
	Hash string `json:"hash,omitempty"` // of the entry
	Put  *int   `json:"put,omitempty"`  // how many, with --many
}

var putEncoders = encodeText(func(l *putLine) string {
	if l.Put != nil {
		return fmt.Sprintln("put", *l.Put)
	}
	return l.Hash + "\n"
})

var (
	jsonKey     = cmds.BoolOption(jsonKeyOption, "The key is JSON, not plain text.")
	plainValues = cmds.BoolOption(plainOption, "Write even though apps encrypt the values; see db put.")
)

// writableAs returns the database as --plain allows to write to it.
func writableAs(req *cmds.Request, db *orbit.Database) *orbit.Database {
	if isSet(req, plainOption) {
		return db.Plain()
	}
	return db
}

var dbPutCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Write a document, a value or an event.",
		ShortDescription: `
Writes to a database and prints the hash of the new entry, which is on disk by
then. What to pass depends on the type of the database: a document, a key and
a value, or an event. Values are JSON, so plain text needs quotes of its own.

  > ipfs npp db put pieces '{"hash":"QmNR2n…","instrument":"Piano"}'
  zdpuB2g…
  > ipfs npp db put user username '"Anna"'
  > ipfs npp db put rehearsals --file tuesday.json
  > date +%s | ipfs npp db put user seen -

Without a value, or with '-', the value is read from standard input. With
'--many', each line of the input is a value; for keyvalue, each line is
{"key":…,"value":…}. If a line is invalid, the lines before it are written.

  > ipfs npp db put pieces --many --file pieces.jsonl
  put 1200

If apps encrypt the values of the database (encryption.data), a plain value is
refused, because it would make these apps fail to read the database. '--plain'
writes it anyway.
`,
	},
	Arguments: []cmds.Argument{
		dbArg,
		cmds.StringArg("value", false, true, "The value; for keyvalue, a key and a value."),
	},
	Options: []cmds.Option{
		cmds.StringOption(fileOption, "Read the value from this file, or the lines with --many."),
		cmds.BoolOption(manyOption, "Write many values, one per line."),
		jsonKey,
		plainValues,
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if hasBody(req) {
			return nil
		}
		r, err := putBody(req)
		if err != nil {
			return err
		}
		delete(req.Options, fileOption)
		if isSet(req, manyOption) {
			r = withProgress(r, "lines sent", func(b []byte) int { return bytes.Count(b, []byte("\n")) })
		}
		setBody(req, valueName, r)
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		if _, ok := req.Options[fileOption]; ok {
			return errCommandLineOnly(fileOption, "post the value as a multipart body")
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
		input, end := bodyReader(ctx, r)
		defer end()
		db = writableAs(req, db)
		if isSet(req, manyOption) {
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

// putBody returns what the command line sends: the last argument, which it
// removes from the request, a file, or standard input.
func putBody(req *cmds.Request) (io.Reader, error) {
	path, hasFile := req.Options[fileOption].(string)
	last := len(req.Arguments) - 1
	dash := last > 0 && req.Arguments[last] == "-"
	many := isSet(req, manyOption)
	switch {
	case hasFile && (last > 1 || dash || many && last > 0):
		return nil, fmt.Errorf("the value is given twice, as an argument and as --%s; hint: leave out one of them", fileOption)
	case many && !hasFile && last > 0 && !dash:
		return nil, fmt.Errorf("--%s reads from standard input or --%s, not from an argument; hint: ipfs npp db put --help", manyOption, fileOption)
	case hasFile:
		return openInput(path, "value")
	case last > 0 && !dash:
		text := req.Arguments[last]
		req.Arguments = req.Arguments[:last]
		return strings.NewReader(text), nil
	case dash:
		req.Arguments = req.Arguments[:last]
	}
	return stdin("value"), nil
}

// notJSON adds the next step to the error of a text that is not JSON.
func notJSON(what string, err error) error {
	return fmt.Errorf(`%s is not JSON: %w; hint: plain text needs quotes of its own: '"text"'`, what, err)
}

// keyOf returns the key that an argument names.
func keyOf(req *cmds.Request, text string) (value.Value, error) {
	if !isSet(req, jsonKeyOption) {
		return value.Text(text), nil
	}
	key, err := value.FromJSON([]byte(text))
	if err != nil {
		return nil, notJSON("the key", err)
	}
	return key, nil
}

// putOne writes the value that r contains, at the key in args.
func putOne(ctx context.Context, db *orbit.Database, req *cmds.Request, args []string, r io.Reader) (string, error) {
	arg := req.Arguments[0]
	keys := 0
	if db.Type() == orbit.TypeKeyValue {
		keys = 1
	}
	switch {
	case len(args) < keys:
		return "", fmt.Errorf("%s is of type keyvalue, so there must be a key and a value; hint: ipfs npp db put %s <key> <value>", db.Address(), hintArg(arg))
	case len(args) > keys && db.Type() == orbit.TypeDocuments:
		return "", fmt.Errorf("%s contains documents, whose key is the field %q, so there must be no other argument; hint: ipfs npp db put %s <document>", db.Address(), db.IndexBy(), hintArg(arg))
	case len(args) > keys:
		return "", fmt.Errorf("%d values are too many for %s; hint: ipfs npp db put --help", len(args)+1, db.Address())
	}
	text, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return "", fmt.Errorf("read the value: %w", err)
	}
	if len(text) > maxJSON {
		return "", dbError(tooLarge(), arg)
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
	return hash, dbError(err, arg)
}

func tooLarge() error {
	return fmt.Errorf("%w: its value is longer than %d bytes of JSON, and an entry has at most %d", entry.ErrTooLarge, maxJSON, entry.MaxSize)
}

// putMany writes the values on the lines of r and returns how many it wrote.
func putMany(ctx context.Context, db *orbit.Database, arg string, args []string, r io.Reader) (n int, err error) {
	if len(args) > 0 {
		return 0, fmt.Errorf("--%s takes no key; hint: for keyvalue, each line is {\"key\":…,\"value\":…}", manyOption)
	}
	lines := &valueLines{in: bufio.NewReaderSize(r, 64<<10)}
	switch db.Type() {
	case orbit.TypeDocuments:
		var docs *orbit.Documents
		if docs, err = db.Documents(); err == nil {
			n, err = docs.PutMany(ctx, asAny(lines.values))
		}
	case orbit.TypeKeyValue:
		var kv *orbit.KeyValue
		if kv, err = db.KeyValue(); err == nil {
			n, err = kv.PutMany(ctx, lines.pairs)
		}
	default:
		var events *orbit.Events
		if events, err = db.Events(); err == nil {
			n, err = events.AddMany(ctx, asAny(lines.values))
		}
	}
	if err == nil {
		err = lines.err
	}
	switch {
	case err == nil:
		return n, nil
	case context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	case lines.err != nil || errors.Is(err, orbit.ErrInvalid) || errors.Is(err, value.ErrInvalid):
		err = fmt.Errorf("line %d: %w", lines.number, err)
	}
	return n, fmt.Errorf("%d put, and then: %w", n, dbError(err, arg))
}

// valueLines reads values, one per line.
type valueLines struct {
	in     *bufio.Reader
	number int   // of the last line that was read
	err    error // what ended the values before the end of the input
}

// values yields the values up to the end of the input or the first error.
func (l *valueLines) values(yield func(value.Value) bool) {
	for {
		text, err := readLine(l.in)
		l.number++
		if err != nil && !errors.Is(err, io.EOF) {
			l.err = err
			return
		}
		if len(text) == 0 {
			return
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		v, err := value.FromJSON(text)
		switch {
		case err != nil:
			l.err = notJSON("it", err)
			return
		case len(v) > maxPayload:
			l.err = fmt.Errorf("%w: its value has %d bytes, at most %d", entry.ErrTooLarge, len(v), maxPayload)
			return
		case !yield(v):
			return
		}
	}
}

// pairs yields values that have the form {"key":…,"value":…}.
func (l *valueLines) pairs(yield func(orbit.Pair) bool) {
	for v := range l.values {
		key, val := v.Field("key"), v.Field("value")
		if key == nil || val == nil {
			l.err = errors.New(`it is not {"key":…,"value":…}`)
			return
		}
		if !yield(orbit.Pair{Key: key, Value: val}) {
			return
		}
	}
}

func asAny(values iter.Seq[value.Value]) iter.Seq[any] {
	return func(yield func(any) bool) {
		for v := range values {
			if !yield(v) {
				return
			}
		}
	}
}

// readLine reads a line of at most [maxJSON] bytes. The last line may lack its
// line break.
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
	Value json.RawMessage `json:"value,omitempty"` // none if there is an error
	Error string          `json:"error,omitempty"` // why the entry cannot be read
}

func newItemLine(i orbit.Item) *itemLine {
	return &itemLine{Hash: i.Hash, Key: valueJSON(i.Key), Value: valueJSON(i.Value)}
}

// eventItem returns an event as an item without a key.
func eventItem(e orbit.Event) orbit.Item { return orbit.Item{Hash: e.Hash, Value: e.Value} }

// itemEncoders print the key and the value, or the hash and the value of an
// event.
var itemEncoders = encodeText(func(l *itemLine) string {
	if l.Error != "" {
		return "" // the error at the end says it
	}
	key := l.Hash
	if l.Key != nil {
		key = keyText(l.Key)
	}
	return key + "\t" + jsonText(l.Value) + "\n"
})

var dbGetCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Print the value at a key.",
		ShortDescription: `
Prints a document or value, given its key, or an event, given its hash, as
JSON. If there is none, the exit status is 1.

  > ipfs npp db get user username
  "Anna"
  > ipfs npp db get scores --json-key 42
`,
	},
	Arguments: []cmds.Argument{dbArg, cmds.StringArg("key", true, false, "The key, or the hash of an event.")},
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
	Type:     itemLine{},
	Encoders: encodeText(func(l *itemLine) string { return jsonText(l.Value) + "\n" }),
}

func getOne(ctx context.Context, db *orbit.Database, req *cmds.Request) (orbit.Item, error) {
	if db.Type() == orbit.TypeEvents {
		events, err := db.Events()
		if err != nil {
			return orbit.Item{}, err
		}
		e, err := events.Get(ctx, req.Arguments[1])
		return eventItem(e), err
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
	return item, unknownKeyHint(ctx, kv, req, err)
}

// unknownKeyHint adds the next step to the error of an unknown key. The key may
// exist as JSON: "42" is not 42.
func unknownKeyHint(ctx context.Context, kv keyed, req *cmds.Request, err error) error {
	if !errors.Is(err, orbit.ErrNotFound) {
		return err
	}
	db := hintArg(req.Arguments[0])
	key, jsonErr := value.FromJSON([]byte(req.Arguments[1]))
	if jsonErr == nil && !isSet(req, jsonKeyOption) {
		if _, getErr := kv.Get(ctx, key); getErr == nil {
			return fmt.Errorf("%w, but there is one that is JSON, not text; hint: ipfs %s %s --%s %s", err, strings.Join(req.Path, " "), db, jsonKeyOption, shellQuote(jsonText(valueJSON(key))))
		}
	}
	return fmt.Errorf("%w; hint: ipfs npp db all %s shows all keys", err, db)
}

// keyed is what documents and keyvalue have in common.
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
that records it. The old value stays in the history ('ipfs npp db log').
Events cannot be deleted.

  > ipfs npp db del pieces QmNR2n…
  zdpuAqq…
`,
	},
	Arguments: []cmds.Argument{dbArg, cmds.StringArg("key", true, false, "The key.")},
	Options:   []cmds.Option{jsonKey, plainValues},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		if db.Type() == orbit.TypeEvents {
			return fmt.Errorf("%w: %s contains events, which stay; hint: ipfs npp db drop deletes a whole database", orbit.ErrType, db.Address())
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
			return dbError(unknownKeyHint(ctx, kv, req, err), req.Arguments[0])
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
Prints a line per key: the key, a tab, and the value as JSON; or a line per
event: the hash, a tab, and the event. The oldest comes first.

  > ipfs npp db all user
  username	"Anna"
  nodeId	"12D3KooWCP9aGS…"

With '--amount', the newest comes first. To get the next page, pass the hash
of the last entry to '--behind'; '--enc=json' shows the hashes.

  > ipfs npp db all pieces --amount 20
  > ipfs npp db all pieces --amount 20 --behind zdpuB2g…
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.IntOption(amountOption, "Print at most this many."),
		cmds.StringOption(behindOption, "Only what was written before the entry with this hash."),
		cmds.BoolOption(oldestOption, "Print the oldest first, even with --amount."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		limit, err := limitOption(req)
		if err != nil {
			return err
		}
		behind, hasBehind, err := hashOption(req, behindOption)
		if err != nil {
			return err
		}
		if hasBehind && isSet(req, oldestOption) {
			return fmt.Errorf("--%s and --%s cannot be combined; hint: use one of them", behindOption, oldestOption)
		}
		items := databaseItems(ctx, db, isSet(req, oldestOption) || limit == 0 && !hasBehind, behind)
		return emitItems(ctx, req, res, items, matchAll, limit)
	},
	Type:     itemLine{},
	Encoders: itemEncoders,
}

// databaseItems yields the items of a database, the oldest or the newest first.
func databaseItems(ctx context.Context, db *orbit.Database, oldest bool, behind string) iter.Seq2[orbit.Item, error] {
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
				kv.Iterate(ctx, orbit.Page{After: behind})(yield)
			}
			return
		}
		events, err := db.Events()
		if err != nil {
			yield(orbit.Item{}, err)
			return
		}
		all := events.Iterate(ctx, orbit.Range{After: behind})
		if oldest {
			all = events.All(ctx)
		}
		for e, err := range all {
			if !yield(eventItem(e), err) {
				return
			}
		}
	}
}

func matchAll(value.Value) (bool, error) { return true, nil }

// emitItems emits the items that match, up to a limit; 0 is no limit. It goes
// on after a damaged item, and returns an error at the end.
func emitItems(ctx context.Context, req *cmds.Request, res cmds.ResponseEmitter, items iter.Seq2[orbit.Item, error], match func(value.Value) (bool, error), limit int) error {
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
		if count++; count == limit {
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
Prints keys and values as 'ipfs npp db all' does, newest first, if the
expression is true for the value. A name in the expression is a field of the
value, or nil if there is no such field; "value" is the value itself.

  > ipfs npp db query pieces --where 'instrument == "Piano" and year < 1800'
  QmNR2n…	{"hash":"QmNR2n…","year":1722,"instrument":"Piano"}
  > ipfs npp db query pieces --where 'title contains "Prelude"' --amount 5
  > ipfs npp db query pieces --where '"solo" in tags and (year ?? 0) >= 1700'
  > ipfs npp db query pieces --where 'any(movements, .key == "C")'
  > ipfs npp db query user --where 'value startsWith "/orbitdb/"'

Operators: == != < <= > >= and or not in contains startsWith endsWith matches
(a regular expression) + - * / % ?? ?:. Functions: len, lower, upper, trim,
type; all, any, none, one and count take a list and a condition for its items.
A comparison that makes no sense, such as nil < 1800, is not a match.
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(whereOption, "The expression."),
		cmds.IntOption(amountOption, "Print at most this many."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		limit, err := limitOption(req)
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
		return emitItems(ctx, req, res, databaseItems(ctx, db, false, ""), expression.Match, limit)
	},
	Type:     itemLine{},
	Encoders: itemEncoders,
}
