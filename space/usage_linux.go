package space

import (
	"cmp"
	"fmt"

	"golang.org/x/sys/unix"
)

// usageOf asks the operating system. The unit is the fragment size if there is
// one, as in statvfs(3).
func usageOf(path string) (Usage, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Usage{}, fmt.Errorf("read the free space at %s: %w", path, err)
	}
	unit := uint64(cmp.Or(s.Frsize, s.Bsize))
	return Usage{Free: s.Bavail * unit, Total: s.Blocks * unit}, nil
}
