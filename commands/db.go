package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/ipfs/kubo/core/commands/cmdenv"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/orbit/where"
	"github.com/newpieceplease/npp/plugin"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
)

const (
	typeOption    = "type"
	indexByOption = "index-by"
	writeOption   = "write"
	managedOption = "managed"
	metaOption    = "meta"
)

var dbCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Make, read, write and replicate OrbitDB databases.",
		ShortDescription: `
A database is named by its address (/orbitdb/zdpu…) or, where only one here
has it, by its name; one of yours comes before those of others. There are
three types: documents, each with its key in one of its fields; keyvalue; and
events, which are added and stay. Values are JSON, with links and bytes as in
DAG-JSON: {"/":"<CID>"}, {"/":{"bytes":"…"}}.

The daemon has four databases of its own, which are your library: "pieces",
documents whose key is the field "hash"; and, as keyvalue, "user", which is
about you, "companions", whom you follow, and "practice".

  > ipfs npp db ls
  > ipfs npp db put pieces '{"hash":"QmNR2n…","instrument":"Piano"}'
  > ipfs npp db query pieces --where 'instrument == "Piano"'
  > ipfs npp db get user username

Databases are kept in step with all peers that have them open, as this daemon
has all that it did not close. 'open' fetches one of another peer:

  > ipfs npp db open /orbitdb/zdpuAt3… --wait
  > ipfs npp db watch rehearsals
  > ipfs npp db doctor rehearsals
`,
	},
	Subcommands: map[string]*cmds.Command{
		"ls":      dbLsCmd,
		"info":    dbInfoCmd,
		"create":  dbCreateCmd,
		"put":     dbPutCmd,
		"get":     dbGetCmd,
		"del":     dbDelCmd,
		"all":     dbAllCmd,
		"query":   dbQueryCmd,
		"log":     dbLogCmd,
		"export":  dbExportCmd,
		"import":  dbImportCmd,
		"rebuild": dbRebuildCmd,
		"open":    dbOpenCmd,
		"close":   dbCloseCmd,
		"drop":    dbDropCmd,
		"peers":   dbPeersCmd,
		"watch":   dbWatchCmd,
		"doctor":  dbDoctorCmd,
		"grant":   dbGrantCmd,
		"revoke":  dbRevokeCmd,
	},
}

// dbArg is the database that a command is about.
var dbArg = cmds.StringArg("db", true, false, "Address or name of a database.")

// databases is the daemon's databases, or an error with the next step. The context
// is that of the request, and is done when the daemon stops.
func databases(req *cmds.Request, env cmds.Environment) (context.Context, *orbit.Orbit, error) {
	d, err := daemon(env)
	if err != nil {
		return nil, nil, err
	}
	o, err := d.Orbit()
	if err != nil {
		return nil, nil, dbError(err, "")
	}
	node, err := cmdenv.GetNode(env)
	if err != nil {
		return nil, nil, err
	}
	ctx, stop := context.WithCancelCause(req.Context)
	unwatch := context.AfterFunc(node.Context(), func() { stop(plugin.ErrStopping) })
	context.AfterFunc(ctx, func() { unwatch() })
	return ctx, o, nil
}

// database is the database that the first argument names.
func database(req *cmds.Request, env cmds.Environment) (context.Context, *orbit.Database, error) {
	ctx, o, err := databases(req, env)
	if err != nil {
		return nil, nil, err
	}
	db, err := o.Find(ctx, req.Arguments[0])
	return ctx, db, dbError(err, req.Arguments[0])
}

