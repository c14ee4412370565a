// Command bench measures npp beside stock kubo built from the same module graph
// and beside @orbitdb/core, and writes the results to bench/RESULTS.md.
//
//	go run ./bench              everything, in less than 25 minutes
//	go run ./bench -quick       fewer rounds, in less than 5
//	go run ./bench -only peers  one topic
//
// The topic many compares npp with another version of itself, if one is given;
// "go run ./bench -h" lists its parameters.
//
//	make bin/before-<commit>
//	go run ./bench -only many -before bin/before-<commit>
//
// With -quick or -only the results go to standard output instead.
//
// Both sides are real daemons of the real binaries, on loopback and without
// bootstrap peers. Each measurement alternates between the sides, so that other
// load on the machine affects both. Databases are measured in this process and
// in a Node.js process, whose packages bench/orbitdb installs with npm; their
// replication is measured in daemons and in several Node.js processes. The
// figures are medians over rounds; ratios and differences are taken within a
// round.
//
// The command needs Linux, because it reads /proc, and runs in the root of the
// module. It builds the binaries, or takes the files that the environment
// variables NPP_IPFS and NPP_STOCK name. The repos are in [os.TempDir], which
// should be on a disk.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/newpieceplease/npp/test/children"
	"github.com/newpieceplease/npp/test/ipfs"
)

// resultsFile is the file to which a complete run writes its report.
const resultsFile = "bench/RESULTS.md"

// topics are all measurements, in the order of the report.
var topics = []struct {
	name string
	run  func(context.Context, *bench) ([]*section, error)
}{
	{"peers", one(benchPeers)},
	{"start", one(benchStart)},
	{"memory", one(benchMemory)},
	{"send", one(benchSend)},
	{"rpc", one(benchRPC)},
	{"topic", one(benchTopic)},
	{"listen", one(benchListen)},
	{"orbit", benchOrbit},
	{"flood", one(benchFlood)},
	{"replicate", benchReplicate},
	{"library", benchLibrary},
	{"many", benchMany},
}

// one adapts a measurement that has a single section in the report.
func one(run func(context.Context, *bench) (*section, error)) func(context.Context, *bench) ([]*section, error) {
	return func(ctx context.Context, b *bench) ([]*section, error) {
		s, err := run(ctx, b)
		return []*section{s}, err
	}
}

// bench is the state that the measurements share.
type bench struct {
	*children.Group // of the daemons; its directory holds their repos
	quick           bool
	npp, stock      string // paths of the binaries
	many            manyFlags
}

// pick returns full, or quick in a quick run.
func (b *bench) pick(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

func main() {
	quick := flag.Bool("quick", false, "fewer rounds")
	only := flag.String("only", "", "measure only this topic: "+topicNames())
	var many manyFlags
	many.define(flag.CommandLine)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *quick, *only, many); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func topicNames() string {
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	return strings.Join(names, ", ")
}

func run(ctx context.Context, quick bool, only string, many manyFlags) error {
	group, err := children.New("npp-bench-")
	if err != nil {
		return err
	}
	defer group.End()
	b := &bench{Group: group, quick: quick, many: many}
	progress("build the binaries, unless they are given")
	if b.npp, err = ipfs.NPP(ctx, b.Dir); err != nil {
		return err
	}
	if b.stock, err = ipfs.Stock(ctx, b.Dir); err != nil {
		return err
	}
	r := newReport(quick)
	for _, t := range topics {
		if only != "" && only != t.name {
			continue
		}
		progress("%s", t.name)
		began := time.Now()
		sections, err := t.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		progress("%s took %s", t.name, time.Since(began).Round(time.Second))
		r.sections = append(r.sections, sections...)
	}
	if len(r.sections) == 0 {
		return fmt.Errorf("no topic %q; the topics are %s", only, topicNames())
	}
	text := r.String()
	if quick || only != "" {
		_, err = io.WriteString(os.Stdout, text)
		return err
	}
	return os.WriteFile(resultsFile, []byte(text), 0o644)
}

// progress prints the current step to standard error.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
