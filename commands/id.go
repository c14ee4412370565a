package commands

import (
	"fmt"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
)

// idLine is the output of `npp id`.
type idLine struct {
	Peer      string      `json:"peer"`
	ID        string      `json:"id,omitempty"`        // of the OrbitDB identity, as access lists name it
	Identity  string      `json:"identity,omitempty"`  // hash of the identity's block
	PublicKey string      `json:"publicKey,omitempty"` // verifies the signatures of entries
	Username  string      `json:"username,omitempty"`
	Stores    []storeLine `json:"stores,omitempty"`
	Error     string      `json:"error,omitempty"` // why there are no databases
}

// storeLine is one of the four library databases.
type storeLine struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Error   string `json:"error,omitempty"` // why it is not usable
}

var idCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Show your peer ID, username and addresses.",
		ShortDescription: `
Prints what other people need from you:

  - the peer ID, to connect to you and to send you messages;
  - the identity, to let you write to their databases;
  - the username, which is a field of your profile;
  - the addresses of the four databases of your library.

  > ipfs npp id
  peer        12D3KooWCP9aGS…
  identity    03f5a7c2e1…
  username    musician-hMVwj4
  pieces      /orbitdb/zdpuAsb…
  user        /orbitdb/zdpuAz7…
  companions  /orbitdb/zdpuAr4…
  practice    /orbitdb/zdpuB3E…

Anybody who knows the address of a database can read it. If a database cannot
be opened, the reason is printed as well.
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
			return fmt.Errorf("%w; hint: fix that and restart the daemon; the rest of npp works", err)
		}
		lib, err := d.Library()
		if err != nil {
			return err
		}
		id := o.Identity()
		l.ID, l.Identity, l.PublicKey = id.ID, id.Hash(), id.PublicKey
		for _, s := range lib.Databases(req.Context) {
			l.Stores = append(l.Stores, newStoreLine(s))
		}
		// If the username cannot be read, its database has an error.
		l.Username, _ = lib.Username(req.Context)
		return res.Emit(l)
	},
	Type:     idLine{},
	Encoders: encodeText((*idLine).text),
}

func newStoreLine(s library.Database) storeLine {
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
	t := table{width: 10}
	t.optional("peer", l.Peer)
	t.optional("identity", l.ID)
	t.optional("username", l.Username)
	for _, s := range l.Stores {
		t.optional(s.Name, s.Address)
		t.optional(s.Name, s.Error)
	}
	return t.String()
}
