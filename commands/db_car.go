package commands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ipfs/boxo/files"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"golang.org/x/term"

	"github.com/newpieceplease/npp/orbit"
)

const (
	outputOption = "output"

	carType = "application/vnd.ipld.car"
	carName = "car"
)

// exportLine is the output of `npp db export` with a file, at the command line.
type exportLine struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

var dbExportCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Write a database, with all that it needs, as a CAR.",
		ShortDescription: `
Writes the manifest, who may write, the writers' identities and all entries as
a CAR (version 1), to standard output or to a file. 'ipfs npp db import' reads
it, and so does 'ipfs dag import'.

  > ipfs npp db export pieces -o pieces.car
  exported 91034 bytes to pieces.car
  > ipfs npp db export pieces | ssh studio ipfs npp db import
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(outputOption, "o", "Write to this file; replaced when all is written."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if _, ok := req.Options[outputOption]; !ok && term.IsTerminal(int(os.Stdout.Fd())) {
			return fmt.Errorf("a CAR is not for a terminal; hint: -o <file>, or redirect it")
		}
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, db, err := database(req, env)
		if err != nil {
			return err
		}
		pr, pw := io.Pipe()
		defer pr.Close()
		defer context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })()
		go func() {
			w := bufio.NewWriterSize(pw, 256<<10)
			stats, err := db.Export(ctx, w)
			if flushErr := w.Flush(); err == nil {
				err = flushErr
			}
			if err == nil && len(stats.Damaged) > 0 {
				err = fmt.Errorf("%s left out, the first: %s", quantity(len(stats.Damaged), "damaged entry was", "damaged entries were"), stats.Damaged[0])
			}
			pw.CloseWithError(dbError(err, req.Arguments[0]))
		}()
		r := bufio.NewReaderSize(pr, 256<<10)
		if _, err := r.Peek(1); err != nil && !errors.Is(err, io.EOF) {
			return err // instead of an answer that breaks off
		}
		res.SetEncodingType(cmds.OctetStream)
		res.SetContentType(carType)
		return res.Emit(r)
	},
	PostRun: cmds.PostRunMap{cmds.CLI: func(res cmds.Response, re cmds.ResponseEmitter) error {
		v, err := res.Next()
		if err != nil {
			return err
		}
		r, ok := v.(io.Reader)
		if !ok {
			return fmt.Errorf("the daemon answered with a %T instead of a CAR", v)
		}
		if term.IsTerminal(int(os.Stderr.Fd())) {
			r = &progress{Reader: r, w: os.Stderr, what: "bytes received"}
		}
		path, toFile := res.Request().Options[outputOption].(string)
		if !toFile {
			return re.Emit(r)
		}
		n, err := writeFile(path, r)
		if err != nil {
			return err
		}
		return re.Emit(&exportLine{File: path, Bytes: n})
	}},
	Type: exportLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *exportLine) error {
			_, err := fmt.Fprintf(w, "exported %s to %s\n", quantity(l.Bytes, "byte", "bytes"), printable(l.File))
			return err
		}),
	},
}

// writeFile writes a file, which is there or replaced when it is whole.
func writeFile(path string, r io.Reader) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, fmt.Errorf("write the file: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	n, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return n, err
}

// importLine is the output of `npp db import`.
type importLine struct {
	Address string   `json:"address"`
	Name    string   `json:"name"`
	Entries int      `json:"entries"` // that are new here
	Known   int      `json:"known"`   // that were here
	Pending int      `json:"waiting"` // whose parents are not here
	Invalid int      `json:"faults"`  // that are new and have no effect
	Refused int      `json:"refused"` // that are none of the database, or may not be
	Missing []string `json:"missing,omitempty"`
}

var dbImportCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Read a database from a CAR.",
		ShortDescription: `
Reads a CAR that 'db export' wrote, from a file or from standard input, checks
each entry as if it came from a peer, and keeps the database. Importing again
does no harm. What was read before an error stays. Of a list of writers that
can be changed, all count that were ever in it: import what comes from who can
be trusted with that.

  > ipfs npp db import pieces.car
  imported /orbitdb/zdpuAsb… pieces: 12 new, 0 known, 0 waiting, 0 refused
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("file", false, false, "File to read; '-' or nothing: standard input."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if req.Files != nil {
			return nil // kubo runs this twice where the daemon does not answer
		}
		var r io.Reader = os.Stdin
		if len(req.Arguments) > 0 && req.Arguments[0] != "-" {
			f, err := os.Open(req.Arguments[0])
			if err != nil {
				return fmt.Errorf("read the CAR: %w", err)
			}
			r = f
		} else if term.IsTerminal(int(os.Stdin.Fd())) {
			return errors.New("a CAR does not come from a terminal; hint: ipfs npp db import <file>")
		}
		req.Arguments = nil
		if term.IsTerminal(int(os.Stderr.Fd())) {
			r = &progress{Reader: r, w: os.Stderr, what: "bytes sent"}
		}
		req.Files = files.NewMapDirectory(map[string]files.Node{carName: files.NewReaderFile(r)})
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		if len(req.Arguments) > 0 {
			return errors.New("a file is for the command line; hint: post the CAR as a multipart body")
		}
		r, err := body(req, res, "body", errEmptyBody)
		if err != nil {
			return err
		}
		if r == nil {
			return errors.New("there is no CAR; hint: post it as a multipart body")
		}
		input, stop := contextReader(ctx, r)
		defer stop()
		db, stats, err := o.Import(ctx, input, nil)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return importError(err)
		}
		return res.Emit(&importLine{
			Address: db.Address(),
			Name:    db.Name(),
			Entries: stats.Entries,
			Known:   stats.Known,
			Pending: stats.Waiting,
			Invalid: stats.Faults,
			Refused: stats.Refused,
			Missing: stats.Missing,
		})
	},
	Type: importLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *importLine) error {
			_, err := fmt.Fprintf(w, "imported %s %s: %d new, %d known, %d waiting, %d refused\n",
				l.Address, printable(l.Name), l.Entries, l.Known, l.Pending, l.Refused+l.Invalid)
			return err
		}),
	},
}

func importError(err error) error {
	err = fmt.Errorf("%w (what was read before stays)", err)
	if errors.Is(err, orbit.ErrInvalidCAR) {
		return fmt.Errorf("%w; hint: ipfs npp db export writes one", err)
	}
	return dbError(err, "")
}
