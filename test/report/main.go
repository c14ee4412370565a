// Command report runs go test with its arguments. It prints the output of go
// test for each package, and at the end the slowest tests.
//
//	go run ./test/report ./...
//
// The time of a test does not include its wait for a turn to run in parallel.
// If its subtests took longer in total, their total counts. The environment
// variable GO names another go command. The exit status is that of go test.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// shown is the number of slowest tests that are listed.
const shown = 10

func main() {
	cmd := exec.Command(cmp.Or(os.Getenv("GO"), "go"), append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	r := newReport(os.Stdout)
	r.read(out)
	err = cmd.Wait()
	r.slowest()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1)) // -1 after a signal
	case err != nil:
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// event is a line of go test -json, see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

// report is the state of reading the output of go test -json.
type report struct {
	w      io.Writer
	output map[string][]event // of packages whose tests are running
	tests  []event            // finished tests, without subtests
	within map[string]float64 // seconds of a test's subtests, by package and name
}

func newReport(w io.Writer) *report {
	return &report{w: w, output: make(map[string][]event), within: make(map[string]float64)}
}

// read reads all events, and prints the output of each package when its tests
// have finished. A line that is not an event is printed unchanged.
func (r *report) read(from io.Reader) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		var e event
		if json.Unmarshal([]byte(line), &e) == nil {
			r.take(e)
		} else {
			fmt.Fprint(r.w, line)
		}
		if err != nil {
			return
		}
	}
}

func (r *report) take(e event) {
	ended := e.Action == "pass" || e.Action == "fail" || e.Action == "skip"
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.w, e.Output)
	case e.Action == "output", ended && e.Test != "":
		r.output[e.Package] = append(r.output[e.Package], e)
	case ended:
		r.print(r.output[e.Package], e.Action == "fail")
		delete(r.output, e.Package)
	}
	if ended && e.Test != "" {
		r.time(e)
	}
}

// time records the duration of a test. Its subtests have finished before it.
func (r *report) time(e event) {
	e.Elapsed = max(e.Elapsed, r.within[e.Package+" "+e.Test])
	if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
		r.within[e.Package+" "+e.Test[:i]] += e.Elapsed
	} else {
		r.tests = append(r.tests, e)
	}
}

// print prints the last line of a package, which is its result. If the package
// failed, it prints all output except that of tests that did not fail.
func (r *report) print(events []event, failed bool) {
	fine := make(map[string]bool)
	last := ""
	for _, e := range events {
		switch {
		case e.Action == "pass" || e.Action == "skip":
			fine[e.Test] = true
		case e.Test == "" && e.Action == "output":
			last = e.Output
		}
	}
	if !failed {
		fmt.Fprint(r.w, last)
		return
	}
	for _, e := range events {
		if !fine[e.Test] && !strings.HasPrefix(e.Output, "=== ") {
			fmt.Fprint(r.w, e.Output)
		}
	}
}

// slowest prints the slowest tests.
func (r *report) slowest() {
	slices.SortStableFunc(r.tests, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	if len(r.tests) == 0 {
		return
	}
	fmt.Fprintln(r.w, "The slowest tests:")
	for _, e := range r.tests[:min(shown, len(r.tests))] {
		took := time.Duration(e.Elapsed * float64(time.Second))
		fmt.Fprintf(r.w, "%8.1fs  %s  %s\n", took.Seconds(), e.Test, e.Package)
	}
}
