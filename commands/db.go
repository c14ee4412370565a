package commands

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/orbit/where"
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
		Tagline: "Create, read, write and replicate OrbitDB databases.",
		ShortDescription: `
A database has an address (/orbitdb/zdpu…) and a name. Commands take either;
of several databases with one name, your own comes first. There are three
types: documents, each with its key in one of its fields; keyvalue; and
events, which can be added but not changed. Values are JSON. Links and bytes
are written as in DAG-JSON: {"/":"<CID>"}, {"/":{"bytes":"…"}}.

The daemon has four databases of its own, your library: "pieces", documents
with the key "hash", and three of type keyvalue: "user", which is your
profile, "companions", the peers that you follow, and "practice".

  > ipfs npp db ls
  > ipfs npp db put pieces '{"hash":"QmNR2n…","instrument":"Piano"}'
  > ipfs npp db query pieces --where 'instrument == "Piano"'
  > ipfs npp db get user username

A database is replicated with all peers that have it open, until you close
it. 'open' fetches the database of another peer, 'watch' prints changes, and
'doctor' says why something does not arrive:

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

var dbArg = cmds.StringArg("db", true, false, "Address or name of a database.")

// databases returns the daemon's databases. The context is that of the request,
// and is done when the daemon stops. An error says what to do.
func databases(req *cmds.Request, env cmds.Environment) (context.Context, *orbit.Orbit, error) {
	d, err := daemonOf(env)
	if err != nil {
		return nil, nil, err
	}
	o, err := d.Orbit()
	if err != nil {
		return nil, nil, dbError(err, "")
	}
	return d.UntilClosed(req.Context), o, nil
}

// database returns the database that the first argument names.
func database(req *cmds.Request, env cmds.Environment) (context.Context, *orbit.Database, error) {
	ctx, o, err := databases(req, env)
	if err != nil {
		return nil, nil, err
	}
	db, err := o.Find(ctx, req.Arguments[0])
	return ctx, db, dbError(err, req.Arguments[0])
}

// dbError adds the next step to an error about the database that an argument
// names.
func dbError(err error, arg string) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, orbit.ErrClosed), errors.Is(err, replicate.ErrClosed):
		return daemon.ErrStopping
	case errors.Is(err, orbit.ErrUnknown) && strings.HasPrefix(arg, "/"):
		hint = "ipfs npp db ls shows the databases on this daemon, and ipfs npp db open " + hintArg(arg) + " fetches it"
	case errors.Is(err, orbit.ErrUnknown), errors.Is(err, orbit.ErrDropped):
		hint = "ipfs npp db ls shows the databases on this daemon"
	case errors.Is(err, orbit.ErrAmbiguous):
		hint = "use one of these addresses"
	case errors.Is(err, orbit.ErrLegacyAddress):
		hint = "npp cannot open such a database; create it again with OrbitDB 1.0 or later"
	case errors.Is(err, orbit.ErrInvalidAddress):
		hint = "ipfs npp db ls shows addresses and names"
	case errors.Is(err, orbit.ErrDamaged), errors.Is(err, orbit.ErrDamagedBlock):
		hint = "ipfs npp db rebuild " + hintArg(arg)
	case errors.Is(err, orbit.ErrNotAllowed):
		hint = "ipfs npp db info " + hintArg(arg) + " shows who may write"
	case errors.Is(err, orbit.ErrUnavailable):
		hint = "connect to a peer that has it: ipfs npp connect <peer>"
	case errors.Is(err, orbit.ErrInUse):
		hint = "close or drop that database; this one is closed or dropped with it"
	case errors.Is(err, replicate.ErrNotReplicated):
		hint = "ipfs npp db open " + hintArg(arg)
	case errors.Is(err, orbit.ErrEncrypted):
		hint = "--" + plainOption + " writes it anyway"
	case errors.As(err, new(*orbit.AccessTypeError)):
		hint = "npp opens databases with the access controllers of @orbitdb/core, ipfs and orbitdb"
	case errors.Is(err, replicate.ErrFailed) && errors.Is(err, orbit.ErrType):
		hint = "ipfs npp db open " + hintArg(arg) + " --" + typeOption + " with the type in its manifest"
	case errors.Is(err, replicate.ErrFailed):
		hint = "check the address: it is not the address of a database"
	case errors.Is(err, space.ErrFull):
		hint = daemon.SpaceAdvice
	case errors.Is(err, orbit.ErrQuotaFull), errors.Is(err, orbit.ErrPeerQuotaFull):
		hint = daemon.QuotaAdvice
	case errors.Is(err, entry.ErrTooLarge):
		hint = "add it to IPFS (ipfs add) and put its CID"
	case errors.Is(err, where.ErrInvalid):
		hint = "ipfs npp db query --help has examples"
	case errors.Is(err, store.ErrNotDurable):
		hint = diskHint
	default:
		return err
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}

// valueJSON returns a value as JSON, or nil if there is no value.
func valueJSON(v value.Value) json.RawMessage {
	if v == nil {
		return nil
	}
	b, err := v.MarshalJSON()
	if err != nil { // unreachable: such a value was refused when it arrived
		return json.RawMessage(strconv.AppendQuote(nil, err.Error()))
	}
	return b
}

// listLine is a line of `npp db ls`.
type listLine struct {
	Address      string `json:"address"`
	Name         string `json:"name"`
	Type         string `json:"type"`                   // as it is open
	ManifestType string `json:"manifestType,omitempty"` // the type in the manifest, if it differs
	State        string `json:"state,omitempty"`        // of the replication: "open", "closed", "fetching", "failed", "encrypted" or "full"
	Full         string `json:"full,omitempty"`         // why entries of others are refused, if a quota is used up
	IndexBy      string `json:"indexBy,omitempty"`
	Entries      uint64 `json:"entries"`
	Keys         uint64 `json:"keys"`               // of documents and keyvalue
	AccessOf     string `json:"accessOf,omitempty"` // address of the database whose access database this is
	Error        string `json:"error,omitempty"`    // why it cannot be opened
}

// otherType returns the type in a manifest, or "" if the database is open as
// that type.
func otherType(kind, manifest string) string {
	if kind == manifest {
		return ""
	}
	return safeType(manifest)
}

// safeType returns the type that the creator of a database chose, except
// "error": clients take a line with that type for an error.
func safeType(kind string) string {
	if kind == "error" {
		return "unknown"
	}
	return kind
}

var dbLsCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the databases on this daemon.",
		ShortDescription: `
