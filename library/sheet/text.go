package sheet

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
	utf "golang.org/x/text/encoding/unicode"
)

var (
	bomUTF8    = []byte("\xef\xbb\xbf")
	bomUTF16BE = []byte("\xfe\xff")
	bomUTF16LE = []byte("\xff\xfe")
)

// decode decodes text in UTF-16 if it has a byte order mark, in UTF-8 if it is
// valid, and otherwise in Windows-1252, which includes Latin-1. It reports
// whether b is text. If more data follows b, an incomplete last rune is
// dropped.
func decode(b []byte, more bool) (string, bool) {
	if bytes.HasPrefix(b, bomUTF16BE) || bytes.HasPrefix(b, bomUTF16LE) {
		// Invalid UTF-16 decodes to replacement characters without an error.
		b, _ = utf.UTF16(utf.BigEndian, utf.UseBOM).NewDecoder().Bytes(b)
	}
	b = bytes.TrimPrefix(b, bomUTF8)
	if bytes.ContainsFunc(b, isControl) {
		return "", false
	}
	if more {
		for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
			if tail := b[len(b)-i:]; utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					b = b[:len(b)-i]
				}
				break
			}
		}
	}
	return utf8OrWindows1252(b), true
}

// utf8OrWindows1252 decodes text in UTF-8 if it is valid, or else in
// Windows-1252.
func utf8OrWindows1252(b []byte) string {
	if !utf8.Valid(b) {
		b, _ = charmap.Windows1252.NewDecoder().Bytes(b)
	}
	return string(b)
}

// isControl reports whether a rune never occurs in text. The exceptions include
// the end-of-file character of DOS (0x1a) and escape (0x1b).
func isControl(r rune) bool {
	return r < ' ' && !strings.ContainsRune("\t\n\v\f\r\x1a\x1b", r)
}

// clean turns a text into one printable line as documented at [Sheet].
func clean(s string) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			space = n > 0
			continue
		case r == utf8.RuneError, r == '\ufeff', unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			continue
		}
		if space {
			b.WriteByte(' ')
			n++
			space = false
		}
		if n >= MaxText {
			break
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimSuffix(b.String(), " ")
}

// cleanTitle cleans a title, and returns "" for a placeholder.
func cleanTitle(s string) string {
	s = clean(s)
	lower := strings.ToLower(s)
	switch lower {
	case "untitled", "untitled score", "untitled document", "(untitled)", "unnamed", "(unnamed)", "title":
		return ""
	}
	// The title of a printed document, such as "Microsoft Word - x.doc".
	if rest, ok := strings.CutPrefix(lower, "microsoft "); ok && strings.Contains(rest, " - ") {
		return ""
	}
	return s
}

// cleanComposer cleans a composer, and returns "" for a placeholder.
func cleanComposer(s string) string {
	s = clean(s)
	switch strings.ToLower(s) {
	case "composer", "composer / arranger":
		return ""
	}
	return s
}
