package commands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/ipfs/kubo/client/rpc"
	"github.com/ipfs/kubo/config"
	"github.com/ipfs/kubo/core/commands"
	"github.com/ipfs/kubo/core/commands/cmdenv"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/plugin"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/swarm"
)

const (
	waitOption  = "wait"
	forceOption = "force"
)

// replicated is the daemon's databases with what replicates them.
type replicated struct {
	*replicate.Replicator
	ctx    context.Context // of the request; done when the daemon stops
	daemon *plugin.Daemon
	orbit  *orbit.Orbit
}

func replicatedOf(req *cmds.Request, env cmds.Environment) (r replicated, err error) {
	if r.daemon, err = daemon(env); err != nil {
		return r, err
	}
	if r.ctx, r.orbit, err = databases(req, env); err != nil {
		return r, err
	}
	if r.Replicator, err = r.daemon.Replicator(); err != nil {
		err = fmt.Errorf("databases are not replicated: %w; hint: mend that and restart the daemon", err)
	}
	return r, err
}

// address is that of the database with an address, which may be unknown here, or
// with a name.
func (r replicated) address(called string) (string, error) {
	if strings.HasPrefix(called, "/") {
		_, err := orbit.ParseAddress(called)
		return called, err
	}
	return r.orbit.Resolve(r.ctx, called)
}

// known is like address for a database that is here or being fetched. What is
// here is opened where that is possible.
func (r replicated) known(called string) (string, error) {
	address, err := r.address(called)
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

// about makes a command of run, which gets the address that resolve makes of the
// first argument. The next step is added to its errors.
func about(
	resolve func(r replicated, called string) (address string, err error),
	run func(r replicated, address string, req *cmds.Request, res cmds.ResponseEmitter) error,
) func(*cmds.Request, cmds.ResponseEmitter, cmds.Environment) error {
	return func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		r, err := replicatedOf(req, env)
		if err != nil {
			return err
		}
		called := req.Arguments[0]
		address, err := resolve(r, called)
		if err == nil {
			err = run(r, address, req, res)
		}
		return dbError(err, called)
	}
}

// connected is the connected peers by ID.
func (r replicated) connected() map[peer.ID]swarm.Peer {
	peers := make(map[peer.ID]swarm.Peer)
	for _, p := range r.daemon.Swarm.Peers() {
		peers[p.ID] = p
	}
	return peers
}

// statusLine is what several commands tell of the replication of a database.
type statusLine struct {
	State         string        `json:"state"`             // "open", "closed", "fetching", "failed", "encrypted" or "full"
	Error         string        `json:"error,omitempty"`   // why it failed
	NotLive       string        `json:"notLive,omitempty"` // why its topic is not subscribed to, so that what is new comes late or not at all
	Full          string        `json:"full,omitempty"`    // why nothing is accepted from other peers
	GaveUp        bool          `json:"gaveUp,omitempty"`  // entries that waited were given up for want of room; they are asked for again
	Asking        int           `json:"asking"`            // blocks that are being asked for
	Shipment      *shipmentLine `json:"shipment,omitempty"`
	MissingBlocks []missingLine `json:"missingBlocks,omitempty"`
	Refused       []refusedLine `json:"refused,omitempty"` // entries that were not taken, newest last
	Peers         []dbPeerLine  `json:"peers"`             // that have it open, or had
}

// shipmentLine is entries that another daemon ships at the moment.
type shipmentLine struct {
	Peer string `json:"peer"`
	Got  uint64 `json:"got"` // entries that came and were not here
	Of   uint64 `json:"of"`  // as many as the peer says that there are
}

// missingLine is a block that was asked for in vain.
type missingLine struct {
	Hash  string    `json:"hash"`
	Since time.Time `json:"since"`
	Tries int       `json:"tries"`
	Asked []string  `json:"asked"`           // peers with the database, by the last try
	Error string    `json:"error,omitempty"` // why what came is of no use
}

// refusedLine is an entry that came and was not taken.
type refusedLine struct {
	Hash  string    `json:"hash"`
	At    time.Time `json:"at"`
	From  []string  `json:"from"` // peers that had it, or may have
	Error string    `json:"error"`
}