Prints the address, type, number of entries, state and name of each database.

  > ipfs npp db ls
  /orbitdb/zdpuAsb…  documents      12  open       pieces
  /orbitdb/zdpuAz7…  keyvalue        4  closed     user

The states:

  open       replicated with all peers that have it open
  full       open, but its quota is used up: entries of others are refused
  encrypted  open, but apps encrypt it as a whole: it cannot be read here
  closed     not replicated
  fetching   not here yet
  failed     cannot be opened

The reason is printed below a database that is full or failed.
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		l, err := listerOf(req, env)
		if err != nil {
			return err
		}
		pending := make(map[string]bool) // databases that are fetched
		if l.replicator != nil {
			for _, address := range l.replicator.Fetching() {
				pending[address] = true
			}
		}
		for d, err := range l.orbit.Databases(l.ctx) {
			if err != nil {
				return dbError(err, "")
			}
			delete(pending, d.Address)
			if err := res.Emit(l.line(d)); err != nil {
				return err
			}
		}
		for _, address := range slices.Sorted(maps.Keys(pending)) {
			line := l.pendingLine(address)
			if line == nil {
				continue
			}
			if err := res.Emit(line); err != nil {
				return err
			}
		}
		return nil
	},
	Type:     listLine{},
	Encoders: encodeText((*listLine).text),
}

