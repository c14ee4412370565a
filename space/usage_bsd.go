//go:build darwin || freebsd

package space

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// usageOf asks the operating system.
func usageOf(path string) (Usage, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Usage{}, fmt.Errorf("read the free space at %s: %w", path, err)
	}
	unit := uint64(s.Bsize)
	// On FreeBSD, the number is negative if the space reserved for root is in
	// use.
	available := uint64(max(int64(s.Bavail), 0))
	return Usage{Free: available * unit, Total: s.Blocks * unit}, nil
}
