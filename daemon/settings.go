package daemon

import (
	"fmt"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/space"
)

// SettingsPath is the path of [Settings] in kubo's configuration file. Texts of
// [Daemon.Status] name settings by it.
const SettingsPath = "Plugins.Plugins.npp.Config"

// Settings are the limits that the owner of a daemon can set. The largest
// values are 16 MiB for a message, 1 TiB for pending entries of a database, and
// [space.MaxFreeBytes] for free space.
type Settings struct {
	// Messages limits messages from peers.
	Messages message.Limits
	// Disk limits how full the disk of the datastore gets.
	Disk DiskLimits
	// Databases limits what is stored of databases that others write.
	Databases DatabaseLimits
}

// DefaultSettings returns the settings of an owner who set nothing.
func DefaultSettings() Settings {
	return Settings{
		Messages: message.DefaultLimits(),
		Databases: DatabaseLimits{
			DatabaseBytes:  2 << 30,
			CompanionBytes: 2 << 30,
			AllBytes:       10 << 30,
			WaitingBytes:   256 << 20,
		},
	}
}

// Check returns nil, or an error that begins with the path of the setting that
// is out of bounds, such as "Disk.FreeBytes is ".
func (s Settings) Check() error {
	if err := s.Messages.Check(); err != nil {
		return fmt.Errorf("Messages.%w", err)
	}
	if err := s.Disk.Check(); err != nil {
		return fmt.Errorf("Disk.%w", err)
	}
	if err := s.Databases.Check(); err != nil {
		return fmt.Errorf("Databases.%w", err)
	}
	return nil
}

// DatabaseLimits are quotas for databases that others write, in bytes of
// blocks; see [orbit.Quotas].
type DatabaseLimits struct {
	// DatabaseBytes is the quota of each database that belongs to no companion.
	// Default: 2 GiB.
	DatabaseBytes uint64
	// CompanionBytes is the quota of all databases of one companion together.
	// Default: 2 GiB.
	CompanionBytes uint64
	// AllBytes is the quota of all of these databases together. Default: 10
	// GiB.
	AllBytes uint64
	// WaitingBytes is the quota of the pending entries of one database.
	// Default: 256 MiB.
	WaitingBytes uint64
}

// Bounds of DatabaseLimits. The smallest quota holds several entries of the
// largest size.
const (
	minDatabaseBytes = 8 << 20
	minWaitingBytes  = 8 << 20
	maxWaitingBytes  = 1 << 40
)

// Check returns nil, or an error that begins with the name of the field that is
// out of bounds.
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
	return orbit.Quotas{Database: l.DatabaseBytes, Group: l.CompanionBytes, All: l.AllBytes, Pending: l.WaitingBytes}
}

// DiskLimits are bounds of the free space on the disk of the datastore.
type DiskLimits struct {
	// FreeBytes is the free space below which data from peers is refused.
	// Default: 0, which means the default of [space.Config].
	FreeBytes uint64
}

// Check returns nil, or an error that begins with the name of the field that is
// out of bounds.
func (l DiskLimits) Check() error {
	if l.FreeBytes > space.MaxFreeBytes {
		return fmt.Errorf("FreeBytes is %d, must be %d or less", l.FreeBytes, uint64(space.MaxFreeBytes))
	}
	return nil
}