// dbError adds the next step to an error about a database, which was called so.
func dbError(err error, called string) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, orbit.ErrClosed), errors.Is(err, replicate.ErrClosed):
		return plugin.ErrStopping
	case errors.Is(err, orbit.ErrUnknown) && strings.HasPrefix(called, "/"):
		hint = "ipfs npp db ls shows what is here, ipfs npp db open " + shown(called) + " fetches it"
	case errors.Is(err, orbit.ErrUnknown):
		hint = "ipfs npp db ls shows what is here"
	case errors.Is(err, orbit.ErrAmbiguous):
		hint = "use one of these addresses"
	case errors.Is(err, orbit.ErrLegacyAddress):
		hint = "such a database cannot be opened, it has to be made anew with OrbitDB 1.0 or later"
	case errors.Is(err, orbit.ErrInvalidAddress):
		hint = "ipfs npp db ls shows addresses and names"
	case errors.Is(err, orbit.ErrDamaged), errors.Is(err, orbit.ErrDamagedBlock):
		hint = "ipfs npp db rebuild " + shown(called)
	case errors.Is(err, orbit.ErrNotAllowed):
		hint = "ipfs npp db info " + shown(called) + " shows who may"
	case errors.Is(err, orbit.ErrUnavailable):
		hint = "connect to a peer that has it: ipfs npp connect <peer>"
	case errors.Is(err, orbit.ErrInUse):
		hint = "close or drop that one, and it goes with it"
	case errors.Is(err, orbit.ErrDropped):
		hint = "ipfs npp db ls shows what is here"
	case errors.Is(err, replicate.ErrNotReplicated):
		hint = "ipfs npp db open " + shown(called)
	case errors.Is(err, orbit.ErrEncrypted):
		hint = "--" + plainOption + " writes it all the same"
	case errors.As(err, new(*orbit.AccessTypeError)):
		hint = "npp opens databases with the access controllers of @orbitdb/core, ipfs and orbitdb"
	case errors.Is(err, replicate.ErrFailed) && errors.Is(err, orbit.ErrType):
		hint = "ipfs npp db open " + shown(called) + " --" + typeOption + " with the type that its manifest says"
	case errors.Is(err, replicate.ErrFailed):
		hint = "ask for the address again, what is there is no database"
	case errors.Is(err, space.ErrFull):
		hint = space.Advice
	case errors.Is(err, orbit.ErrFull), errors.Is(err, orbit.ErrShareFull):
		hint = replicate.QuotaAdvice
	case errors.Is(err, entry.ErrTooLarge):
		hint = "add it to IPFS and put its CID"
	case errors.Is(err, where.ErrInvalid):
		hint = "ipfs npp db query --help has examples"
	case errors.Is(err, store.ErrNotDurable):
		hint = diskHint
	default:
		return err
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}

// shown is an argument as it can be typed again.
func shown(arg string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("/._-", r)
	}
	if arg != "" && len(arg) <= 100 && strings.IndexFunc(arg, func(r rune) bool { return !plain(r) }) < 0 {
		return arg
	}
	return "<db>"
}

// amountOf reads --amount; without it, there is no limit.
func amountOf(req *cmds.Request) (int, error) {
	n, ok := req.Options[amountOption].(int)
	if ok && n < 1 {
		return 0, fmt.Errorf("--%s is %d, must be 1 or more", amountOption, n)
	}
	return n, nil
}

// hashOf reads an option that is the hash of an entry.
func hashOf(req *cmds.Request, option string) (hash string, given bool, err error) {
	hash, given = req.Options[option].(string)
	if given && !block.ValidHash(hash) {
		err = fmt.Errorf("--%s is %.80q, must be the hash of an entry", option, hash)
	}
	return hash, given, err
}

// valueJSON is a value in a line, or nothing where there is no value.
func valueJSON(v value.Value) json.RawMessage {
	if v == nil {
		return nil
	}
	b, err := v.MarshalJSON()
	if err != nil { // it would have been refused when it came
		return json.RawMessage(strconv.AppendQuote(nil, err.Error()))
	}
	return b
}

// unescaped is what Go escapes in JSON without need.
var unescaped = map[string]string{`\u003c`: "<", `\u003e`: ">", `\u0026`: "&"}

// jsonText is JSON for a terminal, JSON still: what a terminal might obey is
// escaped, and what Go escapes for browsers is not.
func jsonText(text json.RawMessage) string {
	var b strings.Builder
	for s := string(text); s != ""; {
		if s[0] == '\\' {
			plain, n := unescaped[s[:min(6, len(s))]], 6
			if plain == "" {
				n = 1
				if strings.HasPrefix(s, `\\`) {
					n = 2
				}
				plain = s[:n]
			}
			b.WriteString(plain)
			s = s[n:]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			for _, u := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
		}
		s = s[n:]
	}
	return b.String()
}

