package sheet

import (
	"html"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// abcKey matches the value of a field K:, which is empty, "none", the key of
// the Highland pipes, a key with or without a mode, or a clef alone.
var abcKey = regexp.MustCompile(`^(|none|H[Pp]|[A-G][#b]?([^A-Za-z].*|(?i:m|maj|min|mix|dor|phr|lyd|loc|ion|aeo|exp)[a-z]*(\W.*)?)?|(clef|treble|bass|alto|tenor|perc)\b.*)$`)

// readABC returns the title and composer of the first tune of a text in ABC
// notation, and reports whether a text is in ABC notation. It is if it has a
// tune header, from X: with a number to K: with a key, whose lines are all
// fields or comments. Before the header there may only be fields, comments and
// empty lines, unless the text begins with %abc.
//
// The rules are those of the ABC music standard 2.1, https://abcnotation.com.
// The first T: and C: of a tune apply. A tune without C: has the C: of the file
// header.
func readABC(text string) (title, composer string, ok bool) {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	sure := strings.HasPrefix(text, "%abc")
	tune, history := false, false
	common := ""
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "%") {
			continue
		}
		if strings.Trim(line, " \t\x1a") == "" {
			tune = false
			continue
		}
		field, value := abcField(line)
		switch {
		case field == 0:
			// In earlier versions of the standard, a history continues up to
			// the next field.
			if !sure && !(tune && history) {
				return "", "", false
			}
			continue
		case field == 'X' && number(value):
			tune, title, composer = true, "", ""
		case field == 'C' && !tune && common == "":
			common = cleanComposer(abcText(value))
		case field == 'C' && tune && composer == "":
			composer = cleanComposer(abcText(value))
		case field == 'T' && tune && title == "":
			title = cleanTitle(abcText(value))
		case field == 'K' && tune:
			if composer == "" {
				composer = common
			}
			if !abcKey.MatchString(value) {
				return "", "", false
			}
			return title, composer, true
		}
		history = field == 'H' || history && field == '+'
	}
	return "", "", false
}

// abcField returns the letter and the value of a field, without a comment. The
// letter is 0 if the line is not a field.
func abcField(line string) (byte, string) {
	if len(line) < 2 || line[1] != ':' {
		return 0, ""
	}
	c := line[0]
	if !letter(c) && c != '+' {
		return 0, ""
	}
	value := line[2:]
	for i := 0; i < len(value); i++ {
		if value[i] == '%' && (i == 0 || value[i-1] != '\\') {
			value = value[:i]
			break
		}
	}
	return c, strings.TrimSpace(value)
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// number reports whether a text is a decimal number, as a tune number is.
func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// abcAccents maps the character after a backslash to the combining mark of the
// letter that follows.
var abcAccents = map[byte]string{
	'`': "\u0300", '\'': "\u0301", '^': "\u0302", '~': "\u0303", '"': "\u0308",
	'=': "\u0304", 'c': "\u0327", 'v': "\u030c", 'u': "\u0306", ';': "\u0328",
}

var abcLetters = strings.NewReplacer(
	`\aa`, "å", `\AA`, "Å", `\ae`, "æ", `\AE`, "Æ", `\oe`, "œ", `\OE`, "Œ",
	`\/o`, "ø", `\/O`, "Ø", `\ss`, "ß",
)

// abcText replaces HTML entities and the standard's mnemonics for letters
// outside ASCII.
func abcText(s string) string {
	s = abcLetters.Replace(s[:min(len(s), 8*MaxText)])
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if s[i] == 'u' && i+4 < len(s) {
			if r, err := strconv.ParseUint(s[i+1:i+5], 16, 16); err == nil {
				b.WriteRune(rune(r))
				i += 4
				continue
			}
		}
		mark := abcAccents[s[i]]
		if mark == "" || i+1 == len(s) || !letter(s[i+1]) {
			b.WriteByte(s[i])
			continue
		}
		i++
		b.WriteByte(s[i])
		b.WriteString(mark)
	}
	return norm.NFC.String(html.UnescapeString(b.String()))
}