// dbPeerLine is a peer that has a database open, or had.
type dbPeerLine struct {
	Database  string     `json:"database,omitempty"` // with `npp db peers` alone
	Peer      string     `json:"peer"`
	Open      bool       `json:"open"` // it is connected and has the database open
	Connected bool       `json:"connected"`
	Relayed   bool       `json:"relayed"` // there is no direct connection
	Agent     string     `json:"agent,omitempty"`
	Exchanged *time.Time `json:"exchanged,omitempty"` // when heads were exchanged last
	InStep    *time.Time `json:"inStep,omitempty"`    // when it was in step, last
	Compared  string     `json:"compared,omitempty"`  // by what: "state", "heads" (a JavaScript peer), or "not comparable"
	Heads     int        `json:"heads"`               // that it had
	Error     string     `json:"error,omitempty"`     // of the last exchange
}

// encryptedState is the state of a database that apps encrypt as a whole: it is
// open, and nothing of it can be read.
const encryptedState = "encrypted"

// fullState is the state of a database that is open and takes nothing of others because
// of a quota.
const fullState = "full"

// stateOf is the state of a database's replication in a word.
func stateOf(s replicate.Status) string {
	switch {
	case s.Encrypted:
		return encryptedState
	case s.State == replicate.Open && errors.Is(s.Full, orbit.ErrFull):
		return fullState
	}
	return string(s.State)
}

func newStatusLine(s replicate.Status, connected map[peer.ID]swarm.Peer) statusLine {
	l := statusLine{State: stateOf(s), GaveUp: s.GaveUp, Asking: s.Asking, Peers: []dbPeerLine{}}
	if s.Err != nil {
		l.Error = s.Err.Error()
	}
	if s.NotLive != nil {
		l.NotLive = notLive(s.NotLive)
	}
	if s.Full != nil {
		l.Full = s.Full.Error()
	}
	if ship := s.Shipment; ship != nil {
		l.Shipment = &shipmentLine{ship.From.String(), ship.Got, ship.Of}
	}
	for _, m := range s.Missing {
		block := missingLine{Hash: m.Hash, Since: m.Since, Tries: m.Tries, Asked: peerTexts(m.Asked)}
		if m.Err != nil {
			block.Error = m.Err.Error()
		}
		l.MissingBlocks = append(l.MissingBlocks, block)
	}
	for _, r := range s.Refused {
		l.Refused = append(l.Refused, refusedLine{r.Hash, r.At, peerTexts(r.From), r.Err.Error()})
	}
	for _, p := range s.Peers {
		here, ok := connected[p.ID]
		line := dbPeerLine{Peer: p.ID.String(), Open: p.Open, Connected: ok, Relayed: here.Relayed, Agent: here.Agent,
			Exchanged: timeOf(p.Exchanged), InStep: timeOf(p.InStep), Compared: string(p.By), Heads: p.Heads}
		if p.Err != nil {
			line.Error = p.Err.Error()
		}
		l.Peers = append(l.Peers, line)
	}
	return l
}

// notLive is why a database is not live, and the next step.
func notLive(err error) string {
	if errors.Is(err, router.ErrTooManyTopics) {
		err = fmt.Errorf("%w; hint: %s", err, replicate.FreeTopics)
	}
	return err.Error()
}

func peerTexts(peers []peer.ID) []string {
	texts := []string{}
	for _, p := range peers {
		texts = append(texts, p.String())
	}
	return texts
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// open is the number of peers that have the database open.
func (l *statusLine) open() (n int) {
	for _, p := range l.Peers {
		if p.Open {
			n++
		}
	}
	return n
}

// ago is how long ago something was.
func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return time.Since(*t).Round(time.Second).String() + " ago"
}

// text is what is known of a block behind its hash.
func (l *missingLine) text() string {
	text := fmt.Sprintf("asked for since %s", time.Since(l.Since).Round(time.Second))
	if l.Tries > 0 {
		text += ", in vain " + quantity(l.Tries, "time", "times")
	}
	if len(l.Asked) > 0 {
		text += ", last from " + someTexts(l.Asked)
	}
	if l.Error != "" {
		text += ": " + printable(l.Error)
	}
	return text
}