// keyText is a key for a terminal: a text as it is, all else as JSON.
func keyText(key json.RawMessage) string {
	var s string
	if json.Unmarshal(key, &s) == nil && string(key) != "null" {
		return printable(s)
	}
	return jsonText(key)
}

// listLine is a line of `npp db ls`.
type listLine struct {
	Address  string `json:"address"`
	Name     string `json:"name"`
	Type     string `json:"type"`                   // as which it is open
	Manifest string `json:"manifestType,omitempty"` // the type that its manifest names, where that is another
	State    string `json:"state,omitempty"`        // of its replication: "open", "closed", "fetching", "failed", "encrypted" or "full"
	Full     string `json:"full,omitempty"`         // why nothing of others is taken, where a quota is used up
	NotLive  string `json:"notLive,omitempty"`      // why it is open and not live; see statusLine
	IndexBy  string `json:"indexBy,omitempty"`
	Entries  uint64 `json:"entries"`
	Keys     uint64 `json:"keys"`               // of documents and keyvalue
	AccessOf string `json:"accessOf,omitempty"` // address of the database whose access controller it is
	Error    string `json:"error,omitempty"`    // why it does not open
}

// manifestType is the type that a manifest names, or "" where the database is
// open as one of that type.
func manifestType(kind, manifest string) string {
	if kind == manifest {
		return ""
	}
	return typeOf(manifest)
}

// typeOf is a type of database, which whoever made it chose. A line whose type
// is "error" would be an error to those who read lines.
func typeOf(kind string) string {
	if kind == "error" {
		return "unknown"
	}
	return kind
}

var dbLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the databases that are here.",
		ShortDescription: `
Prints address, type, number of entries, state and name of each database: it
is "open" and replicated, "not live" where new entries come late or not at
all, "full" where a quota is used up and nothing of others is taken, "closed",
"fetching" what it takes to open it, "failed", or "encrypted" as a whole by
the apps that write to it, so that nothing of it can be read here. One that is
not live, is full or does not open is listed with the reason.

  > ipfs npp db ls
  /orbitdb/zdpuAsb…  documents      12  open       pieces
  /orbitdb/zdpuAz7…  keyvalue        4  closed     user
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		var lines []*listLine
		accessOf := make(map[string]string)
		for d, err := range o.Databases(ctx) {
			if err != nil {
				return dbError(err, "")
			}
			l := &listLine{Address: d.Address, Name: d.Name, Type: typeOf(d.Type), Manifest: manifestType(d.Type, d.ManifestType), IndexBy: d.IndexBy}
			lines = append(lines, l)
			db, err := o.Open(ctx, d.Address, orbit.OpenOptions{})
			if err == nil {
				accessOf[db.Access().Address()] = d.Address
				var s orbit.Stats
				s, err = db.Stats(ctx)
				l.Entries, l.Keys = s.Entries, s.Keys
			}
			if err != nil {
				l.Error = dbError(err, d.Address).Error()
			}
		}
		pending, err := addStates(ctx, env, lines)
		if err != nil {
			return err
		}
		lines = append(lines, pending...)
		for _, l := range lines {
			l.AccessOf = accessOf[l.Address]
			if err := res.Emit(l); err != nil {
				return err
			}
		}
		return nil
	},
	Type: listLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *listLine) error {
			text := fmt.Sprintf("%s  %-9s  %6d  %-9s  %s", l.Address, printable(cmp.Or(l.Type, "?")), l.Entries, l.state(), printable(cmp.Or(l.Name, "?")))
			if l.AccessOf != "" {
				text += "  (who may write to " + l.AccessOf + ")"
			}
			if l.Manifest != "" {
				text += "  (its manifest says " + printable(l.Manifest) + ")"
			}
			for _, why := range []string{l.Full, l.NotLive, l.Error} {
				if why != "" {
					text += "\n  " + printable(why)
				}
			}
			_, err := fmt.Fprintln(w, text)
			return err
		}),
	},
}

func (l *listLine) state() string {
	if l.NotLive != "" && l.State == string(replicate.Open) {
		return "not live"
	}
	return cmp.Or(l.State, "?")
}

// addStates adds how far the databases that are here are replicated, and returns
// those that are not here yet.
func addStates(ctx context.Context, env cmds.Environment, here []*listLine) (pending []*listLine, err error) {
	d, err := daemon(env)
	if err != nil {
		return nil, err
	}
	r, err := d.Replicator()
	if err != nil {
		return nil, nil // they are here all the same
	}
	listed := make(map[string]bool)
	for _, l := range here {
		listed[l.Address] = true
		switch s, err := r.Status(ctx, l.Address); {
		case l.Error != "":
			l.State = string(replicate.Failed)
		case err == nil:
			l.State = stateOf(s)
			if s.NotLive != nil {
				l.NotLive = notLive(s.NotLive)
			}
			if l.State == fullState {
				l.Full = s.Full.Error()
			}
		}
	}
	for _, address := range r.Pending() {
		s, err := r.Status(ctx, address)
		if err != nil || listed[address] {
			continue // it came, or went, meanwhile
		}
		l := &listLine{Address: address, State: string(s.State)}
		if s.Err != nil {
			l.Error = s.Err.Error()
		}
		pending = append(pending, l)
	}
	return pending, nil
}

// infoLine is the output of `npp db info`.
type infoLine struct {
	Address  string          `json:"address"`
	Name     string          `json:"name"`
	Type     string          `json:"type"`                   // as which it is open
	Manifest string          `json:"manifestType,omitempty"` // the type that its manifest names, where that is another
	IndexBy  string          `json:"indexBy,omitempty"`
	Meta     json.RawMessage `json:"meta,omitempty"`
	Access   accessLine      `json:"access"`
	Writable bool            `json:"writable"`            // by this daemon
	Sealed   bool            `json:"encrypted,omitempty"` // apps encrypt the values: this daemon writes a plain one with --plain only
	Entries  uint64          `json:"entries"`             // that count
	Keys     uint64          `json:"keys"`                // of documents and keyvalue
	Faults   uint64          `json:"faults"`              // entries that do not count
	Waiting  uint64          `json:"waiting"`             // entries whose parents are not here
	Missing  []string        `json:"missing,omitempty"`   // at most 1000 of them
	Lacking  uint64          `json:"lacking,omitempty"`   // hashes that are missing
	Stored   storedLine      `json:"stored"`
	Heads    []string        `json:"heads"`
	Clock    float64         `json:"clock"` // largest time of the heads
	Last     uint64          `json:"last"`  // number of the entry that came last
	statusLine
}

// storedLine is what a database takes, in bytes of blocks.
type storedLine struct {
	Bytes          uint64 `json:"bytes"`
	WaitingBytes   uint64 `json:"waitingBytes"`             // about, of entries that wait
	MaxBytes       uint64 `json:"maxBytes,omitempty"`       // the quota for both; none where only this daemon may write
	CompanionBytes uint64 `json:"companionBytes,omitempty"` // of all databases of the companion whose it is: then the quota is for those
}

func newStoredLine(u orbit.Usage) storedLine {
	l := storedLine{Bytes: u.Entries, WaitingBytes: u.Waiting, CompanionBytes: u.Grouped}
	if u.Limited && u.Quota < math.MaxUint64 {
		l.MaxBytes = u.Quota
	}
	return l
}

func (l storedLine) text() string {
	text := fmt.Sprintf("%d bytes", l.Bytes+l.WaitingBytes)
	switch {
	case l.CompanionBytes > 0:
		return text + fmt.Sprintf(", all of the companion %d of %d", l.CompanionBytes, l.MaxBytes)
	case l.MaxBytes > 0:
		return text + fmt.Sprintf(" of %d", l.MaxBytes)
	}
	return text + ", no quota"
}

// accessLine says who may write.
type accessLine struct {
	Type         string              `json:"type"` // "ipfs" or "orbitdb"
	Address      string              `json:"address"`
	Capabilities map[string][]string `json:"capabilities"` // IDs of identities, by "write" and "admin"
}

// shownHashes is how many hashes are printed for people.
const shownHashes = 8

var dbInfoCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show what is known of a database.",
		ShortDescription: `
