package space

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// usageOf asks the operating system.
func usageOf(path string) (u Usage, err error) {
	name, err := windows.UTF16PtrFromString(path)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(name, &u.Free, &u.Total, nil)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read the free space at %s: %w", path, err)
	}
	return u, nil
}
