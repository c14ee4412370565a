package plugin

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ipfs/kubo/config"
)

// Advice says what in the operator's configuration keeps peers away, each with
// kubo's command that mends it.
func (d *Daemon) Advice() ([]string, error) {
	cfg, err := d.node.Repo.Config()
	if err != nil {
		return nil, err
	}
	return advice(cfg)
}

func advice(cfg *config.Config) ([]string, error) {
	var out []string
	if len(cfg.Bootstrap) == 0 {
		hint := "ipfs bootstrap add default"
		if !cfg.AutoConf.Enabled.WithDefault(config.DefaultAutoConfEnabled) {
			hint = "ipfs bootstrap add <multiaddr>, as AutoConf.Enabled is false and there is no default"
		}
		out = append(out, "Bootstrap is empty: nobody is dialled at start; hint: "+hint)
	}
	if len(cfg.Addresses.Swarm) == 0 {
		addrs, err := defaultAddresses()
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("Addresses.Swarm is empty: nobody can dial this peer; hint: ipfs config --json Addresses.Swarm '%s' and restart the daemon", addrs))
	}
	return out, nil
}

// defaultAddresses is Addresses.Swarm of a new repo, in JSON.
func defaultAddresses() ([]byte, error) {
	var fresh config.Config
	if err := config.Profiles["default-networking"].Transform(&fresh); err != nil {
		return nil, err
	}
	return json.Marshal(fresh.Addresses.Swarm)
}

// pubsubOff tells whether the operator switched pubsub off, which is not the
// same as not switching it on.
func pubsubOff(cfg *config.Config) bool { return cfg.Pubsub.Enabled == config.False }

// datastoreType is the type of the datastore, in kubo's Datastore.Spec, that
// holds keys below a namespace.
func datastoreType(spec map[string]any, namespace string) string {
	kind, _ := datastoreFor(spec, namespace)["type"].(string)
	return kind
}

// datastoreDir returns the directory of the datastore, in kubo's Datastore.Spec, that
// holds keys below a namespace: the repo's where the datastore has none.
func datastoreDir(spec map[string]any, namespace, repo string) string {
	path, _ := datastoreFor(spec, namespace)["path"].(string)
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(repo, path)
}

// datastoreFor returns the part of kubo's Datastore.Spec that describes the datastore
// of keys below a namespace.
func datastoreFor(spec map[string]any, namespace string) map[string]any {
	for {
		switch spec["type"] {
		case "mount":
			spec = mountFor(spec, namespace)
		case "measure", "log":
			spec, _ = spec["child"].(map[string]any)
		default:
			return spec
		}
	}
}

// mountFor is the child of a mount with the longest mount point above a namespace.
func mountFor(spec map[string]any, namespace string) map[string]any {
	var best map[string]any
	longest := -1
	mounts, _ := spec["mounts"].([]any)
	for _, m := range mounts {
		child, _ := m.(map[string]any)
		point, _ := child["mountpoint"].(string)
		below := strings.TrimSuffix(point, "/") + "/"
		if strings.HasPrefix(namespace+"/", below) && len(below) > longest {
			best, longest = child, len(below)
		}
	}
	return best
}

// splitsBatches tells whether a datastore of that type may write a batch in parts.
func splitsBatches(kind string) bool { return kind == "badgerds" || kind == "flatfs" }
