package commands

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
)

func TestTablesAreHarmlessAndAligned(t *testing.T) {
	tab := table{width: 5}
	tab.row("a", "b")
	tab.row(hostile, hostile)
	tab.optional("c", "")
	tab.rows("d", maxRows+2, func(i int) string { return fmt.Sprint(i) })
	got := tab.String()
	if !strings.HasPrefix(got, "a      b\n"+escaped+"  "+escaped+"\nd      0\n") || !strings.HasSuffix(got, "d      7\nd      and 2 more\n") {
		t.Errorf("got:\n%s", got)
	}
	if strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("got: %q", got)
	}
}

func TestColumnsHaveOneWidth(t *testing.T) {
	for text, want := range map[string]string{"": "-   ", "ab": "ab  ", "abcd": "abcd", "äbcde": "äbc…", "a\nb": "a\\nb"} {
		if got := column(text, 4); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestTheRestOfTextsIsCounted(t *testing.T) {
	texts := []string{"a", "b", "c"}
	for limit, want := range map[int]string{3: "a, b, c", 2: "a, b and 1 more"} {
		if got := firstOf(texts, limit); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
