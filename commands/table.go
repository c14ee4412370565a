package commands

import (
	"cmp"
	"fmt"
	"strings"
)

// maxRows is how many rows of one name [table.rows] prints.
const maxRows = 8

// A table is text in two columns: names and what they stand for. All of it is
// [printable].
type table struct {
	width int // of the names
	b     strings.Builder
}

func (t *table) row(name, text string) {
	fmt.Fprintf(&t.b, "%-*s  %s\n", t.width, printable(name), printable(text))
}

// optional is row, unless there is no text.
func (t *table) optional(name, text string) {
	if text != "" {
		t.row(name, text)
	}
}

// rows prints n rows of one name, at most [maxRows], and how many more there
// are.
func (t *table) rows(name string, n int, text func(i int) string) {
	for i := range min(n, maxRows) {
		t.row(name, text(i))
	}
	if n > maxRows {
		t.row(name, fmt.Sprintf("and %d more", n-maxRows))
	}
}

func (t *table) String() string { return t.b.String() }

// column pads or truncates a text to a width. An empty text becomes "-".
func column(s string, width int) string {
	s = printable(cmp.Or(s, "-"))
	if runes := []rune(s); len(runes) > width {
		s = string(runes[:width-1]) + "…"
	}
	return fmt.Sprintf("%-*s", width, s)
}

// firstOf joins the first texts and says how many more there are.
func firstOf(texts []string, limit int) string {
	text := strings.Join(texts[:min(len(texts), limit)], ", ")
	if more := len(texts) - limit; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
