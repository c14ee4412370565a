package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// report is the outcome of a run.
type report struct {
	quick      bool
	began      time.Time
	loadBefore string
	sections   []*section
}

// section is the part of a report about one topic.
type section struct {
	title    string
	how      string     // the method of measurement
	table    [][]string // the header first
	verdicts []verdict
}

// verdict is a bar and whether it was reached.
type verdict struct {
	reached bool
	text    string
}

func (s *section) row(cells ...string) { s.table = append(s.table, cells) }

func (s *section) verdict(reached bool, format string, args ...any) {
	s.verdicts = append(s.verdicts, verdict{reached, fmt.Sprintf(format, args...)})
}

func newReport(quick bool) *report {
	return &report{quick: quick, began: time.Now(), loadBefore: loadAverage()}
}

// String returns the report as Markdown.
func (r *report) String() string {
	var b strings.Builder
	command := "go run ./bench"
	if r.quick {
		command += " -quick"
	}
	fmt.Fprintf(&b, "# npp beside stock kubo and OrbitDB\n\n"+
		"Written by `%s` on %s; it took %s.\n\n"+
		"Machine: %d cores, %s, %s, %s. Load average %s before and %s after; other processes on the machine add noise.\n\n"+
		"Both sides are real daemons of binaries built from one module graph, on loopback, with kubo's `test` profile\n"+
		"(no bootstrap peers, free ports of 127.0.0.1); databases are measured beside @orbitdb/core. Each measurement alternates between the two sides. Figures are medians\n"+
		"over rounds. A ratio is npp's figure over its peer's in the same round; its median is given, and the range of its middle half.\n",
		command, r.began.Format(time.DateOnly), time.Since(r.began).Round(time.Second),
		runtime.NumCPU(), cpuModel(), runtime.Version(), kernel(), r.loadBefore, loadAverage())
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.title, s.how)
		for i, cells := range s.table {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
			if i == 0 {
				b.WriteString("|---" + strings.Repeat("|--:", len(cells)-1) + "|\n")
			}
		}
		if len(s.verdicts) > 0 {
			b.WriteString("\n")
		}
		for _, v := range s.verdicts {
			word := "Target missed"
			if v.reached {
				word = "Target reached"
			}
			fmt.Fprintf(&b, "* %s: %s\n", word, v.text)
		}
	}
	return b.String()
}

func cpuModel() string {
	for line := range strings.Lines(readString("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	return "Linux " + strings.TrimSpace(readString("/proc/sys/kernel/osrelease"))
}

func loadAverage() string {
	one, _, _ := strings.Cut(readString("/proc/loadavg"), " ")
	return one
}

func readString(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}
