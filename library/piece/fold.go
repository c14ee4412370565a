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

// Fold returns a text in the form in which texts are compared: case-folded,
// without accents and with single spaces, so that "dvorak" matches "Dvořák".
func Fold(s string) string { return fold(s, 20*len(s)+20) }

// fold is [Fold] with a limit on the length of the result, in bytes: folding
// can turn one character into eighteen.
func fold(s string, limit int) string {
	if isASCII(s) {
		s = strings.ToLower(s)
		return strings.Join(strings.Fields(s[:min(len(s), limit)]), " ")
	}
	t := transform.Chain(norm.NFKD, runes.Remove(runes.In(unicode.Mn)), cases.Fold(), norm.NFC)
	folded := make([]byte, limit)
	n, _, err := t.Transform(folded, []byte(s), true)
	if err == nil || errors.Is(err, transform.ErrShortDst) {
		s = strings.ToValidUTF8(string(folded[:n]), "")
	}
	return strings.Join(strings.Fields(s), " ")
}

// isASCII reports whether a text is ASCII.
func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}
