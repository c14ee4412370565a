package commands

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/swarm"
)

const (
	waitOption  = "wait"
	forceOption = "force"
)

// replication is the daemon's databases and their replicator.
type replication struct {
	*replicate.Replicator
	ctx    context.Context // the request's; done when the daemon stops
	daemon *daemon.Daemon
	orbit  *orbit.Orbit
}

func replicationOf(req *cmds.Request, env cmds.Environment) (r replication, err error) {
	if r.daemon, err = daemonOf(env); err != nil {
		return r, err
	}
	if r.ctx, r.orbit, err = databases(req, env); err != nil {
		return r, err
	}
	if r.Replicator, err = r.daemon.Replicator(); err != nil {
		err = fmt.Errorf("databases are not replicated: %w; hint: fix that and restart the daemon", err)
	}
	return r, err
}

// address returns the address of the database that an argument names. A
// database that is named by its address may be unknown here.
func (r replication) address(arg string) (string, error) {
	if strings.HasPrefix(arg, "/") {
		_, err := orbit.ParseAddress(arg)
		return arg, err
	}
	return r.orbit.Resolve(r.ctx, arg)
}

// knownAddress is address for a database that is here or being fetched. If it
// is here, it is opened.
func (r replication) knownAddress(arg string) (string, error) {
	address, err := r.address(arg)
	if err != nil {
		return "", err
	}
	if _, err := r.Status(r.ctx, address); err != nil {
		return "", err
	}
	_, err = r.orbit.Find(r.ctx, address)
	if errors.Is(err, orbit.ErrUnknown) {
		err = nil // it is being fetched
	}
	return address, err
}

// runOn returns the Run function of a command on a database. It calls run with
// the address that resolve returns for the first argument, and adds the next
// step to errors.
func runOn(
	resolve func(r replication, arg string) (address string, err error),
	run func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error,
) func(*cmds.Request, cmds.ResponseEmitter, cmds.Environment) error {
	return func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		r, err := replicationOf(req, env)
		if err != nil {
			return err
		}
		arg := req.Arguments[0]
		address, err := resolve(r, arg)
		if err == nil {
			err = run(r, address, req, res)
		}
		return dbError(err, arg)
	}
}

// connectedPeers returns the connected peers by ID.
func (r replication) connectedPeers() map[peer.ID]swarm.Peer {
	peers := make(map[peer.ID]swarm.Peer)
	for _, p := range r.daemon.Swarm.Peers() {
		peers[p.ID] = p
	}
	return peers
}

// statusLine is the state of a database's replication, a part of several lines.
type statusLine struct {
	State         string        `json:"state"`              // "open", "closed", "fetching", "failed", "encrypted" or "full"
	Error         string        `json:"error,omitempty"`    // why it failed
	Full          string        `json:"full,omitempty"`     // why entries of other peers are refused
	GaveUp        bool          `json:"gaveUp,omitempty"`   // pending entries were abandoned; they are requested again
	Asking        int           `json:"asking"`             // blocks that are being requested
	Transfer      *transferLine `json:"shipment,omitempty"` // in progress
	MissingBlocks []missingLine `json:"missingBlocks,omitempty"`
	Refused       []refusedLine `json:"refused,omitempty"` // newest last
	Peers         []dbPeerLine  `json:"peers"`             // that have it open, or had
}

// transferLine is a transfer of entries from another daemon.
type transferLine struct {
	Peer string `json:"peer"`
	Got  uint64 `json:"got"` // new entries that arrived
	Of   uint64 `json:"of"`  // entries that the peer announced
}

// missingLine is a block that no peer has sent yet.
type missingLine struct {
	Hash  string    `json:"hash"`
	Since time.Time `json:"since"` // the first request
	Tries int       `json:"tries"`
	Asked []string  `json:"asked"`           // peers that the last request went to
	Error string    `json:"error,omitempty"` // why a block that arrived was not usable
}

// refusedLine is a refusal.
type refusedLine struct {
	Hash  string    `json:"hash"`
	At    time.Time `json:"at"`
	From  []string  `json:"from"` // peers that have the entry, or may have it
	Error string    `json:"error"`
}

