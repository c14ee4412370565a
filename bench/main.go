// Command bench measures npp beside its peers, stock kubo built from the same
// module graph and @orbitdb/core, and writes what it found to bench/RESULTS.md.
//
//	go run ./bench              everything, in less than 25 minutes
//	go run ./bench -quick       fewer rounds, in less than 5
//	go run ./bench -only peers  one topic
//
// With -quick or -only the results go to standard output instead.
//
// Both sides are real daemons of the real binaries, on loopback and without
// bootstrap peers, and each measurement alternates between them: whatever else
// the machine does meets both. Databases are measured in this process and in
// one of Node.js, which bench/orbitdb installs with npm, and their replication in
// daemons and in several of those. The figures are medians over rounds; ratios and
// differences are taken within a round. It runs on Linux (it reads /proc), in the
// module's root. The binaries are built, or taken from the files that the
// environment variables NPP_IPFS and NPP_STOCK name. The repos are in
// [os.TempDir], which should be on a disk.
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

// resultsFile is where a complete run leaves its report.
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
}

// one is of a measurement that has one section in the report.
func one(run func(context.Context, *bench) (*section, error)) func(context.Context, *bench) ([]*section, error) {
	return func(ctx context.Context, b *bench) ([]*section, error) {
		s, err := run(ctx, b)
		return []*section{s}, err
	}
}

// bench is what the measurements share.
type bench struct {
	*children.Group // of the daemons, and the directory of their repos
	quick           bool
	npp, stock      string // paths of the binaries
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
	only := flag.String("only", "", "measure this topic alone: "+topicNames())
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *quick, *only); err != nil {
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

func run(ctx context.Context, quick bool, only string) error {
	group, err := children.New("npp-bench-")
	if err != nil {
		return err
	}
	defer group.End()
	b := &bench{Group: group, quick: quick}
	progress("binaries")
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
		return fmt.Errorf("no topic %q; there are %s", only, topicNames())
	}
	text := r.String()
	if quick || only != "" {
		_, err = io.WriteString(os.Stdout, text)
		return err
	}
	return os.WriteFile(resultsFile, []byte(text), 0o644)
}

// progress tells whoever waits what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