func (l *listLine) text() string {
	text := fmt.Sprintf("%s  %-9s  %6d  %-9s  %s", l.Address, printable(cmp.Or(l.Type, "?")), l.Entries, cmp.Or(l.State, "?"), printable(cmp.Or(l.Name, "?")))
	if l.AccessOf != "" {
		text += "  (access list of " + l.AccessOf + ")"
	}
	if l.ManifestType != "" {
		text += "  (its manifest says " + printable(l.ManifestType) + ")"
	}
	for _, why := range []string{l.Full, l.Error} {
		if why != "" {
			text += "\n  " + printable(why)
		}
	}
	return text + "\n"
}

// lister makes the lines of `npp db ls`. It opens no database.
type lister struct {
	ctx        context.Context
	orbit      *orbit.Orbit
	replicator *replicate.Replicator // nil if nothing is replicated
}

func listerOf(req *cmds.Request, env cmds.Environment) (l lister, err error) {
	if l.ctx, l.orbit, err = databases(req, env); err != nil {
		return l, err
	}
	d, err := daemonOf(env)
	if err != nil {
		return l, err
	}
	l.replicator, _ = d.Replicator() // the databases are here without it
	return l, nil
}

// line describes a database of the catalog.
func (l lister) line(d orbit.DatabaseInfo) *listLine {
	line := &listLine{Address: d.Address, Name: d.Name, Type: safeType(d.Type), ManifestType: otherType(d.Type, d.ManifestType), IndexBy: d.IndexBy}
	g, err := l.orbit.Glance(l.ctx, d.Address)
	line.Entries, line.Keys, line.AccessOf = g.Entries, g.Keys, g.AccessOf
	var s replicate.Status
	if l.replicator != nil {
		s = l.replicator.StateOf(l.ctx, d.Address)
	}
	if err == nil && s.State == replicate.Failed {
		err = s.Err
	}
	if err != nil {
		line.State, line.Error = string(replicate.Failed), dbError(err, d.Address).Error()
		return line
	}
	if line.State = stateOf(s); line.State == fullState {
		line.Full = s.Full.Error()
	}
	return line
}

// pendingLine describes a database that is not in the catalog, or returns nil if
// it arrived or was dropped meanwhile.
func (l lister) pendingLine(address string) *listLine {
	s := l.replicator.StateOf(l.ctx, address)
	if s.State != replicate.Fetching && s.State != replicate.Failed {
		return nil
	}
	line := &listLine{Address: address, State: string(s.State)}
	if s.Err != nil {
		line.Error = s.Err.Error()
	}
	return line
}

// infoLine is the output of `npp db info`.
type infoLine struct {
	Address      string          `json:"address"`
	Name         string          `json:"name"`
	Type         string          `json:"type"`                   // as it is open
	ManifestType string          `json:"manifestType,omitempty"` // the type in the manifest, if it differs
	IndexBy      string          `json:"indexBy,omitempty"`
	Meta         json.RawMessage `json:"meta,omitempty"`
	Access       accessLine      `json:"access"`
	Writable     bool            `json:"writable"`            // by this daemon
	Encrypted    bool            `json:"encrypted,omitempty"` // apps encrypt the values, so this daemon writes plain ones with --plain only
	Entries      uint64          `json:"entries"`             // authorized ones
	Keys         uint64          `json:"keys"`                // of documents and keyvalue
	Unauthorized uint64          `json:"faults"`              // entries of the log that are not authorized
	Pending      uint64          `json:"waiting"`             // pending entries
	Missing      []string        `json:"missing,omitempty"`   // at most 1000 missing hashes
	MissingCount uint64          `json:"lacking,omitempty"`   // missing hashes
	Stored       storedLine      `json:"stored"`
	Heads        []string        `json:"heads"`
	Clock        float64         `json:"clock"` // largest time of the heads
	Last         uint64          `json:"last"`  // number of the entry that arrived last
	statusLine
}