// dbPeerLine is a peer that has a database open, or had it open.
type dbPeerLine struct {
	Database  string     `json:"database,omitempty"` // only with `npp db peers` of all databases
	Peer      string     `json:"peer"`
	Open      bool       `json:"open"` // it is connected and has the database open
	Connected bool       `json:"connected"`
	Relayed   bool       `json:"relayed"` // there is no direct connection
	Agent     string     `json:"agent,omitempty"`
	Exchanged *time.Time `json:"exchanged,omitempty"` // the last heads exchange
	InStep    *time.Time `json:"inStep,omitempty"`    // when it was in sync last
	Compared  string     `json:"compared,omitempty"`  // by what: "state", "heads" (a JavaScript peer), or "not comparable"
	Heads     int        `json:"heads"`               // its heads at the last exchange
	Error     string     `json:"error,omitempty"`     // of the last exchange
}

const (
	// encryptedState is the state of an open database that apps encrypt as a
	// whole, so that this daemon cannot read it.
	encryptedState = "encrypted"

	// fullState is the state of an open database whose quota is used up.
	fullState = "full"
)

// stateOf returns the state of a database's replication in a word.
func stateOf(s replicate.Status) string {
	switch {
	case s.Encrypted:
		return encryptedState
	case s.State == replicate.Open && errors.Is(s.Full, orbit.ErrQuotaFull):
		return fullState
	}
	return string(s.State)
}

func newStatusLine(s replicate.Status, connected map[peer.ID]swarm.Peer) statusLine {
	l := statusLine{State: stateOf(s), GaveUp: s.Abandoned, Asking: s.Asking, Peers: []dbPeerLine{}}
	if s.Err != nil {
		l.Error = s.Err.Error()
	}
	if s.Full != nil {
		l.Full = s.Full.Error()
	}
	if ship := s.Transfer; ship != nil {
		l.Transfer = &transferLine{ship.From.String(), ship.Got, ship.Of}
	}
	for _, m := range s.Missing {
		block := missingLine{Hash: m.Hash, Since: m.Since, Tries: m.Tries, Asked: peerIDs(m.Asked)}
		if m.Err != nil {
			block.Error = m.Err.Error()
		}
		l.MissingBlocks = append(l.MissingBlocks, block)
	}
	for _, r := range s.Refused {
		l.Refused = append(l.Refused, refusedLine{r.Hash, r.At, peerIDs(r.From), r.Err.Error()})
	}
	for _, p := range s.Peers {
		l.Peers = append(l.Peers, newDBPeerLine(p, connected))
	}
	return l
}

func newDBPeerLine(p replicate.Peer, connected map[peer.ID]swarm.Peer) dbPeerLine {
	here, ok := connected[p.ID]
	l := dbPeerLine{Peer: p.ID.String(), Open: p.Open, Connected: ok, Relayed: here.Relayed, Agent: here.Agent,
		Exchanged: optionalTime(p.Exchanged), InStep: optionalTime(p.InSync), Compared: string(p.By), Heads: p.Heads}
	if p.Err != nil {
		l.Error = p.Err.Error()
	}
	return l
}

func peerIDs(peers []peer.ID) []string {
	texts := []string{}
	for _, p := range peers {
		texts = append(texts, p.String())
	}
	return texts
}

// openPeers returns the number of peers that have the database open.
func (l *statusLine) openPeers() (n int) {
	for _, p := range l.Peers {
		if p.Open {
			n++
		}
	}
	return n
}

// text says how a block was requested.
func (l *missingLine) text() string {
	text := "requested for " + since(l.Since)
	if l.Tries > 0 {
		text += ", without success " + quantity(l.Tries, "time", "times")
	}
	if len(l.Asked) > 0 {
		text += ", last from " + firstOf(l.Asked, 3)
	}
	if l.Error != "" {
		text += ": " + printable(l.Error)
	}
	return text
}

// openText says whether the peer has the database open, or is gone.
func (l *dbPeerLine) openText() string {
	if l.Open {
		return "open"
	}
	return "gone"
}

