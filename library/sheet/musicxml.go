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
	// What comes before the parts is a few kilobytes, some hundred for the
	// largest orchestra.
	maxXML   = 2 << 20 // bytes that are parsed, in UTF-8
	maxDepth = 64
	maxField = 16 << 10 // bytes of an element that are kept
)

// readMusicXML returns title and composer of a MusicXML document, and whether
// it is one, which its root element tells. It stops where the music begins.
//
// The title is work-title and movement-title, joined with ": " where both are
// there and neither says what the other does, as in "Orchestral Suite No. 3:
// Air". The composer is identification/creator of type composer; several are
// joined with ", ". Where there is none, both are those that are credited on the
// page: the credit-words of a credit of credit-type title, or composer.
//
// Of a document whose encoding is other than UTF-8, UTF-16, Latin-1 or
// Windows-1252 there are no texts.
func readMusicXML(r *bufio.Reader) (title, composer string, ok bool) {
	r, wide := widths(r)
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
		case "us-ascii", "ascii", "utf8", "utf-16": // the last where it was recoded since
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

// widths returns a reader of a document without its byte order mark, and, if
// it is one of UTF-16, of UTF-8 instead of it.
func widths(r *bufio.Reader) (_ *bufio.Reader, wide bool) {
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
	text strings.Builder // of the element at hand
	role string          // its attribute type

	work, movement   string
	composers        []string
	credit           credit
	creditedTitle    string
	creditedComposer string
}

// credit is what stands on a page, and what it is meant to be.
type credit struct {
	types []string
	words strings.Builder
}

// take takes the next token, and reports whether there is any use in one more.
func (s *score) take(token xml.Token) bool {
	switch t := token.(type) {
	case xml.StartElement:
		switch {
		case len(s.path) == 0:
			// The root may come but once.
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

// end takes the element at hand, which is complete.
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

// names returns title and composer.
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

// words returns the words of a text, in lower case, each between single spaces.
func words(s string) string {
	return " " + strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r)
	}), " ") + " "
}