"faults" are entries that have no effect, such as those of who may not write.
"waiting" are entries that came before those that they need, which are
"missing" unless they are being fetched ("asking"). "stored" is what the
database takes of its quota. Heads are the newest entries, the clock is the
largest of theirs, and "last" is the number of the entry that came last (see
db log --since).
The state is that of the replication, which lists what was asked for in vain,
entries that came and were refused, and peers that have it open. A database
that is being fetched has no more than that. It is "encrypted" where apps
encrypt it as a whole (encryption.replication); where they encrypt the values
alone (encryption.data), there is a line "values". It is "full" where a quota
is used up: nothing of others is taken, what is here is served, and this
daemon may write.

  > ipfs npp db info pieces
  address   /orbitdb/zdpuAsb…
  name      pieces
  type      documents, indexed by hash
  access    ipfs, /ipfs/zdpuAzF…
  write     03f5a7…
  writable  yes
  entries   12, keys 11, faults 0, waiting 0
  stored    17342 bytes, no quota
  head      zdpuB2g…
  clock     12, last 12
  state     open
  peer      12D3KooW… open, in step 12s ago
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		called := req.Arguments[0]
		db, err := o.Find(ctx, called)
		if errors.Is(err, orbit.ErrUnknown) && strings.HasPrefix(called, "/") {
			l := &infoLine{Address: called, Heads: []string{}}
			if statusErr := addStatus(req, env, l); statusErr == nil && l.pending() {
				return res.Emit(l)
			}
			db, err = o.Find(ctx, called) // it may have come by now
		}
		if err != nil {
			return dbError(err, called)
		}
		l, err := infoOf(ctx, o, db)
		if err == nil {
			err = addStatus(req, env, l)
		}
		if err == nil && l.Waiting > 0 && l.Asking == 0 {
			l.Missing, err = db.Missing(ctx)
		}
		if err != nil {
			return dbError(err, called)
		}
		return res.Emit(l)
	},
	Type: infoLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *infoLine) error {
			_, err := io.WriteString(w, l.text())
			return err
		}),
	},
}

func infoOf(ctx context.Context, o *orbit.Orbit, db *orbit.Database) (*infoLine, error) {
	l := &infoLine{
		Address: db.Address(),
		Name:    db.Name(),
		Type:    typeOf(db.Type()),
		IndexBy: db.IndexBy(),
		Meta:    valueJSON(db.Meta()),
		Access:  accessLine{Type: db.Access().Type(), Address: db.Access().Address()},
		Heads:   []string{},

		Manifest: manifestType(db.Type(), db.ManifestType()),
	}
	s, err := db.Stats(ctx)
	if err != nil {
		return nil, err
	}
	l.Entries, l.Keys, l.Faults, l.Waiting = s.Entries, s.Keys, s.Faults, s.Waiting
	l.Clock, l.Last, l.Lacking, l.Stored = s.Clock, s.Last, s.Missing, newStoredLine(db.Usage())
	l.Heads = append(l.Heads, s.Heads...)
	if l.Access.Capabilities, err = db.Access().Capabilities(ctx); err != nil {
		return nil, err
	}
	if l.Writable, err = db.Writable(ctx); err != nil {
		return nil, err
	}
	l.Sealed, err = db.Encrypted(ctx)
	return l, err
}

// addStatus adds what is known of the replication, or why there is none.
func addStatus(req *cmds.Request, env cmds.Environment, l *infoLine) error {
	r, err := replicatedOf(req, env)
	if err != nil {
		l.statusLine = statusLine{Error: err.Error(), Peers: []dbPeerLine{}}
		return nil
	}
	s, err := r.Status(r.ctx, l.Address)
	if err != nil {
		return err
	}
	l.statusLine = newStatusLine(s, r.connected())
	if l.pending() {
		for _, m := range s.Missing {
			l.Missing = append(l.Missing, m.Hash)
		}
	}
	return nil
}

