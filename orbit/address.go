package orbit

import "github.com/newpieceplease/npp/orbit/internal/manifest"

// Anyone in an access list permits every identity to write.
const Anyone = manifest.Anyone

var (
	// ErrInvalidAddress is returned for a text that is not an address.
	ErrInvalidAddress = manifest.ErrInvalidAddress
	// ErrLegacyAddress is returned for an address in the format before OrbitDB
	// 1.0, which contains a name after the CID. It wraps [ErrInvalidAddress].
	ErrLegacyAddress = manifest.ErrLegacyAddress
)

// ParseAddress returns the CID in the address of a database, which is that of
// the manifest. It returns [ErrLegacyAddress] or [ErrInvalidAddress] if there
// is none.
func ParseAddress(address string) (hash string, err error) {
	return manifest.ParseAddress(address)
}

// FormatAddress returns the address of the database whose manifest has a CID.
func FormatAddress(hash string) string { return manifest.Address(hash) }
