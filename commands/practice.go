package commands

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
)

// practiceLine is the output of `npp practice`.
type practiceLine struct {
	Hash        string `json:"hash"`
	Title       string `json:"title,omitempty"`
	Name        string `json:"name,omitempty"` // of the file
	Practice    uint64 `json:"practice"`       // the owner's count
	PracticeAll uint64 `json:"practiceAll"`    // with companions

	// PracticeMore is set if PracticeAll may be too low, because the counts of
	// some companions are not complete.
	PracticeMore bool `json:"practiceMore,omitempty"`
}

var practiceCmd = &cmds.Command{
	Helptext: cmds.HelpText{
		Tagline: "Record that you practised a piece.",
		ShortDescription: `
Adds 1, or the given number, to the count of how often you practised a piece
of yours or of a companion. It prints the new count and, in parentheses, the
sum of your and your companions' counts.

  > ipfs npp practice QmNR2n
  practised 5 times (7 with companions)  Prelude in C
  > ipfs npp practice QmNR2n +3

In JSON, a line has "hash", "title", "name", "practice" and "practiceAll", and
"practiceMore" if some counts of companions have not arrived yet.
`,
	},
	Arguments: []cmds.Argument{
		pieceArg,
		cmds.StringArg("times", false, false, "How many times to add, such as +3; default: 1."),
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
		return res.Emit(&practiceLine{p.Hash, p.Title, p.Name, count.Own, count.All, count.Incomplete})
	},
	Type:     practiceLine{},
	Encoders: encodeText((*practiceLine).text),
}

func (l *practiceLine) text() string {
	text := "practised " + quantity(l.Practice, "time", "times")
	switch {
	case l.PracticeMore:
		text += fmt.Sprintf(" (at least %d with companions)", l.PracticeAll)
	case l.PracticeAll != l.Practice:
		text += fmt.Sprintf(" (%d with companions)", l.PracticeAll)
	}
	facts := pieceFacts{Title: l.Title, Name: l.Name}
	return fmt.Sprintf("%s  %s\n", text, printable(facts.displayName()))
}

// timesOf reads a number such as 3 or +3. In a URL, a plus sign is a space.
func timesOf(text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(text), "+"), 10, 64)
	if err != nil || n < 1 || n > library.MaxPractice {
		return 0, fmt.Errorf("%.40q is not a number of times from 1 to %d; hint: ipfs npp practice <piece> +3", text, library.MaxPractice)
	}
	return n, nil
}
