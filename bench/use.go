package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/<pid>/stat.
const clockTick = time.Second / 100

// use is the resources that a process used in an interval.
type use struct {
	pid                 int
	before, after, most float64 // resident memory, in MiB
	cpu                 time.Duration
}

// beginUse begins the interval. It resets the peak memory of the process.
func beginUse(pid int) (u use, err error) {
	u.pid = pid
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return u, err
	}
	if u.before, err = processMemory(pid, "VmRSS"); err != nil {
		return u, err
	}
	u.cpu, err = processCPU(pid)
	return u, err
}

// end ends the interval.
func (u *use) end() error {
	cpu, err := processCPU(u.pid)
	if err != nil {
		return err
	}
	u.cpu = cpu - u.cpu
	if u.after, err = processMemory(u.pid, "VmRSS"); err != nil {
		return err
	}
	u.most, err = processMemory(u.pid, "VmHWM")
	return err
}

// processCPU returns the processor time of a process, user and system.
func processCPU(pid int) (time.Duration, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	cpu, err := parseCPU(string(text))
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return cpu, err
}

// parseCPU adds utime and stime, the 14th and the 15th field. The second field,
// the name of the program, is in parentheses and may have spaces and
// parentheses in it.
func parseCPU(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("too few fields: %q", stat)
	}
	ticks := time.Duration(0)
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += time.Duration(n)
	}
	return ticks * clockTick, nil
}