func (l *dbPeerLine) text() string {
	connection := "-"
	switch {
	case l.Relayed:
		connection = "relayed"
	case l.Connected:
		connection = "direct"
	}
	text := fmt.Sprintf("%-52s  %s  %-7s  exchanged %s  in sync %s", l.Peer, l.openText(), connection, ago(l.Exchanged), ago(l.InStep))
	for _, more := range []string{l.Agent, l.Error} {
		if more != "" {
			text += "  " + printable(more)
		}
	}
	if l.Database != "" {
		text = l.Database + "  " + text
	}
	return text + "\n"
}

// openLine is the output of `npp db open`; with --wait, a line for each change.
type openLine struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"` // if it is here
	Entries uint64 `json:"entries"`
	Pending uint64 `json:"waiting"` // pending entries
	Settled bool   `json:"settled"` // with --wait: it is in sync with a peer
	statusLine
}

var dbOpenCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Replicate a database from now on.",
		ShortDescription: `
Keeps the database in sync with all peers that have it open, across restarts,
until 'ipfs npp db close' or 'ipfs npp db drop'. A database that is not here
yet is fetched in the background: the command returns at once and prints the
progress. To open a database that was closed, its name is enough.

  > ipfs npp db open /orbitdb/zdpuAsb…
  open /orbitdb/zdpuAsb… pieces: 12 entries, 0 pending, open at 1 peer

'--wait' waits until the database is in sync with a connected peer, and prints
the progress to standard error. Over HTTP, there is a line for each change.

  > ipfs npp db open /orbitdb/zdpuAsb… --wait --timeout 1m

'--type' overrides the type in the manifest. It is for databases of JavaScript
apps that were created without a type: their manifest says "events", whatever
they contain. The type is remembered.

  > ipfs npp db open /orbitdb/zdpuAsb… --type documents --index-by hash
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(typeOption, "documents, keyvalue or events; default: the type of last time, or else of the manifest."),
		cmds.StringOption(indexByOption, "Field that contains the key of a document; default: that of last time."),
		cmds.BoolOption(waitOption, "Wait until it is in sync with a peer."),
	},
	Run: runOn(replication.address, func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		opts, err := openOptions(req)
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := r.Open(r.ctx, address, opts); err != nil {
			return err
		}
		if err := r.checkIndex(address, opts); err != nil {
			return err
		}
		if lib, err := r.daemon.Library(); err == nil {
			if err := lib.MarkManual(r.ctx, address); err != nil {
				return err
			}
		}
		if isSet(req, waitOption) {
			return r.wait(address, begin, res.Emit)
		}
		s, err := r.statusAfterOpen(address)
		if err != nil {
			return err
		}
		l, err := r.openLine(s)
		if err != nil {
			return err
		}
		return res.Emit(l)
	}),
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		req, shown := res.Request(), &progressLines{w: os.Stderr}
		waiting := ""
		err := forward(res, re, func(line any) bool {
			l, ok := line.(*openLine)
			if !ok || l.Settled || !isSet(req, waitOption) {
				return false
			}
			waiting = l.Address
			shown.show(l.State + ": " + l.progress())
			return true
		})
		if err != nil && waiting != "" && req.Context.Err() != nil {
			return notSettled(waiting)
		}
		return err
	}},
	Type:     openLine{},
	Encoders: encodeText((*openLine).text),
}

// openOptions reads --type and --index-by.
func openOptions(req *cmds.Request) (opts orbit.OpenOptions, err error) {
	var given bool
	opts.IndexBy, _ = req.Options[indexByOption].(string)
	opts.Type, given = req.Options[typeOption].(string)
	kinds := []string{orbit.TypeDocuments, orbit.TypeKeyValue, orbit.TypeEvents}
	switch {
	case given && !slices.Contains(kinds, opts.Type):
		err = fmt.Errorf("--%s is %.40q, but must be %s, %s or %s", typeOption, opts.Type, kinds[0], kinds[1], kinds[2])
	case given && opts.IndexBy != "" && opts.Type != orbit.TypeDocuments:
		err = fmt.Errorf("--%s works only for %s, not for %s", indexByOption, orbit.TypeDocuments, opts.Type)
	}
	return opts, err
}

// checkIndex returns an error if --index-by is given for a database that is
// here and does not contain documents.
func (r replication) checkIndex(address string, opts orbit.OpenOptions) error {
	if opts.IndexBy == "" {
		return nil
	}
	db, err := r.orbit.Find(r.ctx, address)
	if err != nil || db.IndexBy() != "" {
		return nil // it is not here yet, so it may contain documents
	}
	return fmt.Errorf("%s is open with the type %s, which has no field for the key; hint: --%s %s if an app keeps documents in it", address, db.Type(), typeOption, orbit.TypeDocuments)
}

// statusAfterOpen returns the status of a database that was just opened. If it
// has to be fetched, statusAfterOpen waits, a second at most, until it is known
// what is missing.
func (r replication) statusAfterOpen(address string) (replicate.Status, error) {
	ctx, cancel := context.WithTimeout(r.ctx, time.Second)
	defer cancel()
	for s, err := range r.Follow(ctx, address) {
		if err != nil || s.State != replicate.Fetching || len(s.Missing) > 0 {
			if ctx.Err() != nil && r.ctx.Err() == nil {
				break
			}
			return s, err
		}
	}
	return r.Status(r.ctx, address)
}

// wait emits a line for each change until the database is in sync with a peer.
func (r replication) wait(address string, since time.Time, emit func(any) error) error {
	for s, err := range r.Follow(r.ctx, address) {
		switch {
		case errors.Is(context.Cause(r.ctx), daemon.ErrStopping):
			return daemon.ErrStopping
		case err != nil && r.ctx.Err() != nil:
			return notSettled(address)
		case err != nil:
			return dbError(err, address)
		case s.State == replicate.Failed:
			return dbError(fmt.Errorf("%s %w: %w", address, replicate.ErrFailed, s.Err), address)
		}
		l, err := r.openLine(s)
		if err != nil {
			return dbError(err, address)
		}
		l.Settled = s.Settled(since)
		if err := emit(l); err != nil || l.Settled {
			return err
		}
	}
	return nil
}

func notSettled(address string) error {
	return fmt.Errorf("%s is not in sync with a peer yet; hint: it continues in the background, and ipfs npp db doctor %s says what is in the way", address, address)
}

func (r replication) openLine(s replicate.Status) (*openLine, error) {
	l := &openLine{Address: s.Address, statusLine: newStatusLine(s, r.connectedPeers())}
	if s.State != replicate.Open {
		return l, nil
	}
	db, err := r.orbit.Find(r.ctx, s.Address)
	if err != nil {
		return nil, err
	}
	stats, err := db.Stats(r.ctx)
	l.Name, l.Entries, l.Pending = db.Name(), stats.Entries, stats.Pending
	return l, err
}

// text is the state on a line, and what is missing below it.
func (l *openLine) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", l.State, l.Address)
	if l.Name != "" {
		fmt.Fprintf(&b, " %s", printable(l.Name))
	}
	fmt.Fprintf(&b, ": %s\n", l.progress())
	if l.Error != "" {
		fmt.Fprintf(&b, "  %s\n", printable(l.Error))
	}
	for i, m := range l.MissingBlocks {
		if i == maxRows {
			fmt.Fprintf(&b, "  missing  and %d more\n", len(l.MissingBlocks)-i)
			break
		}
		fmt.Fprintf(&b, "  missing  %s  %s\n", printable(m.Hash), m.text())
	}
	return b.String()
}

// progress returns the progress of the replication.
func (l *openLine) progress() string {
	text := "open at " + quantity(l.openPeers(), "peer", "peers")
	switch l.State {
	case encryptedState:
		text = "no entry can be read, " + text
	case string(replicate.Open), fullState:
		text = fmt.Sprintf("%s, %d pending, %s", quantity(l.Entries, "entry", "entries"), l.Pending, text)
	}
	if t := l.Transfer; t != nil {
		text += fmt.Sprintf(", %d of %d received from %s", t.Got, t.Of, t.Peer)
	}
	if l.Asking > 0 {
		text += ", requesting " + quantity(l.Asking, "block", "blocks")
	}
	if n := len(l.MissingBlocks); n > 0 {
		text += fmt.Sprintf(", %d missing", n)
	}
	if l.Full != "" {
		text += ", nothing is accepted from other peers: " + printable(l.Full)
	}
	return text
}

// closeLine is the output of `npp db close`.
type closeLine struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"` // if it is here
	Here    bool   `json:"here"`           // it is here, and stays
	Entries uint64 `json:"entries"`        // that stay
}

var dbCloseCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Stop replicating a database, and keep it.",
		ShortDescription: `
Ends the replication of the database, across restarts, until 'ipfs npp db
open'. What is here can still be read and written. If nothing of the database
has arrived yet, it is forgotten.

  > ipfs npp db close pieces
  closed /orbitdb/zdpuAsb… pieces: 12 entries stay here
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Run: runOn(replication.knownAddress, func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		l := &closeLine{Address: address}
		var err error
		if l.Name, l.Entries, l.Here, err = r.contents(address); err != nil {
			return err
		}
		if err := r.CloseDatabase(r.ctx, address); err != nil {
			return err
		}
		return res.Emit(l)
	}),
	Type:     closeLine{},
	Encoders: encodeText((*closeLine).text),
}

func (l *closeLine) text() string {
	if !l.Here {
		return fmt.Sprintf("closed %s: nothing of it was here yet\n", l.Address)
	}
	return fmt.Sprintf("closed %s %s: %s here\n", l.Address, printable(l.Name), quantity(l.Entries, "entry stays", "entries stay"))
}

// contents returns what is here of a database, which may be damaged.
func (r replication) contents(address string) (name string, entries uint64, here bool, err error) {
	d, err := r.orbit.Listed(r.ctx, address)
	if errors.Is(err, orbit.ErrUnknown) {
		return "", 0, false, nil
	}
	if err != nil {
		return "", 0, false, err
	}
	g, _ := r.orbit.Glance(r.ctx, address)
	return d.Name, g.Entries, true, nil
}

// dropLine is the output of `npp db drop`: the last line, and before it a line
// per second of progress.
type dropLine struct {
	Address string `json:"address"`
	Dropped bool   `json:"dropped"`           // it is the last line
	Checked int    `json:"checked,omitempty"` // blocks that were checked for pins so far; not in the last line
	Name    string `json:"name,omitempty"`    // if it was here
	Here    bool   `json:"here"`              // it was here
	Entries uint64 `json:"entries"`           // authorized ones
	Kept    int    `json:"kept"`              // blocks that stay because they are pinned
}

var errNoForce = fmt.Errorf("dropping deletes the database from this daemon for good; hint: add --%s (over HTTP: %s=true) if you mean it", forceOption, forceOption)

var dbDropCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Delete a database from this daemon.",
		ShortDescription: `