// someTexts is the first of some texts.
func someTexts(all []string) string {
	const shown = 3
	text := strings.Join(all[:min(len(all), shown)], ", ")
	if more := len(all) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (l *dbPeerLine) text() string {
	open, way := "gone", "-"
	if l.Open {
		open = "open"
	}
	switch {
	case l.Relayed:
		way = "relayed"
	case l.Connected:
		way = "direct"
	}
	text := fmt.Sprintf("%-52s  %s  %-7s  exchanged %s  in step %s", l.Peer, open, way, ago(l.Exchanged), ago(l.InStep))
	if l.Agent != "" {
		text += "  " + printable(l.Agent)
	}
	if l.Error != "" {
		text += "  " + printable(l.Error)
	}
	return text
}

// quantity is [plugin.Quantity].
func quantity[N int | int64 | uint64](n N, one, more string) string {
	return plugin.Quantity(n, one, more)
}

// openLine is the output of `npp db open`; with --wait, one for each change.
type openLine struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"` // if it is here
	Entries uint64 `json:"entries"`
	Waiting uint64 `json:"waiting"` // entries whose parents are not here
	Settled bool   `json:"settled"` // with --wait: it has all that a peer has
	statusLine
}

var dbOpenCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Replicate a database from now on.",
		ShortDescription: `
Keeps the database in step with the peers that have it open, from now on and
over restarts, until 'ipfs npp db close' or 'drop'. One that is not here is
fetched in the background: this returns at once and prints how far it is. A
name does for one that was closed.

  > ipfs npp db open /orbitdb/zdpuAsb…
  open /orbitdb/zdpuAsb… pieces: 12 entries, 0 waiting, 1 peer has it open

'--wait' waits until all that a connected peer has is here, with the progress
on standard error; over the RPC it is a line for each change.

  > ipfs npp db open /orbitdb/zdpuAsb… --wait --timeout 1m

'--type' is for databases whose manifest says events though an app keeps
something else in them, as JavaScript does where the database is made without
a type. It is remembered, and indexes the entries that are here anew.

  > ipfs npp db open /orbitdb/zdpuAsb… --type documents --index-by hash
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(typeOption, "documents, keyvalue or events; what was said last, or the manifest says, if not given."),
		cmds.StringOption(indexByOption, "Field of documents that is their key; what was said last if not given."),
		cmds.BoolOption(waitOption, "Wait until it is in step with a peer."),
	},
	Run: about(replicated.address, func(r replicated, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		opts, err := openOptions(req)
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := r.Open(r.ctx, address, opts); err != nil {
			return err
		}
		if err := r.indexed(address, opts); err != nil {
			return err
		}
		if lib, err := r.daemon.Library(); err == nil {
			if err := lib.Claim(r.ctx, address); err != nil {
				return err
			}
		}
		if on(req, waitOption) {
			return r.wait(address, begin, res.Emit)
		}
		s, err := r.begun(address)
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
		p := &waiting{w: os.Stderr}
		for {
			v, err := res.Next()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil && p.last != nil && res.Request().Context.Err() != nil:
				return notSettled(p.last.Address)
			case err != nil:
				return err
			}
			if l, ok := v.(*openLine); ok && on(res.Request(), waitOption) && !l.Settled {
				p.show(l)
				continue
			}
			if err := re.Emit(v); err != nil {
				return err
			}
		}
	}},
	Type: openLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *openLine) error {
			_, err := io.WriteString(w, l.text())
			return err
		}),
	},
}

// openOptions reads --type and --index-by.
func openOptions(req *cmds.Request) (opts orbit.OpenOptions, err error) {
	var given bool
	opts.IndexBy, _ = req.Options[indexByOption].(string)
	opts.Type, given = req.Options[typeOption].(string)
	kinds := []string{orbit.TypeDocuments, orbit.TypeKeyValue, orbit.TypeEvents}
	switch {
	case given && !slices.Contains(kinds, opts.Type):
		err = fmt.Errorf("--%s is %.40q, must be %s, %s or %s", typeOption, opts.Type, kinds[0], kinds[1], kinds[2])
	case given && opts.IndexBy != "" && opts.Type != orbit.TypeDocuments:
		err = fmt.Errorf("--%s is for %s alone, not for %s", indexByOption, orbit.TypeDocuments, opts.Type)
	}
	return opts, err
}

// indexed returns an error where a database that is here has no field that is
// the key, though one was given.
func (r replicated) indexed(address string, opts orbit.OpenOptions) error {
	if opts.IndexBy == "" {
		return nil
	}
	db, err := r.orbit.Find(r.ctx, address)
	if err != nil || db.IndexBy() != "" {
		return nil // one that is still to come may have one
	}
	return fmt.Errorf("%s is open, and is %s, of which no field is the key; hint: --%s %s if an app keeps those in it", address, db.Type(), typeOption, orbit.TypeDocuments)
}

// begun is the status of a database that was just opened: where it has to be
// fetched, once it is known what is missing, which takes no time.
func (r replicated) begun(address string) (replicate.Status, error) {
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

// wait emits a line for each change until the database has all that a peer has.
func (r replicated) wait(address string, since time.Time, emit func(any) error) error {
	for s, err := range r.Follow(r.ctx, address) {
		switch {
		case errors.Is(context.Cause(r.ctx), plugin.ErrStopping):
			return plugin.ErrStopping
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
	return fmt.Errorf("%s is not in step with a peer yet; hint: it goes on in the background, ipfs npp db doctor %s says what keeps it", address, address)
}

func (r replicated) openLine(s replicate.Status) (*openLine, error) {
	l := &openLine{Address: s.Address, statusLine: newStatusLine(s, r.connected())}
	if s.State != replicate.Open {
		return l, nil
	}
	db, err := r.orbit.Find(r.ctx, s.Address)
	if err != nil {
		return nil, err
	}
	stats, err := db.Stats(r.ctx)
	l.Name, l.Entries, l.Waiting = db.Name(), stats.Entries, stats.Waiting
	return l, err
}

// text is the state on a line, and below it what is missing.
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
	if l.NotLive != "" {
		fmt.Fprintf(&b, "  not live: %s\n", printable(l.NotLive))
	}
	for i, m := range l.MissingBlocks {
		if i == shownHashes {
			fmt.Fprintf(&b, "  missing  and %d more\n", len(l.MissingBlocks)-i)
			break
		}
		fmt.Fprintf(&b, "  missing  %s  %s\n", printable(m.Hash), m.text())
	}
	return b.String()
}

// progress is how far it is.
func (l *openLine) progress() string {
	text := quantity(l.open(), "peer has", "peers have") + " it open"
	switch l.State {
	case encryptedState:
		text = "no entry can be read, " + text
	case string(replicate.Open), fullState:
		text = fmt.Sprintf("%s, %d waiting, %s", quantity(l.Entries, "entry", "entries"), l.Waiting, text)
	}
	if ship := l.Shipment; ship != nil {
		text += fmt.Sprintf(", %d of %d came from %s", ship.Got, ship.Of, ship.Peer)
	}
	if l.Asking > 0 {
		text += fmt.Sprintf(", asking for %s", quantity(l.Asking, "block", "blocks"))
	}
	if n := len(l.MissingBlocks); n > 0 {
		text += fmt.Sprintf(", %d missing", n)
	}
	if l.Full != "" {
		text += ", nothing is accepted from them: " + printable(l.Full)
	}
	return text
}

// waiting shows the progress of --wait, a line a second at most.
type waiting struct {
	w    io.Writer
	last *openLine
	text string
	at   time.Time
}

func (p *waiting) show(l *openLine) {
	p.last = l
	text := l.State + ": " + l.progress()
	if text == p.text || time.Since(p.at) < time.Second {
		return
	}
	p.text, p.at = text, time.Now()
	fmt.Fprintln(p.w, text)
}

// closeLine is the output of `npp db close`.
type closeLine struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"` // if it is here
	Here    bool   `json:"here"`           // there is something that stays
	Entries uint64 `json:"entries"`        // that stay
}

var dbCloseCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Stop replicating a database; what is here stays.",
		ShortDescription: `
Ends the replication of the database, over restarts, until 'ipfs npp db open'.
What is here of it stays and can be read and written. One that was not here
yet is forgotten.

  > ipfs npp db close pieces
  closed /orbitdb/zdpuAsb… pieces: what is here stays, 12 entries
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Run: about(replicated.known, func(r replicated, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		l := &closeLine{Address: address}
		var err error
		if l.Name, l.Entries, l.Here, err = r.what(address); err != nil {
			return err
		}
		if err := r.CloseDatabase(r.ctx, address); err != nil {
			return err
		}
		return res.Emit(l)
	}),
	Type: closeLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *closeLine) error {
			text := fmt.Sprintf("closed %s %s: what is here stays, %s\n", l.Address, printable(l.Name), quantity(l.Entries, "entry", "entries"))
			if !l.Here {
				text = fmt.Sprintf("closed %s: nothing of it was here yet\n", l.Address)
			}
			_, err := io.WriteString(w, text)
			return err
		}),
	},
}

// what says what is here of a database, which may be damaged.
func (r replicated) what(address string) (name string, entries uint64, here bool, err error) {
	for d, err := range r.orbit.Databases(r.ctx) {
		if err != nil {
			return "", 0, false, err
		}
		if d.Address != address {
			continue
		}
		if db, err := r.orbit.Find(r.ctx, address); err == nil {
			if s, err := db.Stats(r.ctx); err == nil {
				entries = s.Entries
			}
		}
		return d.Name, entries, true, nil
	}
	return "", 0, false, nil
}

// dropLine is the output of `npp db drop`: the last line, and before it one for
// each second that it takes.
type dropLine struct {
	Address string `json:"address"`
	Dropped bool   `json:"dropped"`           // it is the last line
	Checked int    `json:"checked,omitempty"` // blocks of which it is known by now whether they are pinned; not in the last line
	Name    string `json:"name,omitempty"`    // if it was here
	Here    bool   `json:"here"`              // there was something to drop
	Entries uint64 `json:"entries"`           // that counted
	Kept    int    `json:"kept"`              // blocks that are pinned and stay
}

var errNoForce = fmt.Errorf("what is dropped cannot be had back from here; hint: say --%s (over the RPC: %s=true) if you mean it", forceOption, forceOption)

var dbDropCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Delete a database from this daemon.",
		ShortDescription: `
