// Command preload turns a list of kubo plugins into the Go file that compiles
// them into a binary.
//
//	preload [-o file] preload_list
//
// The list has the format of kubo's plugin/loader/preload_list: each line has a
// name, the import path of a package that exports `Plugins []plugin.Plugin`,
// and the index of a plugin in that slice or * for all of them. Empty lines and
// lines that start with # are ignored. The file has a function preload for
// kubo.BuildEnv, where kubo's has an init function. It loads the plugins in the
// order of the list.
//
// Without -o, preload writes the file to standard output. If the list has an
// error, preload prints the number of the line and writes no file.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("preload: ")
	out := flag.String("o", "", "write to `file` instead of standard output")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: preload [-o file] preload_list")
	}
	if err := run(flag.Arg(0), *out); err != nil {
		log.Fatal(err)
	}
}

func run(list, out string) error {
	b, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	plugins, err := parse(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s:%w", list, err)
	}
	src, err := generate(plugins)
	if err != nil {
		return err
	}
	if out == "" {
		_, err = os.Stdout.Write(src)
		return err
	}
	return os.WriteFile(out, src, 0o644)
}