// storedLine is the space that a database takes, in bytes of blocks.
type storedLine struct {
	Bytes          uint64 `json:"bytes"`
	PendingBytes   uint64 `json:"waitingBytes"`             // of pending entries, approximately
	MaxBytes       uint64 `json:"maxBytes,omitempty"`       // the quota for both; none if only this daemon may write
	CompanionBytes uint64 `json:"companionBytes,omitempty"` // of all databases of the companion that owns it; MaxBytes is the quota for these
}

func newStoredLine(u orbit.Usage) storedLine {
	l := storedLine{Bytes: u.Entries, PendingBytes: u.Pending, CompanionBytes: u.Grouped}
	if u.Limited && u.Quota < math.MaxUint64 {
		l.MaxBytes = u.Quota
	}
	return l
}

func (l storedLine) text() string {
	text := size(l.Bytes + l.PendingBytes)
	switch {
	case l.CompanionBytes > 0:
		return text + fmt.Sprintf("; all databases of the companion take %s of %s", size(l.CompanionBytes), size(l.MaxBytes))
	case l.MaxBytes > 0:
		return text + " of " + size(l.MaxBytes)
	}
	return text + ", no quota"
}

// accessLine says who may write.
type accessLine struct {
	Type         string              `json:"type"` // "ipfs" or "orbitdb"
	Address      string              `json:"address"`
	Capabilities map[string][]string `json:"capabilities"` // IDs of identities, by "write" and "admin"
}

var dbInfoCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show details of a database.",
		ShortDescription: `
Prints what the database is, who may write to it, what it contains, and how
far it is replicated.

  > ipfs npp db info pieces
  address   /orbitdb/zdpuAsb…
  name      pieces
  type      documents, indexed by hash
  access    ipfs, /ipfs/zdpuAzF…
  write     03f5a7…
  writable  yes
  entries   12, keys 11, unauthorized 0, pending 0
  stored    16.9 KiB, no quota
  head      zdpuB2g…
  clock     12, last 12
  state     open
  peer      12D3KooW… open, in sync 12s ago

Unauthorized entries do not affect the content: they are invalid, or their
writers are not on the access list. Pending entries need earlier entries,
which are listed as "missing" unless they are being fetched. The heads are the
newest entries, "clock" is their largest time, and "last" is the number of the
entry that arrived last, for 'ipfs npp db log --since'.

"stored" is the space that the database takes of its quota. "values" says that
apps encrypt the values (encryption.data). 'ipfs npp db ls --help' explains
the states. While a database is being fetched, only its state is known.

In JSON, unauthorized entries are "faults" and pending entries are "waiting".
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		arg := req.Arguments[0]
		db, err := o.Find(ctx, arg)
		if errors.Is(err, orbit.ErrUnknown) && strings.HasPrefix(arg, "/") {
			l := &infoLine{Address: arg, Heads: []string{}}
			if statusErr := addStatus(req, env, l); statusErr == nil && l.notFetched() {
				return res.Emit(l)
			}
			db, err = o.Find(ctx, arg) // it may have arrived by now
		}
		if err != nil {
			return dbError(err, arg)
		}
		l, err := infoOf(ctx, o, db)
		if err == nil {
			err = addStatus(req, env, l)
		}
		if err == nil && l.Pending > 0 && l.Asking == 0 {
			l.Missing, err = db.Missing(ctx)
		}
		if err != nil {
			return dbError(err, arg)
		}
		return res.Emit(l)
	},
	Type:     infoLine{},
	Encoders: encodeText((*infoLine).text),
}

func infoOf(ctx context.Context, o *orbit.Orbit, db *orbit.Database) (*infoLine, error) {
	l := &infoLine{
		Address: db.Address(),
		Name:    db.Name(),
		Type:    safeType(db.Type()),
		IndexBy: db.IndexBy(),
		Meta:    valueJSON(db.Meta()),
		Access:  accessLine{Type: db.Access().Type(), Address: db.Access().Address()},
		Heads:   []string{},

		ManifestType: otherType(db.Type(), db.ManifestType()),
	}
	s, err := db.Stats(ctx)
	if err != nil {
		return nil, err
	}
	l.Entries, l.Keys, l.Unauthorized, l.Pending = s.Entries, s.Keys, s.Unauthorized, s.Pending
	l.Clock, l.Last, l.MissingCount, l.Stored = s.Clock, s.Last, s.Missing, newStoredLine(db.Usage())
	l.Heads = append(l.Heads, s.Heads...)
	if l.Access.Capabilities, err = db.Access().Capabilities(ctx); err != nil {
		return nil, err
	}
	if l.Writable, err = db.Writable(ctx); err != nil {
		return nil, err
	}
	l.Encrypted, err = db.Encrypted(ctx)
	return l, err
}

// addStatus sets the state of the replication, or the reason why there is none.
func addStatus(req *cmds.Request, env cmds.Environment, l *infoLine) error {
	r, err := replicationOf(req, env)
	if err != nil {
		l.statusLine = statusLine{Error: err.Error(), Peers: []dbPeerLine{}}
		return nil
	}
	s, err := r.Status(r.ctx, l.Address)
	if err != nil {
		return err
	}
	l.statusLine = newStatusLine(s, r.connectedPeers())
	if l.notFetched() {
		for _, m := range s.Missing {
			l.Missing = append(l.Missing, m.Hash)
		}
	}
	return nil
}

// notFetched reports whether the database is not here yet.
func (l *infoLine) notFetched() bool {
	return l.State == string(replicate.Fetching) || l.State == string(replicate.Failed)
}

func (l *infoLine) text() string {
	t := table{width: 8}
	t.row("address", l.Address)
	if l.notFetched() {
		l.addStatusText(&t)
		return t.String()
	}
	t.row("name", l.Name)
	kind := l.Type
	if l.IndexBy != "" {
		kind += ", indexed by " + l.IndexBy
	}
	if l.ManifestType != "" {
		kind += "; its manifest says " + l.ManifestType
	}
	t.row("type", kind)
	t.optional("meta", jsonText(l.Meta))
	t.row("access", l.Access.Type+", "+l.Access.Address)
	for _, c := range slices.Sorted(maps.Keys(l.Access.Capabilities)) {
		for _, id := range l.Access.Capabilities[c] {
			t.row(c, id)
		}
	}
	writable := "yes"
	if !l.Writable {
		writable = "no"
	}
	t.row("writable", writable)
	if l.Encrypted {
		t.row("values", "encrypted by the apps that write them")
	}
	entries := fmt.Sprintf("%d, keys %d, unauthorized %d, pending %d", l.Entries, l.Keys, l.Unauthorized, l.Pending)
	if l.MissingCount > 0 {
		entries += " for " + quantity(l.MissingCount, "other", "others")
	}
	t.row("entries", entries)
	t.row("stored", l.Stored.text())
	t.rows("head", len(l.Heads), func(i int) string { return l.Heads[i] })
	t.row("clock", fmt.Sprintf("%s, last %d", clockText(l.Clock), l.Last))
	l.addStatusText(&t)
	return t.String()
}

// addStatusText adds the state of the replication, and what is missing.
func (l *infoLine) addStatusText(t *table) {
	t.row("state", cmp.Or(l.State, "?"))
	t.optional("full", l.Full)
	if l.GaveUp {
		t.row("deleted", "some pending entries, for lack of space; they are requested again")
	}
	t.optional("error", l.Error)
	requested := make(map[string]string)
	for _, m := range l.MissingBlocks {
		requested[m.Hash] = "  " + m.text()
	}
	missing := len(l.Missing)
	if missing > maxRows { // the list may be incomplete
		missing = max(missing, int(l.MissingCount))
	}
	t.rows("missing", missing, func(i int) string { return l.Missing[i] + requested[l.Missing[i]] })
	t.rows("refused", len(l.Refused), func(i int) string {
		r := l.Refused[len(l.Refused)-1-i] // newest first
		return r.Hash + "  " + r.Error
	})
	t.rows("peer", len(l.Peers), func(i int) string {
		p := &l.Peers[i]
		return fmt.Sprintf("%s %s, in sync %s", p.Peer, p.openText(), ago(p.InStep))
	})
}

// createLine is the output of `npp db create`.
type createLine struct {
	Address string `json:"address"`
}

var dbCreateCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Create a database.",
		ShortDescription: `