// clockText is a time of a clock: digits, as long as it is one of an honest clock.
func clockText(t float64) string {
	if t < 1<<53 {
		return strconv.FormatFloat(t, 'f', -1, 64)
	}
	return strconv.FormatFloat(t, 'g', -1, 64)
}

// pending tells whether the database is not here yet.
func (l *infoLine) pending() bool {
	return l.State == string(replicate.Fetching) || l.State == string(replicate.Failed)
}

func (l *infoLine) text() string {
	var b strings.Builder
	row := func(name, format string, a ...any) {
		fmt.Fprintf(&b, "%-8s  "+format+"\n", append([]any{name}, a...)...)
	}
	row("address", "%s", l.Address)
	if l.pending() {
		l.statusText(row)
		return b.String()
	}
	row("name", "%s", printable(l.Name))
	kind := printable(l.Type)
	if l.IndexBy != "" {
		kind += ", indexed by " + printable(l.IndexBy)
	}
	if l.Manifest != "" {
		kind += "; its manifest says " + printable(l.Manifest)
	}
	row("type", "%s", kind)
	if l.Meta != nil {
		row("meta", "%s", jsonText(l.Meta))
	}
	row("access", "%s, %s", printable(l.Access.Type), printable(l.Access.Address))
	for _, c := range slices.Sorted(maps.Keys(l.Access.Capabilities)) {
		for _, id := range l.Access.Capabilities[c] {
			row(printable(c), "%s", printable(id))
		}
	}
	writable := "yes"
	if !l.Writable {
		writable = "no"
	}
	row("writable", "%s", writable)
	if l.Sealed {
		row("values", "encrypted by the apps that write them")
	}
	waiting := ""
	if l.Lacking > 0 {
		waiting = fmt.Sprintf(" for %s", quantity(l.Lacking, "other", "others"))
	}
	row("entries", "%d, keys %d, faults %d, waiting %d%s", l.Entries, l.Keys, l.Faults, l.Waiting, waiting)
	row("stored", "%s", l.Stored.text())
	for i := range some(row, "head", len(l.Heads)) {
		row("head", "%s", printable(l.Heads[i]))
	}
	row("clock", "%s, last %d", clockText(l.Clock), l.Last)
	l.statusText(row)
	return b.String()
}

// statusText writes what is known of the replication, and what is missing.
func (l *infoLine) statusText(row func(name, format string, a ...any)) {
	row("state", "%s", cmp.Or(l.State, "?"))
	if l.NotLive != "" {
		row("not live", "%s", printable(l.NotLive))
	}
	if l.Full != "" {
		row("full", "%s", printable(l.Full))
	}
	if l.GaveUp {
		row("gave up", "some entries that waited, for want of room; they are asked for again")
	}
	if l.Error != "" {
		row("error", "%s", printable(l.Error))
	}
	asked := make(map[string]string)
	for _, m := range l.MissingBlocks {
		asked[m.Hash] = "  " + m.text()
	}
	missing := len(l.Missing)
	if missing > shownHashes { // it may be a part of them
		missing = max(missing, int(l.Lacking))
	}
	for i := range some(row, "missing", missing) {
		row("missing", "%s%s", printable(l.Missing[i]), asked[l.Missing[i]])
	}
	for i := range some(row, "refused", len(l.Refused)) {
		r := l.Refused[len(l.Refused)-1-i] // the newest first
		row("refused", "%s  %s", printable(r.Hash), printable(r.Error))
	}
	for i := range some(row, "peer", len(l.Peers)) {
		p := &l.Peers[i]
		open := "gone"
		if p.Open {
			open = "open"
		}
		row("peer", "%s %s, in step %s", p.Peer, open, ago(p.InStep))
	}
}

// some yields the places of the first of n things, and writes how many more
// there are.
func some(row func(name, format string, a ...any), name string, n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range min(n, shownHashes) {
			if !yield(i) {
				return
			}
		}
		if n > shownHashes {
			row(name, "and %d more", n-shownHashes)
		}
	}
}

