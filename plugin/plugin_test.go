package plugin

import (
	"errors"
	"strings"
	"testing"

	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/ipfs/kubo/core"
	kuboplugin "github.com/ipfs/kubo/plugin"

	"github.com/newpieceplease/npp/daemon"
)

// newDaemon starts a daemon that is connected to no peer.
func newDaemon(t *testing.T) *daemon.Daemon {
	t.Helper()
	ds := dssync.MutexWrap(datastore.NewMapDatastore())
	d, err := daemon.New(t.Context(), daemon.Config{
		Host:      newHost(t),
		Datastore: ds,
		Keystore:  keystore.NewMemKeystore(),
		Blocks:    daemon.NewBlocks(ds),
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestInitNeverFails(t *testing.T) {
	for _, config := range []any{nil, 5, "", []any{}, map[string]any{}, map[string]any{"Unknown": 1}, map[string]any{"Messages": -1}, func() {}} {
		p := &Plugin{}
		if err := p.Init(&kuboplugin.Environment{Config: config}); err != nil {
			t.Errorf("config %v: %v", config, err)
		}
	}
}

func TestBadConfigFailsTheStart(t *testing.T) {
	p := &Plugin{}
	if err := p.Init(&kuboplugin.Environment{Config: map[string]any{"Unknown": 1}}); err != nil {
		t.Fatal(err)
	}
	err := p.Start(&core.IpfsNode{})
	if err == nil || !strings.HasPrefix(err.Error(), "npp: Plugins.Plugins.npp.Config.Unknown is not known") {
		t.Errorf("start: %v", err)
	}
}

func TestCurrentSaysWhyThereIsNoDaemon(t *testing.T) {
	if d, err := Current(); d != nil || !errors.Is(err, ErrDisabled) {
		t.Errorf("where kubo loads no plugin: %v, %v", d, err)
	}
	p := &Plugin{}
	expect := func(when string, want error) {
		t.Helper()
		if d, err := p.current(); d != nil || !errors.Is(err, want) {
			t.Errorf("%s: got %v, %v, want %v", when, d, err, want)
		}
	}
	expect("not loaded", ErrDisabled)
	if err := p.Init(&kuboplugin.Environment{}); err != nil {
		t.Fatal(err)
	}
	expect("loaded, not started", ErrNotRunning)
	if err := p.Close(); err != nil {
		t.Errorf("close without a start: %v", err)
	}
	expect("closed without a start", ErrNotRunning)
	if err := p.Start(&core.IpfsNode{}); err != nil {
		t.Errorf("start without a network: %v", err)
	}
	expect("without a network", ErrOffline)

	p.daemon = newDaemon(t)
	if d, err := p.current(); d == nil || err != nil {
		t.Errorf("running: %v, %v", d, err)
	}
	for range 2 { // by the fx hook, and by kubo's loader
		if err := p.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		expect("stopped", daemon.ErrStopping)
	}
}

func TestPluginIsKnownByTheNameInTheConfig(t *testing.T) {
	if len(Plugins) != 1 || !strings.Contains(daemon.SettingsPath, "."+Plugins[0].Name()+".") {
		t.Errorf("plugins %v, configured at %s", Plugins, daemon.SettingsPath)
	}
}
