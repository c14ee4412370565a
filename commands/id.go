package commands

import (
	"fmt"
	"io"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
)

// idLine is the output of `npp id`: who this daemon is to others.
type idLine struct {
	Peer      string      `json:"peer"`
	ID        string      `json:"id,omitempty"`        // of the OrbitDB identity: what lists of writers name
	Identity  string      `json:"identity,omitempty"`  // hash of the identity's block
	PublicKey string      `json:"publicKey,omitempty"` // that signs entries
	Username  string      `json:"username,omitempty"`
	Stores    []storeLine `json:"stores,omitempty"`
	Error     string      `json:"error,omitempty"` // why there are no databases
}

// storeLine is one of the daemon's own stores.
type storeLine struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Error   string `json:"error,omitempty"` // what is wrong with it
}

var idCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show who this daemon is to others.",
		ShortDescription: `
Prints the peer ID, which others connect and send to; the OrbitDB identity,
which lists of writers name; the username, which is in the store "user"; and
the addresses of the daemon's own stores, or what is wrong with them.

  > ipfs npp id
  peer        12D3KooWCP9aGS…
  identity    03f5a7c2e1…
  username    musician-hMVwj4
  pieces      /orbitdb/zdpuAsb…
  user        /orbitdb/zdpuAz7…
  companions  /orbitdb/zdpuAr4…
  practice    /orbitdb/zdpuB3E…
`,
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		d, err := daemonOf(env)
		if err != nil {
			return err
		}
		l := &idLine{Peer: d.ID().String()}
		o, err := d.Orbit()
		if err != nil {
			l.Error = err.Error()
			if emitErr := res.Emit(l); emitErr != nil {
				return emitErr
			}
			return fmt.Errorf("%w; hint: mend that and restart the daemon, the rest of npp works", err)
		}
		lib, err := d.Library()
		if err != nil {
			return err
		}
		id := o.Identity()
		l.ID, l.Identity, l.PublicKey = id.ID, id.Hash(), id.PublicKey
		for _, s := range lib.Stores(req.Context) {
			l.Stores = append(l.Stores, newStoreLine(s))
		}
		// Where it cannot be read, that is what is wrong with the store.
		l.Username, _ = lib.Username(req.Context)
		return res.Emit(l)
	},
	Type: idLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *idLine) error {
			_, err := io.WriteString(w, l.text())
			return err
		}),
	},
}

func newStoreLine(s library.Store) storeLine {
	l := storeLine{Name: s.Name}
	if s.DB != nil {
		l.Address = s.DB.Address()
	}
	if s.Err != nil {
		l.Error = dbError(s.Err, s.Name).Error()
	}
	return l
}

func (l *idLine) text() string {
	var b strings.Builder
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-10s  %s\n", name, printable(text))
		}
	}
	row("peer", l.Peer)
	row("identity", l.ID)
	row("username", l.Username)
	for _, s := range l.Stores {
		row(s.Name, s.Address)
		row(s.Name, s.Error)
	}
	return b.String()
}
