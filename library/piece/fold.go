package piece

import (
	"errors"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/runes"
	"golang.org/x/text/transform"
	"golang.org/x/text/unicode/norm"
)

// Fold returns a text as it is compared: without case and accents, so that
// "dvorak" finds "Dvořák", and with single spaces.
func Fold(s string) string { return fold(s, 20*len(s)+20) }

// fold is [Fold] of a text that may grow to so many bytes, and is cut there: one
// character may become eighteen.
func fold(s string, most int) string {
	if plain(s) {
		s = strings.ToLower(s)
		return strings.Join(strings.Fields(s[:min(len(s), most)]), " ")
	}
	t := transform.Chain(norm.NFKD, runes.Remove(runes.In(unicode.Mn)), cases.Fold(), norm.NFC)
	folded := make([]byte, most)
	n, _, err := t.Transform(folded, []byte(s), true)
	if err == nil || errors.Is(err, transform.ErrShortDst) {
		s = strings.ToValidUTF8(string(folded[:n]), "")
	}
	return strings.Join(strings.Fields(s), " ")
}

// plain reports whether a text is ASCII.
func plain(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}