Ends the replication of the database and deletes what is here of it. Other
peers keep their copies. Blocks that are pinned stay, as with 'ipfs repo gc'.
The four databases of the library cannot be dropped.

The command asks first. In a script, it needs '--force'.

  > ipfs npp db drop guestbook
  drop guestbook (/orbitdb/zdpuAp9…), 31 entries? [y/N] y
  dropped /orbitdb/zdpuAp9… guestbook: 31 entries
  > ipfs npp db drop /orbitdb/zdpuAt3… --force
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options:   []cmds.Option{cmds.BoolOption(forceOption, "f", "Do not ask.")},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if isSet(req, forceOption) || !isTerminal(os.Stdin) {
			return nil
		}
		api, err := apiOf(req, env)
		if err != nil || api == nil {
			return err
		}
		var l infoLine
		err = api.Request(Name+"/db/info", req.Arguments[0]).Exec(req.Context, &l)
		var unreachable *url.Error
		switch {
		case errors.As(err, &unreachable) && req.Context.Err() == nil:
			return nil // Run returns a better error
		case err != nil && !strings.Contains(err.Error(), "damaged"):
			return err
		case err != nil: // a damaged database can be dropped
			l = infoLine{Address: req.Arguments[0], Name: "a damaged database"}
		}
		if !askTerminal(req.Context, dropQuestion(&l)) {
			return errors.New("nothing was dropped")
		}
		req.SetOption(forceOption, true)
		return nil
	},
	Run: runOn(replication.address, func(r replication, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		if _, err := r.Status(r.ctx, address); err != nil {
			return err
		}
		l := &dropLine{Address: address}
		var err error
		if l.Name, l.Entries, l.Here, err = r.contents(address); err != nil {
			return err
		}
		if err := r.checkDrop(address, l.Name); err != nil {
			return err
		}
		if !isSet(req, forceOption) {
			return errNoForce
		}
		saver := r.daemon.NewSaver()
		emitted, checked := time.Now(), 0
		err = r.Drop(r.ctx, address, func(ctx context.Context, bs []block.Block) error {
			if err := saver.Save(ctx, bs); err != nil {
				return err
			}
			checked += len(bs)
			if time.Since(emitted) < time.Second {
				return nil
			}
			emitted = time.Now()
			return res.Emit(&dropLine{Address: address, Name: l.Name, Here: l.Here, Entries: l.Entries, Checked: checked})
		})
		if err != nil {
			return err
		}
		l.Dropped, l.Kept = true, saver.Saved()
		return res.Emit(l)
	}),
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		return forward(res, re, func(line any) bool {
			l, ok := line.(*dropLine)
			if !ok || l.Dropped {
				return false
			}
			fmt.Fprintf(os.Stderr, "%d of about %d blocks checked for pins\n", l.Checked, l.Entries)
			return true
		})
	}},
	Type:     dropLine{},
	Encoders: encodeText((*dropLine).text),
}

