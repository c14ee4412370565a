package sheet

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// readLilyPond returns the title and composer of LilyPond source, and reports
// whether a text is LilyPond source. It is if
//
//   - it begins, after comments, with a command, a block, Scheme or an
//     assignment;
//   - it has no TeX command, since LilyPond can be embedded in TeX; and
//   - it has \version "2.24.0", or a \header with an assignment, or \relative
//     followed by a pitch or a block, or \new with a context such as Staff, or
//     \score { with \key, \time, \clef, \layout or \midi.
//
// Title and composer are the first ones that a \header sets to a string. A
// \markup is ignored. See
// https://lilypond.org/doc/v2.24/Documentation/notation/file-structure.
func readLilyPond(text string) (title, composer string, ok bool) {
	l := lilypond{rest: text}
	l.skip()
	if !lilypondStart.MatchString(l.rest) {
		return "", "", false
	}
	sure, score, other := false, false, false
	for {
		t, more := l.next()
		if !more {
			break
		}
		if t.kind != command {
			continue
		}
		if slices.Contains(ofTeX, t.text) {
			return "", "", false
		}
		after := l // for lookahead
		a, _ := after.next()
		switch t.text {
		case "version":
			sure = sure || a.kind == quoted && lilypondVersion.MatchString(a.text)
		case "relative":
			sure = sure || a.is(mark, "{") || a.kind == word && lilypondPitch.MatchString(a.text)
		case "new", "context":
			sure = sure || a.kind == word && slices.Contains(contexts, a.text)
		case "score":
			score = score || a.is(mark, "{")
		case "key", "clef", "time":
			other = other || a.kind == word || a.kind == quoted
		case "layout", "midi":
			other = other || a.is(mark, "{")
		case "header":
			if !a.is(mark, "{") {
				break
			}
			l = after
			fields := l.header()
			sure = sure || fields.any
			if title == "" {
				title = cleanTitle(fields.title)
			}
			if composer == "" {
				composer = cleanComposer(fields.composer)
			}
		}
	}
	if !sure && !(score && other) {
		return "", "", false
	}
	return title, composer, true
}

var (
	lilypondStart   = regexp.MustCompile(`^(\\[A-Za-z]|[#$]\(|\{|<<|[A-Za-z][\w.-]*\s*=|"[^"]*"\s*=)`)
	lilypondVersion = regexp.MustCompile(`^\d+\.\d+`)
	lilypondPitch   = regexp.MustCompile(`^([a-h]|do|re|mi|fa|sol|la|si)(is|es|s|d|b|x|sharp|flat)*$`)

	contexts = []string{
		"Score", "Staff", "Voice", "StaffGroup", "PianoStaff", "GrandStaff", "ChoirStaff", "DrumStaff", "DrumVoice",
		"TabStaff", "TabVoice", "RhythmicStaff", "GregorianTranscriptionStaff", "VaticanaStaff", "MensuralStaff",
		"Lyrics", "ChordNames", "FiguredBass", "Dynamics", "FretBoards",
	}
	ofTeX = []string{
		"documentclass", "documentstyle", "usepackage", "begin", "end", "def", "newcommand", "renewcommand",
		"providecommand", "newenvironment", "RequirePackage", "input", "bye", "chapter",
	}
)

// Kinds of tokens.
const (
	mark    = iota // any other character
	word           // a name
	command        // a name after a backslash, without the backslash
	quoted         // a string, without the quotes
)

type lexeme struct {
	kind int
	text string
}

func (t lexeme) is(kind int, text string) bool { return t.kind == kind && t.text == text }

// lilypond splits source into tokens.
type lilypond struct{ rest string }

// skip consumes white space and comments.
func (l *lilypond) skip() {
	for {
		l.rest = strings.TrimLeft(l.rest, " \t\r\n\v\f")
		end := "\n"
		switch {
		case strings.HasPrefix(l.rest, "%{"):
			end = "%}"
		case !strings.HasPrefix(l.rest, "%"):
			return
		}
		_, l.rest, _ = strings.Cut(l.rest, end)
	}
}

// next returns the next token, and whether there is one.
func (l *lilypond) next() (lexeme, bool) {
	l.skip()
	if l.rest == "" {
		return lexeme{}, false
	}
	if l.rest[0] == '"' {
		return lexeme{quoted, l.quoted()}, true
	}
	if n := nameLength(l.rest); n > 0 {
		t := lexeme{word, l.rest[:n]}
		l.rest = l.rest[n:]
		return t, true
	}
	if l.rest[0] == '\\' {
		if n := nameLength(l.rest[1:]); n > 0 {
			t := lexeme{command, l.rest[1 : 1+n]}
			l.rest = l.rest[1+n:]
			return t, true
		}
	}
	_, n := utf8.DecodeRuneInString(l.rest)
	t := lexeme{mark, l.rest[:n]}
	l.rest = l.rest[n:]
	return t, true
}

// nameLength returns the length of the name at the beginning of a text.
func nameLength(s string) int {
	i := 0
	for i < len(s) && (letter(s[i]) || i > 0 && (s[i] == '-' || s[i] == '_')) {
		i++
	}
	return i
}

// quoted consumes a string.
func (l *lilypond) quoted() string {
	var b strings.Builder
	for i := 1; i < len(l.rest); i++ {
		c := l.rest[i]
		switch {
		case c == '"':
			l.rest = l.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(l.rest):
			if i++; l.rest[i] == 'n' || l.rest[i] == 't' {
				b.WriteByte(' ')
			} else {
				b.WriteByte(l.rest[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	l.rest = ""
	return b.String()
}

// fields are the fields of a \header.
type fields struct {
	title, composer string
	any             bool // whether there is an assignment
}

// header consumes a \header block after its opening brace.
func (l *lilypond) header() fields {
	var f fields
	depth := 1
	for depth > 0 {
		t, ok := l.next()
		switch {
		case !ok:
			return f
		case t.is(mark, "{"):
			depth++
		case t.is(mark, "}"):
			depth--
		case depth == 1 && t.kind == word:
			ahead := *l
			if a, _ := ahead.next(); !a.is(mark, "=") {
				continue
			}
			f.any = true
			*l = ahead
			a, _ := ahead.next()
			if a.is(mark, "#") {
				a, _ = ahead.next()
			}
			if a.kind != quoted {
				continue
			}
			*l = ahead
			if t.text == "title" && f.title == "" {
				f.title = a.text
			}
			if t.text == "composer" && f.composer == "" {
				f.composer = a.text
			}
		}
	}
	return f
}
