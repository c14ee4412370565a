package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/message"
)

// parseConfig returns the settings in a configuration, which is decoded JSON or
// nil, as kubo passes it to a plugin. Settings that it omits have their
// defaults. The error is one sentence that begins with the path of a key.
func parseConfig(raw any) (daemon.Settings, error) {
	s := daemon.DefaultSettings()
	if raw == nil {
		return s, nil
	}
	b, err := json.Marshal(raw)
	if err != nil {
		return s, fmt.Errorf("%s: %w", daemon.SettingsPath, err)
	}
	m, d, db := &s.Messages, &s.Disk, &s.Databases
	err = decodeObject(daemon.SettingsPath, b, object{
		"Messages": object{
			"MaxMessageBytes": &m.MaxMessageBytes,
			"MaxPerSecond":    &m.MaxPerSecond,
			"StoreBytes":      &m.StoreBytes,
			"PeerBytes":       &m.PeerBytes,
			"PubsubBytes":     &m.PubsubBytes,
			"KeepFor":         &m.KeepFor,
			"WhenPeerFull":    &m.WhenPeerFull,
		},
		"Disk": object{
			"FreeBytes": &d.FreeBytes,
		},
		"Databases": object{
			"DatabaseBytes":  &db.DatabaseBytes,
			"CompanionBytes": &db.CompanionBytes,
			"AllBytes":       &db.AllBytes,
			"WaitingBytes":   &db.WaitingBytes,
		},
	})
	if err != nil {
		return s, err
	}
	if err := s.Check(); err != nil {
		return s, fmt.Errorf("%s.%w", daemon.SettingsPath, err)
	}
	return s, nil
}

// object describes a JSON object: each key has a pointer to its value, or
// another object.
type object map[string]any

// decodeObject decodes the object b, which has the given path in the
// configuration, into the values of shape.
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

// wanted describes the JSON values that can be decoded into a pointer.
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
