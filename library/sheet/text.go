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

// decode returns the text that bytes are, in UTF-8 or, with a byte order mark,
// UTF-16, else in Windows-1252, of which Latin-1 is a part. It reports whether
// they are text. The last rune may be cut off if there is more.
func decode(b []byte, more bool) (string, bool) {
	if bytes.HasPrefix(b, bomUTF16BE) || bytes.HasPrefix(b, bomUTF16LE) {
		// What is no UTF-16 becomes replacement characters, not an error.
		b, _ = utf.UTF16(utf.BigEndian, utf.UseBOM).NewDecoder().Bytes(b)
	}
	b = bytes.TrimPrefix(b, bomUTF8)
	if bytes.ContainsFunc(b, notText) {
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
	return legacy(b), true
}

// legacy returns the text that bytes are, in UTF-8 or else in Windows-1252.
func legacy(b []byte) string {
	if !utf8.Valid(b) {
		b, _ = charmap.Windows1252.NewDecoder().Bytes(b)
	}
	return string(b)
}

// notText tells what never is in text. The last two are the end of a file in
// DOS, and escape.
func notText(r rune) bool {
	return r < ' ' && !strings.ContainsRune("\t\n\v\f\r\x1a\x1b", r)
}

// clean makes a text one line that can be shown, as [Sheet] promises.
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

// cleanTitle cleans a title, and drops what is none.
func cleanTitle(s string) string {
	s = clean(s)
	lower := strings.ToLower(s)
	switch lower {
	case "untitled", "untitled score", "untitled document", "(untitled)", "unnamed", "(unnamed)", "title":
		return ""
	}
	// As printed from an office, "Microsoft Word - x.doc".
	if rest, ok := strings.CutPrefix(lower, "microsoft "); ok && strings.Contains(rest, " - ") {
		return ""
	}
	return s
}

// cleanComposer cleans a composer, and drops what stands where one is to be
// written.
func cleanComposer(s string) string {
	s = clean(s)
	switch strings.ToLower(s) {
	case "composer", "composer / arranger":
		return ""
	}
	return s
}
