package plugin

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/kubo/config"

	"github.com/newpieceplease/npp/daemon"
)

// specOf returns the Datastore.Spec that a kubo profile writes, as decoded from
// a configuration file. It is nil if the profile writes none.
func specOf(t *testing.T, profile string) map[string]any {
	t.Helper()
	var c config.Config
	if err := config.Profiles[profile].Transform(&c); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c.Datastore.Spec)
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestDatastoreOfEveryProfileIsKnown(t *testing.T) {
	want := map[string]string{
		"default-datastore":       "levelds",
		"flatfs-levelds":          "levelds",
		"flatfs-levelds-measure":  "levelds",
		"flatfs":                  "levelds",
		"flatfs-measure":          "levelds",
		"flatfs-pebbleds":         "pebbleds",
		"flatfs-pebbleds-measure": "pebbleds",
		"pebbleds":                "pebbleds",
		"pebbleds-measure":        "pebbleds",
		"badgerds":                "badgerds",
		"badgerds-measure":        "badgerds",
	}
	for name := range config.Profiles {
		spec := specOf(t, name)
		if spec == nil {
			continue
		}
		if want[name] == "" {
			t.Errorf("profile %s is new: add its datastore to this test", name)
		}
		for _, namespace := range []string{daemon.MessagesNamespace, daemon.SwarmNamespace} {
			got := datastoreType(spec, namespace)
			if got != want[name] {
				t.Errorf("%s in profile %s is on %q, want %q", namespace, name, got, want[name])
			}
			if splits := splitsBatches(got); splits != strings.HasPrefix(name, "badgerds") {
				t.Errorf("profile %s: splits batches: %v", name, splits)
			}
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("profile %s is gone", name)
	}
}

func TestDatastoreIsThatOfTheNearestMount(t *testing.T) {
	const spec = `{"type": "mount", "mounts": [
		{"mountpoint": "/", "type": "log", "child": {"type": "levelds"}},
		{"mountpoint": "/npp/messages", "type": "measure", "child": {"type": "flatfs"}},
		{"mountpoint": "/npp", "type": "badgerds"},
		{"mountpoint": "/npp/mess", "type": "pebbleds"}
	]}`
	var parsed map[string]any
	if err := json.Unmarshal([]byte(spec), &parsed); err != nil {
		t.Fatal(err)
	}
	for namespace, want := range map[string]string{
		"/npp/messages":     "flatfs",
		"/npp/messages/one": "flatfs",
		"/npp/swarm":        "badgerds",
		"/nppx":             "levelds",
		"/blocks":           "levelds",
	} {
		if got := datastoreType(parsed, namespace); got != want {
			t.Errorf("%s is on %q, want %q", namespace, got, want)
		}
	}
	if !splitsBatches("flatfs") {
		t.Error("flatfs is said to write a batch whole")
	}
}

func TestDirectoryOfTheDatastoreIsFound(t *testing.T) {
	for _, test := range []struct{ spec, namespace, dir string }{
		{`{"type": "mount", "mounts": [
			{"mountpoint": "/blocks", "type": "measure", "child": {"type": "flatfs", "path": "blocks"}},
			{"mountpoint": "/", "type": "measure", "child": {"type": "levelds", "path": "datastore"}}
		]}`, "/npp/orbit", "/repo/datastore"},
		{`{"type": "levelds", "path": "/large/disk"}`, "/npp/orbit", "/large/disk"},
		{`{"type": "mem"}`, "/npp/orbit", "/repo"},
		{`null`, "/npp/orbit", "/repo"},
	} {
		var parsed map[string]any
		if err := json.Unmarshal([]byte(test.spec), &parsed); err != nil {
			t.Fatal(err)
		}
		if got := datastoreDir(parsed, test.namespace, "/repo"); got != filepath.FromSlash(test.dir) {
			t.Errorf("%s: %s, want %s", test.spec, got, test.dir)
		}
	}
}

// kubo rejects a malformed spec itself.
func TestDatastoreOfABrokenSpecIsUnknown(t *testing.T) {
	for _, spec := range []string{
		`null`, `{}`, `{"type": 5}`, `{"type": "mount"}`, `{"type": "mount", "mounts": 5}`,
		`{"type": "mount", "mounts": [5]}`, `{"type": "mount", "mounts": [{"mountpoint": "/blocks", "type": "flatfs"}]}`,
		`{"type": "measure"}`, `{"type": "measure", "child": []}`, `{"type": "log", "child": {"type": "mount"}}`,
	} {
		var parsed map[string]any
		if err := json.Unmarshal([]byte(spec), &parsed); err != nil {
			t.Fatal(err)
		}
		if got := datastoreType(parsed, daemon.MessagesNamespace); got != "" {
			t.Errorf("%s: %q", spec, got)
		}
	}
}

func TestAdviceIsOnlyOnWhatIsEmpty(t *testing.T) {
	full := config.Config{Bootstrap: []string{"auto"}, Addresses: config.Addresses{Swarm: []string{"/ip4/0.0.0.0/tcp/4001"}}}
	for _, test := range []struct {
		name string
		edit func(c *config.Config)
		want []string // a part of each sentence
	}{
		{"nothing", func(c *config.Config) {}, nil},
		{"Bootstrap", func(c *config.Config) { c.Bootstrap = []string{} }, []string{"Bootstrap is empty"}},
		{"Bootstrap null", func(c *config.Config) { c.Bootstrap = nil }, []string{"hint: ipfs bootstrap add default"}},
		{"Bootstrap without AutoConf", func(c *config.Config) {
			c.Bootstrap = nil
			c.AutoConf.Enabled = config.False
		}, []string{"hint: ipfs bootstrap add <multiaddr>"}},
		{"Swarm", func(c *config.Config) { c.Addresses.Swarm = nil }, []string{`hint: ipfs config --json Addresses.Swarm '["/ip4/0.0.0.0/tcp/4001",`}},
		{"both", func(c *config.Config) { c.Bootstrap, c.Addresses.Swarm = nil, nil }, []string{"Bootstrap", "Addresses.Swarm"}},
	} {
		c := full
		test.edit(&c)
		got, err := advice(&c)
		if err != nil || len(got) != len(test.want) {
			t.Errorf("%s: got %v, %v, want %d pieces of advice", test.name, got, err, len(test.want))
			continue
		}
		for i, part := range test.want {
			if !strings.Contains(got[i], part) {
				t.Errorf("%s: %q does not say %q", test.name, got[i], part)
			}
		}
	}
}

func TestPubsubIsOffOnlyWhereItIsSwitchedOff(t *testing.T) {
	for flag, want := range map[config.Flag]bool{config.False: true, config.True: false, config.Default: false} {
		if got := pubsubOff(&config.Config{Pubsub: config.PubsubConfig{Enabled: flag}}); got != want {
			t.Errorf("Pubsub.Enabled %v: off is %v", flag, got)
		}
	}
}
