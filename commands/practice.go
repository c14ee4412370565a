package commands

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
)

// practiceLine is the output of `npp practice`: the count that it made.
type practiceLine struct {
	Hash        string `json:"hash"`
	Title       string `json:"title,omitempty"`
	Name        string `json:"name,omitempty"` // of the file
	Practice    uint64 `json:"practice"`       // by oneself
	PracticeAll uint64 `json:"practiceAll"`    // with companions

	// PracticeMore is set where PracticeAll may be too low: not all that companions
	// counted is here.
	PracticeMore bool `json:"practiceMore,omitempty"`
}

var practiceCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Count that a piece was practised.",
		ShortDescription: `
Counts that you practised a piece, one of yours or of your companions', once
or so many times, and prints how often that is now. What your companions
counted is added to it.

  > ipfs npp practice QmNR2n
  practised 5 times (7 with companions)  Prelude in C
  > ipfs npp practice QmNR2n +3

In JSON a line has "hash", "title", "name", "practice" and "practiceAll", and
"practiceMore" where not all that companions counted is here.
`,
	},
	Arguments: []cmds.Argument{
		pieceArg,
		cmds.StringArg("times", false, false, "How many times more, such as +3; once if not given."),
	},
	Run: func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) error {
		ctx, _, lib, err := libraryOf(req, env)
		if err != nil {
			return err
		}
		times := uint64(1)
		if len(req.Arguments) > 1 {
			if times, err = timesOf(req.Arguments[1]); err != nil {
				return err
			}
		}
		p, err := resolve(ctx, lib, req.Arguments[0], true)
		if err != nil {
			return err
		}
		count, err := lib.Practise(ctx, p.Hash, times)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return dbError(err, library.PracticeName)
		}
		return res.Emit(&practiceLine{p.Hash, p.Title, p.Name, count.Own, count.All, count.More})
	},
	Type: practiceLine{},
	Encoders: cmds.EncoderMap{
		cmds.Text: cmds.MakeTypedEncoder(func(req *cmds.Request, w io.Writer, l *practiceLine) error {
			text := "practised " + quantity(l.Practice, "time", "times")
			switch {
			case l.PracticeMore:
				text += fmt.Sprintf(" (at least %d with companions)", l.PracticeAll)
			case l.PracticeAll != l.Practice:
				text += fmt.Sprintf(" (%d with companions)", l.PracticeAll)
			}
			facts := pieceFacts{Title: l.Title, Name: l.Name}
			_, err := fmt.Fprintf(w, "%s  %s\n", text, printable(facts.displayName()))
			return err
		}),
	},
}

// timesOf is how many times an argument says. In a URL, a plus sign is a space.
func timesOf(text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(text), "+"), 10, 64)
	if err != nil || n < 1 || n > library.MaxPractice {
		return 0, fmt.Errorf("%.40q is not how many times, must be from 1 to %d; hint: ipfs npp practice <piece> +3", text, library.MaxPractice)
	}
	return n, nil
}
