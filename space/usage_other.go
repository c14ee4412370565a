//go:build !linux && !darwin && !freebsd && !windows

package space

import (
	"errors"
	"fmt"
)

// usageOf is not implemented on this system.
func usageOf(path string) (Usage, error) {
	return Usage{}, fmt.Errorf("read the free space at %s: %w", path, errors.ErrUnsupported)
}
