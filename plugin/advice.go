package plugin

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ipfs/kubo/config"
)

// advice returns what in a configuration keeps peers away, one sentence each
// with the kubo command that corrects it.
func advice(cfg *config.Config) ([]string, error) {
	var out []string
	if len(cfg.Bootstrap) == 0 {
		hint := "ipfs bootstrap add default"
		if !cfg.AutoConf.Enabled.WithDefault(config.DefaultAutoConfEnabled) {
			hint = "ipfs bootstrap add <multiaddr>, as AutoConf.Enabled is false and there is no default"
		}
		out = append(out, "Bootstrap is empty: no peer is dialled at start; hint: "+hint)
	}
	if len(cfg.Addresses.Swarm) == 0 {
		addrs, err := defaultAddresses()
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("Addresses.Swarm is empty: no peer can dial this one; hint: ipfs config --json Addresses.Swarm '%s' and restart the daemon", addrs))
	}
	return out, nil
}

// defaultAddresses returns Addresses.Swarm of a new repo, in JSON.
func defaultAddresses() ([]byte, error) {
	var fresh config.Config
	if err := config.Profiles["default-networking"].Transform(&fresh); err != nil {
		return nil, err
	}
	return json.Marshal(fresh.Addresses.Swarm)
}

// pubsubOff reports whether the owner switched pubsub off. An unset key does
// not.
func pubsubOff(cfg *config.Config) bool { return cfg.Pubsub.Enabled == config.False }

// datastoreType returns the type of the datastore that holds the keys of a
// namespace by kubo's Datastore.Spec, or "" if the spec is malformed.
func datastoreType(spec map[string]any, namespace string) string {
	kind, _ := datastoreFor(spec, namespace)["type"].(string)
	return kind
}

// datastoreDir returns the directory of the datastore that holds the keys of a
// namespace by kubo's Datastore.Spec, or that of the repo if the datastore has
// none.
func datastoreDir(spec map[string]any, namespace, repo string) string {
	path, _ := datastoreFor(spec, namespace)["path"].(string)
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(repo, path)
}

// datastoreFor returns the part of kubo's Datastore.Spec that describes the
// datastore of a namespace.
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

// mountFor returns the child of a mount whose mount point is the longest prefix
// of a namespace.
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

// splitsBatches reports whether a datastore of a type may write parts of a
// batch.
func splitsBatches(kind string) bool { return kind == "badgerds" || kind == "flatfs" }
