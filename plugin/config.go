package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/message"
)

// Config is what may stand in Plugins.Plugins.npp.Config of the operator's
// config file. All of it is optional.
type Config struct {
	// Messages bounds what peers can make us keep and do.
	Messages message.Limits
}

// configPath is where the configuration stands in the operator's file.
const configPath = "Plugins.Plugins.npp.Config"

// parseConfig reads the configuration that kubo hands to a plugin: JSON,
// decoded, or nil. An error is one sentence that names the key.
func parseConfig(raw any) (Config, error) {
	c := Config{Messages: message.DefaultLimits()}
	if raw == nil {
		return c, nil
	}
	b, err := json.Marshal(raw)
	if err != nil {
		return c, fmt.Errorf("%s: %w", configPath, err)
	}
	m := &c.Messages
	err = decodeObject(configPath, b, object{
		"Messages": object{
			"MaxMessageBytes": &m.MaxMessageBytes,
			"MaxPerSecond":    &m.MaxPerSecond,
			"StoreBytes":      &m.StoreBytes,
			"PeerBytes":       &m.PeerBytes,
			"PubsubBytes":     &m.PubsubBytes,
			"KeepFor":         &m.KeepFor,
			"WhenPeerFull":    &m.WhenPeerFull,
		},
	})
	if err != nil {
		return c, err
	}
	if err := m.Check(); err != nil {
		return c, fmt.Errorf("%s.Messages.%w", configPath, err)
	}
	return c, nil
}

// object is the shape of a JSON object: a pointer to the value of each key, or an object.
type object map[string]any

func decodeObject(path string, b []byte, shape object) error {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(b, &values); err != nil || values == nil {
		return fmt.Errorf("%s must be an object, not %.80s", path, b)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		at, value := path+"."+key, values[key]
		want, known := shape[key]
		if !known {
			return fmt.Errorf("%s is not known; known there: %s", at, strings.Join(slices.Sorted(maps.Keys(shape)), ", "))
		}
		if inner, ok := want.(object); ok {
			if err := decodeObject(at, value, inner); err != nil {
				return err
			}
			continue
		}
		if bytes.Equal(value, []byte("null")) {
			return fmt.Errorf("%s is null; leave it out for its default", at)
		}
		if err := json.Unmarshal(value, want); err != nil {
			return fmt.Errorf("%s is %.80s, must be %s", at, value, wanted(want))
		}
	}
	return nil
}

// wanted describes what can be decoded into the value of a key.
func wanted(value any) string {
	switch value.(type) {
	case *uint64:
		return "a whole number, 0 or more"
	case *message.Duration:
		return `a duration such as "36h"`
	default:
		return "a string"
	}
}
