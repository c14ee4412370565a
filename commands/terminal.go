package commands

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// ask asks a question and reports whether the answer is yes.
func ask(r io.Reader, w io.Writer, question string) bool {
	fmt.Fprint(w, question, " [y/N] ")
	answer, _ := bufio.NewReader(io.LimitReader(r, 100)).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}

// askTerminal is ask on standard input and standard error. When the context is
// done, the answer is no.
func askTerminal(ctx context.Context, question string) bool {
	in, stop, _ := contextReader(ctx, os.Stdin)
	defer stop()
	return ask(in, os.Stderr, question)
}

// progress is a reader that shows on w how much was read, every second from the
// first second on.
type progress struct {
	io.Reader
	w     io.Writer
	what  string
	count func([]byte) int // bytes if nil

	begun bool
	read  atomic.Int64
	ended chan struct{}
	done  chan struct{}
}

// withProgress shows the progress of r on standard error, if that is a
// terminal.
func withProgress(r io.Reader, what string, count func([]byte) int) io.Reader {
	if !isTerminal(os.Stderr) {
		return r
	}
	return &progress{Reader: r, w: os.Stderr, what: what, count: count}
}

func (p *progress) Read(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		p.ended, p.done = make(chan struct{}), make(chan struct{})
		go p.show()
	}
	n, err := p.Reader.Read(b)
	if p.count != nil {
		p.read.Add(int64(p.count(b[:n])))
	} else {
		p.read.Add(int64(n))
	}
	if err != nil && p.ended != nil {
		close(p.ended)
		<-p.done
		p.ended = nil
	}
	return n, err
}

func (p *progress) show() {
	defer close(p.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	shown := false
	for {
		select {
		case <-tick.C:
			shown = true
			fmt.Fprintf(p.w, "\r%d %s", p.read.Load(), p.what)
		case <-p.ended:
			if shown {
				fmt.Fprintf(p.w, "\r%d %s\n", p.read.Load(), p.what)
			}
			return
		}
	}
}

// progressLine is a line at a terminal that the next output replaces.
type progressLine struct {
	w     io.Writer
	shown bool
}

func (p *progressLine) show(text string) {
	p.shown = true
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
}

func (p *progressLine) clear() {
	if p.shown {
		p.shown = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// progressLines prints changes of a text, at most one line a second.
type progressLines struct {
	w    io.Writer
	text string
	at   time.Time
}

func (p *progressLines) show(text string) {
	if text == p.text || time.Since(p.at) < time.Second {
		return
	}
	p.text, p.at = text, time.Now()
	fmt.Fprintln(p.w, text)
}