Creates a database and prints its address. The same name, type, writers and
meta make the same database on every peer, so creating it again only opens it.

  > ipfs npp db create rehearsals
  /orbitdb/zdpuAt3…
  > ipfs npp db create scores --type documents --index-by hash

Only this daemon may write, unless '--write' names other identities ('ipfs npp
id' shows them) or everybody: '*'. With '--managed', these are the admins, who
can grant and revoke the right to write later.

  > ipfs npp db create band --type keyvalue --write 03f5a7… --write 02c1b2…
  > ipfs npp db create setlist --type documents --managed
  > ipfs npp db create guestbook --write '*' --meta '{"about":"our visitors"}'
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("name", true, false, "Name of the database."),
	},
	Options: []cmds.Option{
		cmds.StringOption(typeOption, "documents, keyvalue or events.").WithDefault(orbit.TypeEvents),
		cmds.StringOption(indexByOption, "Field that contains the key of a document; default: _id."),
		cmds.StringsOption(writeOption, "Identity that may write, or '*' for everybody; repeatable."),
		cmds.BoolOption(managedOption, "Let admins grant and revoke the right to write."),
		cmds.StringOption(metaOption, "JSON to store with the database; part of its address."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		opts := orbit.Options{Access: orbit.Access{Managed: isSet(req, managedOption)}}
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
	Type:     createLine{},
	Encoders: encodeText(func(l *createLine) string { return l.Address + "\n" }),
}

// rebuildLine is the output of `npp db rebuild`.
type rebuildLine struct {
	Address      string     `json:"address"`
	Entries      uint64     `json:"entries"`
	Unauthorized uint64     `json:"faults"`
	Lost         []lostLine `json:"lost"`
}

// lostLine is an entry that could not be read.
type lostLine struct {
	Number uint64 `json:"number"`
	Hash   string `json:"hash,omitempty"` // if known
}

var dbRebuildCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Rebuild the index of a damaged database.",
		ShortDescription: `
Reads all entries of the database and rebuilds everything that is derived from
them. Entries that cannot be read are listed and left out; a peer that has
them sends them again. If the command is interrupted, run it again.

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
		arg := req.Arguments[0]
		l := &rebuildLine{Lost: []lostLine{}}
		if l.Address, err = o.Resolve(ctx, arg); err != nil {
			return dbError(err, arg)
		}
		lost, err := o.Rebuild(ctx, l.Address)
		if err != nil {
			return dbError(err, arg)
		}
		for _, e := range lost {
			l.Lost = append(l.Lost, lostLine{e.Number, e.Hash})
		}
		db, err := o.Find(ctx, l.Address)
		if err != nil {
			return dbError(err, arg)
		}
		s, err := db.Stats(ctx)
		if err != nil {
			return dbError(err, arg)
		}
		l.Entries, l.Unauthorized = s.Entries, s.Unauthorized
		return res.Emit(l)
	},
	Type:     rebuildLine{},
	Encoders: encodeText((*rebuildLine).text),
}

func (l *rebuildLine) text() string {
	text := fmt.Sprintf("rebuilt %s: %s, %d lost\n", l.Address, quantity(l.Entries, "entry", "entries"), len(l.Lost))
	for _, e := range l.Lost {
		text += fmt.Sprintf("lost %d %s\n", e.Number, printable(e.Hash))
	}
	return text
}