Ends the replication of the database and deletes what is here of it. Other
peers keep theirs. Blocks of it that are pinned when it begins stay where
'ipfs repo gc' leaves them. It asks before, or wants '--force' where there is
nobody to ask. The daemon's own databases cannot be dropped.

  > ipfs npp db drop guestbook
  drop guestbook (/orbitdb/zdpuAp9…), 31 entries? [y/N] y
  dropped /orbitdb/zdpuAp9… guestbook: 31 entries
  > ipfs npp db drop /orbitdb/zdpuAt3… --force
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options:   []cmds.Option{cmds.BoolOption(forceOption, "f", "Do not ask.")},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if on(req, forceOption) || !term.IsTerminal(int(os.Stdin.Fd())) {
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
			return nil // it is said what is amiss with the daemon
		case err != nil && !strings.Contains(err.Error(), "damaged"):
			return err
		case err != nil: // it can be dropped all the same
			l = infoLine{Address: req.Arguments[0], Name: "a damaged database"}
		}
		in, stop := stoppable(req.Context, os.Stdin)
		defer stop()
		if !confirmed(in, os.Stderr, &l) {
			return errors.New("nothing is dropped")
		}
		req.SetOption(forceOption, true)
		return nil
	},
	Run: about(replicated.address, func(r replicated, address string, req *cmds.Request, res cmds.ResponseEmitter) error {
		if _, err := r.Status(r.ctx, address); err != nil {
			return err
		}
		l := &dropLine{Address: address}
		var err error
		if l.Name, l.Entries, l.Here, err = r.what(address); err != nil {
			return err
		}
		if err := r.mayDrop(address, l.Name); err != nil {
			return err
		}
		if !on(req, forceOption) {
			return errNoForce
		}
		pinned := r.daemon.Pinned()
		told, checked := time.Now(), 0
		err = r.Drop(r.ctx, address, func(ctx context.Context, bs []block.Block) error {
			if err := pinned.Keep(ctx, bs); err != nil {
				return err
			}
			checked += len(bs)
			if time.Since(told) < time.Second {
				return nil
			}
			told = time.Now()
			return res.Emit(&dropLine{Address: address, Name: l.Name, Here: l.Here, Entries: l.Entries, Checked: checked})
		})
		if err != nil {
			return err
		}
		l.Dropped, l.Kept = true, pinned.Kept()
		return res.Emit(l)
	}),
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		for {
			v, err := res.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if l, ok := v.(*dropLine); ok && !l.Dropped {
				fmt.Fprintf(os.Stderr, "%d of about %d blocks checked for pins\n", l.Checked, l.Entries)
				continue
			}
			if err := re.Emit(v); err != nil {
				return err
			}
		}
	}},
	Type: dropLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *dropLine) error {
			text := fmt.Sprintf("dropped %s %s: %s", l.Address, printable(l.Name), quantity(l.Entries, "entry", "entries"))
			switch {
			case !l.Here:
				text = fmt.Sprintf("dropped %s: nothing of it was here yet", l.Address)
			case l.Kept > 0:
				text += fmt.Sprintf("; %s", quantity(l.Kept, "block is pinned and stays", "blocks are pinned and stay"))
			}
			_, err := fmt.Fprintln(w, text)
			return err
		}),
	},
}