// createLine is the output of `npp db create`.
type createLine struct {
	Address string `json:"address"`
}

var dbCreateCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Make a database, or open the one that is the same.",
		ShortDescription: `
Prints the address. The same name, type, writers and meta make the same
database on every peer, so doing it again changes nothing. Only this daemon
may write, unless '--write' names others by the identity that 'ipfs npp id'
shows, or everybody: '*'. With '--managed' these are the admins of a list of
writers that can be changed later.

  > ipfs npp db create rehearsals
  /orbitdb/zdpuAt3…
  > ipfs npp db create scores --type documents --index-by hash
  > ipfs npp db create band --type keyvalue --write 03f5a7… --write 02c1b2…
  > ipfs npp db create guestbook --write '*' --meta '{"about":"our visitors"}'
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("name", true, false, "Name of the database."),
	},
	Options: []cmds.Option{
		cmds.StringOption(typeOption, "documents, keyvalue or events.").WithDefault(orbit.TypeEvents),
		cmds.StringOption(indexByOption, "Field of documents that is their key; _id if not given."),
		cmds.StringsOption(writeOption, "Identity that may write, or '*'; may be repeated."),
		cmds.BoolOption(managedOption, "Let the writers be changed later."),
		cmds.StringOption(metaOption, "JSON that is part of the database's address."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		opts := orbit.Options{Access: orbit.Access{Managed: on(req, managedOption)}}
		opts.Type, _ = req.Options[typeOption].(string)
		opts.IndexBy, _ = req.Options[indexByOption].(string)
		opts.Access.Write, _ = req.Options[writeOption].([]string)
		if meta, ok := req.Options[metaOption].(string); ok {
			if opts.Meta, err = value.FromJSON([]byte(meta)); err != nil {
				return notJSON("--"+metaOption, err)
			}
		}
		db, err := o.Create(ctx, req.Arguments[0], opts)
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		return res.Emit(&createLine{Address: db.Address()})
	},
	Type: createLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *createLine) error {
			_, err := fmt.Fprintln(w, l.Address)
			return err
		}),
	},
}

// rebuildLine is the output of `npp db rebuild`.
type rebuildLine struct {
	Address string     `json:"address"`
	Entries uint64     `json:"entries"`
	Faults  uint64     `json:"faults"`
	Lost    []lostLine `json:"lost"`
}

// lostLine is an entry that could not be read.
type lostLine struct {
	Number uint64 `json:"number"`
	Hash   string `json:"hash,omitempty"` // if that is known
}

var dbRebuildCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Make the index of a damaged database anew.",
		ShortDescription: `
Reads all entries and makes anew all that follows from them. Entries that
cannot be read are left out and listed: a peer that has them can send them
again. If it is interrupted, run it again.

  > ipfs npp db rebuild pieces
  rebuilt /orbitdb/zdpuAsb…: 12 entries, 0 lost
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		called := req.Arguments[0]
		l := &rebuildLine{Lost: []lostLine{}}
		if l.Address, err = o.Resolve(ctx, called); err != nil {
			return dbError(err, called)
		}
		lost, err := o.Rebuild(ctx, l.Address)
		if err != nil {
			return dbError(err, called)
		}
		for _, e := range lost {
			l.Lost = append(l.Lost, lostLine{e.Number, e.Hash})
		}
		db, err := o.Find(ctx, l.Address)
		if err != nil {
			return dbError(err, called)
		}
		s, err := db.Stats(ctx)
		if err != nil {
			return dbError(err, called)
		}
		l.Entries, l.Faults = s.Entries, s.Faults
		return res.Emit(l)
	},
	Type: rebuildLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *rebuildLine) error {
			text := fmt.Sprintf("rebuilt %s: %s, %d lost\n", l.Address, quantity(l.Entries, "entry", "entries"), len(l.Lost))
			for _, e := range l.Lost {
				text += fmt.Sprintf("lost %d %s\n", e.Number, printable(e.Hash))
			}
			_, err := io.WriteString(w, text)
			return err
		}),
	},
}
