package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/space"
)

// Config is what may stand in Plugins.Plugins.npp.Config of the operator's
// config file. All of it is optional.
type Config struct {
	// Messages bounds what peers can make us keep and do.
	Messages message.Limits
	// Disk bounds what is written to the disk of the repo.
	Disk DiskLimits
	// Databases bounds what databases store of what others write.
	Databases DatabaseLimits
}

// DatabaseLimits bounds what databases store of what others write, in bytes of
// blocks; see [orbit.Quotas].
type DatabaseLimits struct {
	// DatabaseBytes is for each database that belongs to no companion. 2 GiB.
	DatabaseBytes uint64
	// CompanionBytes is for all databases of one companion together. 2 GiB.
	CompanionBytes uint64
	// AllBytes is for all of these databases together. 10 GiB.
	AllBytes uint64
	// WaitingBytes is what entries of one database may take that came before those
	// that they need. 256 MiB.
	WaitingBytes uint64
}

func defaultDatabaseLimits() DatabaseLimits {
	return DatabaseLimits{DatabaseBytes: 2 << 30, CompanionBytes: 2 << 30, AllBytes: 10 << 30, WaitingBytes: orbit.DefaultPending}
}

// Bounds of the limits. With the smallest ones there is room for some entries of the
// largest size.
const (
	minDatabaseBytes = 8 << 20
	minWaitingBytes  = 8 << 20
	maxWaitingBytes  = 1 << 40
)

// Check returns an error that names the field that makes no sense.
func (l DatabaseLimits) Check() error {
	switch {
	case l.DatabaseBytes < minDatabaseBytes:
		return fmt.Errorf("DatabaseBytes is %d, must be %d or more", l.DatabaseBytes, minDatabaseBytes)
	case l.CompanionBytes < minDatabaseBytes:
		return fmt.Errorf("CompanionBytes is %d, must be %d or more", l.CompanionBytes, minDatabaseBytes)
	case l.AllBytes < max(l.DatabaseBytes, l.CompanionBytes):
		return fmt.Errorf("AllBytes is %d, must be DatabaseBytes (%d) and CompanionBytes (%d) or more", l.AllBytes, l.DatabaseBytes, l.CompanionBytes)
	case l.WaitingBytes < minWaitingBytes || l.WaitingBytes > maxWaitingBytes:
		return fmt.Errorf("WaitingBytes is %d, must be from %d to %d", l.WaitingBytes, minWaitingBytes, uint64(maxWaitingBytes))
	}
	return nil
}

func (l DatabaseLimits) quotas() orbit.Quotas {
	return orbit.Quotas{Database: l.DatabaseBytes, Group: l.CompanionBytes, All: l.AllBytes, Waiting: l.WaitingBytes}
}

// DiskLimits bounds what is written to the disk of the repo.
type DiskLimits struct {
	// FreeBytes is the free space below which nothing is accepted from other
	// peers. 0: see [space.Config].
	FreeBytes uint64
}

// Check returns an error that names the field that makes no sense.
func (l DiskLimits) Check() error {
	if l.FreeBytes > space.MaxFreeBytes {
		return fmt.Errorf("FreeBytes is %d, must be %d or less", l.FreeBytes, uint64(space.MaxFreeBytes))
	}
	return nil
}

// configPath is where the configuration stands in the operator's file.
const configPath = "Plugins.Plugins.npp.Config"

// parseConfig reads the configuration that kubo hands to a plugin: JSON,
// decoded, or nil. An error is one sentence that names the key.
func parseConfig(raw any) (Config, error) {
	c := Config{Messages: message.DefaultLimits(), Databases: defaultDatabaseLimits()}
	if raw == nil {
		return c, nil
	}
	b, err := json.Marshal(raw)
	if err != nil {
		return c, fmt.Errorf("%s: %w", configPath, err)
	}
	m, d, db := &c.Messages, &c.Disk, &c.Databases
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
		return c, err
	}
	if err := m.Check(); err != nil {
		return c, fmt.Errorf("%s.Messages.%w", configPath, err)
	}
	if err := d.Check(); err != nil {
		return c, fmt.Errorf("%s.Disk.%w", configPath, err)
	}
	if err := db.Check(); err != nil {
		return c, fmt.Errorf("%s.Databases.%w", configPath, err)
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
