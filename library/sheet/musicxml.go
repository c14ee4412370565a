package sheet

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"io"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	utf "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

const (
	// maxXML is the number of bytes that are parsed, in UTF-8. The header
	// before the parts has a few kilobytes, and a few hundred for the largest
	// orchestra.
	maxXML   = 2 << 20
	maxDepth = 64
	maxField = 16 << 10 // bytes of an element that are stored
)

// readMusicXML returns the title and composer of a MusicXML document, and
// reports whether a document is MusicXML, by its root element. It stops at the
// first part.
//
// The title is made of work-title and movement-title. They are joined with ":
// ", as in "Orchestral Suite No. 3: Air", unless one contains the other. The
// composer is made of the identification/creator elements of type composer,
// joined with ", ". Without these elements, title and composer are the
// credit-words of a credit with credit-type title or composer.
//
// A document in an encoding other than UTF-8, UTF-16, Latin-1 or Windows-1252
// has neither.
func readMusicXML(r *bufio.Reader) (title, composer string, ok bool) {
	r, wide := toUTF8(r)
	if start, _ := r.Peek(64); !bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte("<")) {
		return "", "", false
	}
	d := xml.NewDecoder(io.LimitReader(r, maxXML))
	unknown := false
	d.CharsetReader = func(label string, in io.Reader) (io.Reader, error) {
		if wide {
			return in, nil
		}
		switch strings.ToLower(label) {
		case "us-ascii", "ascii", "utf8", "utf-16": // UTF-16 that was converted to UTF-8 without a new declaration
			return in, nil
		case "windows-1252", "iso-8859-1", "latin1":
		default:
			unknown = true
		}
		return charmap.Windows1252.NewDecoder().Reader(in), nil
	}
	s := score{}
	for {
		token, err := d.Token()
		if err != nil || !s.take(token) {
			break
		}
	}
	if !s.root {
		return "", "", false
	}
	if unknown {
		return "", "", true
	}
	title, composer = s.names()
	return title, composer, true
}

// toUTF8 returns a reader of a document without its byte order mark. It
// converts UTF-16 to UTF-8, and reports whether it did.
func toUTF8(r *bufio.Reader) (_ *bufio.Reader, wide bool) {
	var e encoding.Encoding
	start, _ := r.Peek(4)
	switch {
	case bytes.HasPrefix(start, bomUTF8):
		r.Discard(len(bomUTF8))
		return r, false
	case bytes.HasPrefix(start, bomUTF16BE), bytes.HasPrefix(start, []byte("\x00<\x00")):
		e = utf.UTF16(utf.BigEndian, utf.UseBOM)
	case bytes.HasPrefix(start, bomUTF16LE), bytes.HasPrefix(start, []byte("<\x00")):
		e = utf.UTF16(utf.LittleEndian, utf.UseBOM)
	default:
		return r, false
	}
	return bufio.NewReader(transform.NewReader(r, e.NewDecoder())), true
}

// score collects the texts of a document from its tokens.
type score struct {
	root bool
	path []string
	text strings.Builder // of the current element
	role string          // attribute "type" of the current element

	work, movement   string
	composers        []string
	credit           credit
	creditedTitle    string
	creditedComposer string
}

// credit is a text that is printed on a page, with its types.
type credit struct {
	types []string
	words strings.Builder
}

// take processes a token, and reports whether further tokens are needed.
func (s *score) take(token xml.Token) bool {
	switch t := token.(type) {
	case xml.StartElement:
		switch {
		case len(s.path) == 0:
			// A document has one root element.
			if s.root || t.Name.Local != "score-partwise" && t.Name.Local != "score-timewise" {
				return false
			}
			s.root = true
		case len(s.path) == 1 && (t.Name.Local == "part" || t.Name.Local == "measure"):
			return false
		case len(s.path) == 1 && t.Name.Local == "credit":
			s.credit = credit{}
		}
		if len(s.path) == maxDepth {
			return false
		}
		s.path = append(s.path, t.Name.Local)
		s.text.Reset()
		s.role = ""
		for _, a := range t.Attr {
			if a.Name.Local == "type" {
				s.role = a.Value
			}
		}
	case xml.CharData:
		if len(s.path) == 0 {
			return len(bytes.TrimSpace(t)) == 0
		}
		if s.text.Len() < maxField {
			s.text.Write(t[:min(len(t), maxField)])
		}
	case xml.EndElement:
		s.end()
		s.path = s.path[:len(s.path)-1]
		s.text.Reset()
	}
	return true
}

// end processes the end of the current element.
func (s *score) end() {
	if len(s.path) != 2 && len(s.path) != 3 {
		return
	}
	text := s.text.String()
	switch strings.Join(s.path[1:], "/") {
	case "work/work-title":
		s.work = cleanTitle(text)
	case "movement-title":
		s.movement = cleanTitle(text)
	case "identification/creator":
		c := cleanComposer(text)
		if s.role == "composer" && c != "" && len(s.composers) < MaxText && !slices.Contains(s.composers, c) {
			s.composers = append(s.composers, c)
		}
	case "credit/credit-type":
		if len(s.credit.types) < 8 {
			s.credit.types = append(s.credit.types, clean(text))
		}
	case "credit/credit-words":
		if s.credit.words.Len() < maxField {
			s.credit.words.WriteString(text + " ")
		}
	case "credit":
		if words := s.credit.words.String(); s.creditedTitle == "" && slices.Contains(s.credit.types, "title") {
			s.creditedTitle = cleanTitle(words)
		} else if s.creditedComposer == "" && slices.Contains(s.credit.types, "composer") {
			s.creditedComposer = cleanComposer(words)
		}
	}
}

// names returns the title and composer.
func (s *score) names() (title, composer string) {
	title, composer = s.creditedTitle, s.creditedComposer
	work, movement := words(s.work), words(s.movement)
	switch {
	case s.work == "" && s.movement == "":
	case s.movement == "", s.work != "" && strings.Contains(work, movement):
		title = s.work
	case s.work == "", strings.Contains(movement, work):
		title = s.movement
	default:
		title = clean(s.work + ": " + s.movement)
	}
	if len(s.composers) > 0 {
		composer = clean(strings.Join(s.composers, ", "))
	}
	return title, composer
}

// words returns the words of a text in lower case, each with a space before and
// after it.
func words(s string) string {
	return " " + strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r)
	}), " ") + " "
}
