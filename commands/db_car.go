package commands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/orbit"
)

const (
	outputOption = "output"

	carType = "application/vnd.ipld.car"
	carName = "car"
)

// exportLine is the output of `npp db export` at the command line, with a file.
type exportLine struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

var dbExportCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Write a database to a CAR file.",
		ShortDescription: `
Writes everything that the database needs to a file or to standard output: the
manifest, the access controller, the identities of the writers, and all
entries. The format is CAR, version 1. 'ipfs npp db import' and 'ipfs dag
import' read it, and so does @orbitdb/core.

  > ipfs npp db export pieces -o pieces.car
  exported 91034 bytes to pieces.car
  > ipfs npp db export pieces | ssh studio ipfs npp db import
`,
	},
	Arguments: []cmds.Argument{dbArg},
	Options: []cmds.Option{
		cmds.StringOption(outputOption, "o", "Write to this file; an old one is replaced at the end."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if _, ok := req.Options[outputOption]; !ok && isTerminal(os.Stdout) {
			return errors.New("a CAR cannot be shown at a terminal; hint: write it to a file with -o <file>")
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
			return err // an error is better than an answer that breaks off
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
		r = withProgress(r, "bytes received", nil)
		path, toFile := res.Request().Options[outputOption].(string)
		if !toFile {
			return re.Emit(r)
		}
		n, err := saveFile(path, r, true)
		if err != nil {
			return err
		}
		return re.Emit(&exportLine{File: path, Bytes: n})
	}},
	Type: exportLine{},
	Encoders: encodeText(func(l *exportLine) string {
		return fmt.Sprintf("exported %s to %s\n", quantity(l.Bytes, "byte", "bytes"), printable(l.File))
	}),
}

// importLine is the output of `npp db import`.
type importLine struct {
	Address      string   `json:"address"`
	Name         string   `json:"name"`
	Entries      int      `json:"entries"` // new ones
	Known        int      `json:"known"`   // that were here before
	Pending      int      `json:"waiting"` // pending ones
	Unauthorized int      `json:"faults"`  // new ones that are not authorized
	Refused      int      `json:"refused"` // malformed, or of another database
	Missing      []string `json:"missing,omitempty"`
}

var dbImportCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Read a database from a CAR file.",
		ShortDescription: `
Reads a CAR that 'ipfs npp db export' wrote, from a file or from standard
input. Every entry is checked as if a peer had sent it. Importing twice does
no harm. After an error, what was read before it stays.

  > ipfs npp db import pieces.car
  imported /orbitdb/zdpuAsb… pieces: 12 new, 0 known, 0 pending, 0 refused

Of a database that was created with '--managed', entries are accepted from
everybody who was ever on its access list in the CAR. Import only what comes
from people whom you trust with that.
`,
	},
	Arguments: []cmds.Argument{
		cmds.StringArg("file", false, false, "File to read; '-' or nothing for standard input."),
	},
	PreRun: func(req *cmds.Request, env cmds.Environment) error {
		if hasBody(req) {
			return nil
		}
		var r io.Reader = os.Stdin
		var err error
		if len(req.Arguments) > 0 && req.Arguments[0] != "-" {
			r, err = openInput(req.Arguments[0], "CAR")
		} else if isTerminal(os.Stdin) {
			err = errors.New("a CAR cannot be typed at a terminal; hint: ipfs npp db import <file>")
		}
		if err != nil {
			return err
		}
		req.Arguments = nil
		setBody(req, carName, withProgress(r, "bytes sent", nil))
		return nil
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, o, err := databases(req, env)
		if err != nil {
			return err
		}
		if len(req.Arguments) > 0 {
			return errors.New("a file name works only at the command line; hint: post the CAR as a multipart body")
		}
		r, err := body(req, res, "body", errEmptyBody)
		if err != nil {
			return err
		}
		if r == nil {
			return errors.New("there is no CAR; hint: post it as a multipart body")
		}
		input, end := bodyReader(ctx, r)
		defer end()
		db, stats, err := o.Import(ctx, input, nil)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return importError(err)
		}
		return res.Emit(&importLine{
			Address:      db.Address(),
			Name:         db.Name(),
			Entries:      stats.Entries,
			Known:        stats.Known,
			Pending:      stats.Pending,
			Unauthorized: stats.Unauthorized,
			Refused:      stats.Refused,
			Missing:      stats.Missing,
		})
	},
	Type: importLine{},
	Encoders: encodeText(func(l *importLine) string {
		return fmt.Sprintf("imported %s %s: %d new, %d known, %d pending, %d refused\n",
			l.Address, printable(l.Name), l.Entries, l.Known, l.Pending, l.Refused+l.Unauthorized)
	}),
}

func importError(err error) error {
	err = fmt.Errorf("%w (what was read before stays)", err)
	if errors.Is(err, orbit.ErrInvalidCAR) {
		return fmt.Errorf("%w; hint: ipfs npp db export writes one", err)
	}
	return dbError(err, "")
}