func (l *dropLine) text() string {
	if !l.Here {
		return fmt.Sprintf("dropped %s: nothing of it was here yet\n", l.Address)
	}
	text := fmt.Sprintf("dropped %s %s: %s", l.Address, printable(l.Name), quantity(l.Entries, "entry", "entries"))
	if l.Kept > 0 {
		text += "; " + quantity(l.Kept, "block is pinned and stays", "blocks are pinned and stay")
	}
	return text + "\n"
}

// dropQuestion asks whether a database is to be dropped.
func dropQuestion(l *infoLine) string {
	if l.notFetched() {
		return fmt.Sprintf("drop %s, which is not here yet?", printable(l.Address))
	}
	return fmt.Sprintf("drop %s (%s), %s?", printable(l.Name), printable(l.Address), quantity(l.Entries, "entry", "entries"))
}

// checkDrop returns an error for a library database, damaged or not.
func (r replication) checkDrop(address, name string) error {
	lib, err := r.daemon.Library()
	if err != nil {
		return dbError(err, address)
	}
	for _, s := range lib.Databases(r.ctx) {
		if s.DB != nil && s.DB.Address() == address || s.DB == nil && s.Name == name {
			return fmt.Errorf("%s is the daemon's own %q and cannot be dropped; hint: ipfs npp db close %s ends its replication", address, s.Name, s.Name)
		}
	}
	return nil
}

var dbPeersCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the peers that have a database open, or had.",
		ShortDescription: `
Prints a line per peer: whether it has the database open or is gone, how it is
connected, when the two daemons last exchanged their newest entries, when the
peer was last in sync, its software, and the error of the last exchange, if
any. Without an argument, it prints the peers of all databases, each with the
address of the database first.

  > ipfs npp db peers pieces
  12D3KooW…  open  direct   exchanged 12s ago  in sync 12s ago  kubo/0.43.1/…
`,
	},
	Arguments: []cmds.Argument{cmds.StringArg("db", false, false, "Address or name of a database; default: all.")},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		r, err := replicationOf(req, env)
		if err != nil {
			return err
		}
		connected := r.connectedPeers()
		if len(req.Arguments) == 0 {
			for address, peers := range r.Peers(r.ctx) {
				for _, p := range peers {
					l := newDBPeerLine(p, connected)
					l.Database = address
					if err := res.Emit(&l); err != nil {
						return err
					}
				}
			}
			return r.ctx.Err()
		}
		address, err := r.knownAddress(req.Arguments[0])
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		s, err := r.Status(r.ctx, address)
		if err != nil {
			return dbError(err, req.Arguments[0])
		}
		return emitAll(res, slices.Values(s.Peers), func(p replicate.Peer) *dbPeerLine {
			l := newDBPeerLine(p, connected)
			return &l
		})
	},
	Type:     dbPeerLine{},
	Encoders: encodeText((*dbPeerLine).text),
}