// mayDrop returns an error for the daemon's own stores, damaged or not.
func (r replicated) mayDrop(address, name string) error {
	lib, err := r.daemon.Library()
	if err != nil {
		return dbError(err, address)
	}
	for _, s := range lib.Stores(r.ctx) {
		if s.DB != nil && s.DB.Address() == address || s.DB == nil && s.Name == name {
			return fmt.Errorf("%s is the daemon's own %q and stays; hint: ipfs npp db close %s ends its replication", address, s.Name, s.Name)
		}
	}
	return nil
}

// apiOf is the RPC that the command line talks to, or nil where there is none.
func apiOf(req *cmds.Request, env cmds.Environment) (*rpc.HttpApi, error) {
	var api *rpc.HttpApi
	var err error
	if text, ok := req.Options[commands.ApiOption].(string); ok {
		var addr ma.Multiaddr
		if addr, err = ma.NewMultiaddr(text); err != nil {
			return nil, err
		}
		api, err = rpc.NewApi(addr)
	} else {
		var root string
		if root, err = cmdenv.GetConfigRoot(env); err != nil {
			return nil, err
		}
		api, err = rpc.NewPathApi(root)
		if errors.Is(err, rpc.ErrApiNotFound) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if secret, ok := req.Options[commands.ApiAuthOption].(string); ok {
		api.Headers.Set("Authorization", config.ConvertAuthSecret(secret))
	}
	return api, nil
}

// confirmed asks whether a database is to be dropped.
func confirmed(r io.Reader, w io.Writer, l *infoLine) bool {
	if l.pending() {
		fmt.Fprintf(w, "drop %s, which is not here yet? [y/N] ", l.Address)
	} else {
		fmt.Fprintf(w, "drop %s (%s), %s? [y/N] ", printable(l.Name), printable(l.Address), quantity(l.Entries, "entry", "entries"))
	}
	return isYes(r)
}

// isYes reads a line, and reports whether that is a yes.
func isYes(r io.Reader) bool {
	answer, _ := bufio.NewReader(io.LimitReader(r, 100)).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}

var dbPeersCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "List the peers that have a database open, or had.",
		ShortDescription: `
Prints for each peer whether it has the database open or is gone, how it is
connected, when heads were exchanged with it and when it last had the same as
this daemon, how it calls itself, and the error of the last exchange, if any.
Without a database, it lists the peers of all, with the address in front.

  > ipfs npp db peers pieces
  12D3KooW…  open  direct   exchanged 12s ago  in step 12s ago  kubo/0.43.1/…
`,
	},
	Arguments: []cmds.Argument{cmds.StringArg("db", false, false, "Address or name of a database; all if not given.")},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		r, err := replicatedOf(req, env)
		if err != nil {
			return err
		}
		var addresses []string
		all := len(req.Arguments) == 0
		if all {
			for d, err := range r.orbit.Databases(r.ctx) {
				if err != nil {
					return dbError(err, "")
				}
				addresses = append(addresses, d.Address)
			}
			addresses = append(addresses, r.Pending()...)
		} else {
			address, err := r.known(req.Arguments[0])
			if err != nil {
				return dbError(err, req.Arguments[0])
			}
			addresses = []string{address}
		}
		connected := r.connected()
		for _, address := range addresses {
			s, err := r.Status(r.ctx, address)
			if err != nil && all {
				continue // it went meanwhile
			}
			if err != nil {
				return dbError(err, req.Arguments[0])
			}
			for _, p := range newStatusLine(s, connected).Peers {
				if all {
					p.Database = address
				}
				if err := res.Emit(&p); err != nil {
					return err
				}
			}
		}
		return nil
	},
	Type: dbPeerLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *dbPeerLine) error {
			text := l.text()
			if l.Database != "" {
				text = l.Database + "  " + text
			}
			_, err := fmt.Fprintln(w, text)
			return err
		}),
	},
}
