package sheet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
	utf "golang.org/x/text/encoding/unicode"
)

const (
	maxStart    = 1 << 10  // bytes within which a PDF begins, and within which it ends
	maxSections = 64       // sections of cross references that are followed
	maxUnpacked = 32 << 20 // bytes that are unpacked of one file
	maxNumber   = 1 << 31  // of objects, and of what a table has of them
	maxPacked   = 1 << 16  // objects of an object stream
	maxValues   = 1 << 18  // values that are read of one file: one may take 400 bytes in memory
)

var errPDF = errors.New("malformed PDF")

var pdfBegins = regexp.MustCompile(`%PDF-\d`)

// pdfStart returns where a PDF begins in a file, and whether it is one: there
// may be something before it, as mail has, if what every PDF ends with is at the
// end of the file. A text may say %PDF-1.7.
func pdfStart(src *source, head []byte) (int64, bool) {
	at := pdfBegins.FindIndex(head[:min(len(head), maxStart)])
	if at == nil {
		return 0, false
	}
	before := bytes.TrimPrefix(head[:at[0]], bomUTF8)
	return int64(at[0]), len(bytes.TrimSpace(before)) == 0 || startxref(src) >= 0
}

// startxref returns what a PDF says last: where its cross references are, or -1.
func startxref(src *source) int64 {
	tail := src.bytes(max(0, src.size-2*maxStart), 2*maxStart)
	i := bytes.LastIndex(tail, []byte("startxref"))
	if i < 0 {
		return -1
	}
	fields := bytes.Fields(tail[i+len("startxref"):])
	if len(fields) == 0 {
		return -1
	}
	n, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// readPDF returns Title and Author of the document information dictionary of
// the PDF that begins at an offset. PDF knows of no composer, and those who
// engrave music write it as Author; an Author that is the program, or an account
// of a computer, is left out. Encrypted documents have neither here, nor have
// those whose cross references are broken; XMP is not read.
//
// The reader is its own, and knows only of the way to that dictionary: from the
// end of the file through cross references, as tables and streams, and object
// streams (ISO 32000-1, 7.5). It reads a few kilobytes of a scan of 200 MB, which
// may have to come from the network, and what is wrong elsewhere in the document
// does not matter. The library in question, pdfcpu 0.15, reads all streams of a
// document into memory, 2 GB for a hostile one of 32 kB unless told otherwise;
// within the limits it can be told, it is lost for documents with large images,
// it gives up on documents that are invalid in any part, and still one of 9 MB
// with no cross references keeps it busy, with 900 MB, until its time is over.
func readPDF(src *source, start int64) (title, composer string) {
	at := startxref(src)
	if at < 0 {
		return "", ""
	}
	src.left = maxRead
	p := &pdf{src: src, start: start, left: maxUnpacked, values: maxValues}
	info, err := p.info(at)
	if err != nil {
		return "", ""
	}
	program, producer := p.text(info["Creator"]), p.text(info["Producer"])
	author := cleanComposer(p.text(info["Author"]))
	if author == clean(program) || author == clean(producer) || notAuthor.MatchString(author) {
		author = ""
	}
	return cleanTitle(p.text(info["Title"])), author
}

// notAuthor matches programs and accounts. Sibelius is a composer unless with a
// version.
var notAuthor = regexp.MustCompile(`(?i)^(user|admin|administrator|owner|root|unknown|` +
	`(musescore( studio)?|lilypond|(gpl )?ghostscript|microsoft|adobe|libreoffice|openoffice(\.org)?)( .*)?|(pdf|xe|lua)?(la)?tex|` +
	`(dorico|finale|sibelius|encore|capella|noteflight|flat|guitar pro)( version)? v?[\d.]+)$`)

// pdf is a document.
type pdf struct {
	src      *source
	start    int64 // offset of the document, from which its offsets count
	left     int64 // bytes that may be unpacked yet
	values   int   // that may be read yet
	sections []section
}

// section is one of the sections of cross references, of which there is one for
// each time that the document was saved.
type section struct {
	tables  []table // of a section that is a table
	at      int64   // offset of one that is a stream, else -1
	trailer dict
}

// table is a run of entries of 20 bytes.
type table struct{ first, count, at int64 }

// info returns the document information dictionary, by way of the section at an
// offset and those that it names.
func (p *pdf) info(at int64) (dict, error) {
	var info any
	next := []int64{at}
	for len(next) > 0 && len(p.sections) < maxSections { // they may go round
		at, next = next[0], next[1:]
		s, err := p.section(at)
		if err != nil {
			return nil, err
		}
		p.sections = append(p.sections, s)
		if s.trailer["Encrypt"] != nil {
			return nil, errPDF
		}
		if info == nil {
			info = s.trailer["Info"]
		}
		// What a hybrid table has as a stream comes before what is older.
		for _, key := range []name{"XRefStm", "Prev"} {
			if at, ok := s.trailer[key].(int64); ok {
				next = append(next, at)
			}
		}
	}
	d, ok := p.resolve(info).(dict)
	if !ok {
		return nil, errPDF
	}
	return d, nil
}

// section reads the section at an offset.
func (p *pdf) section(at int64) (section, error) {
	s := section{at: -1}
	l, err := p.lexer(at)
	if err != nil {
		return s, err
	}
	first, err := l.value(0)
	if err != nil {
		return s, err
	}
	if first != keyword("xref") {
		s.at = at
		v, _, err := p.object(at, -1)
		if err != nil {
			return s, err
		}
		d, ok := v.(dict)
		if !ok || d["Type"] != name("XRef") {
			return s, errPDF
		}
		s.trailer = d
		return s, nil
	}
	for {
		v, err := l.value(0)
		if err != nil {
			return s, err
		}
		if v == keyword("trailer") {
			break
		}
		first, ok1 := v.(int64)
		v, err = l.value(0)
		if err != nil {
			return s, err
		}
		count, ok2 := v.(int64)
		if !ok1 || !ok2 || first < 0 || first > maxNumber || count < 0 || count > maxNumber || len(s.tables) == 4*maxSections {
			return s, errPDF
		}
		l.space()
		s.tables = append(s.tables, table{first, count, l.at})
		if l, err = p.lexer(l.at + 20*count); err != nil {
			return s, err
		}
	}
	v, err := l.value(0)
	if err != nil {
		return s, err
	}
	d, ok := v.(dict)
	if !ok {
		return s, errPDF
	}
	s.trailer = d
	return s, nil
}

// entry says where an object is: at an offset, or as one of those in a stream.
type entry struct {
	packed    bool
	at, index int64 // offset, or number of the stream and place in it
}

// find returns the newest entry of an object.
func (p *pdf) find(number int64) (entry, error) {
	for _, s := range p.sections {
		if s.at >= 0 {
			if e, ok, err := p.findPacked(s, number); ok || err != nil {
				return e, err
			}
			continue
		}
		for _, t := range s.tables {
			if number < t.first || number >= t.first+t.count {
				continue
			}
			l, err := p.lexer(t.at + 20*(number-t.first))
			if err != nil {
				return entry{}, err
			}
			at, _ := l.value(0)
			l.value(0) // the generation
			used, _ := l.value(0)
			if at, ok := at.(int64); ok && used == keyword("n") {
				return entry{at: at}, nil
			}
		}
	}
	return entry{}, errPDF
}

// findPacked looks for an entry in a section that is a stream, whose rows have
// three numbers of so many bytes as /W says.
func (p *pdf) findPacked(s section, number int64) (entry, bool, error) {
	widths, _ := s.trailer["W"].([]any)
	if len(widths) < 3 {
		return entry{}, false, errPDF
	}
	var w [3]int
	size := 0
	for i := range w {
		n, ok := widths[i].(int64)
		if !ok || n < 0 || n > 8 {
			return entry{}, false, errPDF
		}
		w[i] = int(n)
		size += w[i]
	}
	index, ok := s.trailer["Index"].([]any)
	if !ok {
		index = []any{int64(0), s.trailer["Size"]}
	}
	rows, found := int64(0), false
	for i := 0; i+1 < len(index) && !found; i += 2 {
		first, ok1 := index[i].(int64)
		count, ok2 := index[i+1].(int64)
		if !ok1 || !ok2 || first < 0 || first > maxNumber || count < 0 || count > maxNumber {
			return entry{}, false, errPDF
		}
		if found = number >= first && number < first+count; found {
			count = number - first
		}
		rows += count
	}
	if !found {
		return entry{}, false, nil
	}
	d, l, err := p.object(s.at, -1)
	if err != nil {
		return entry{}, false, err
	}
	r, err := p.unpack(d, l)
	if err != nil {
		return entry{}, false, err
	}
	if _, err := io.CopyN(io.Discard, r, rows*int64(size)); err != nil {
		return entry{}, false, err
	}
	row := make([]byte, size)
	if _, err := io.ReadFull(r, row); err != nil {
		return entry{}, false, err
	}
	fields := [3]int64{1}
	for i, n := range w {
		if n > 0 {
			var b [8]byte
			copy(b[8-n:], row[:n])
			row = row[n:]
			fields[i] = int64(binary.BigEndian.Uint64(b[:]))
		}
	}
	if fields[0] != 1 && fields[0] != 2 {
		return entry{}, false, nil
	}
	return entry{fields[0] == 2, fields[1], fields[2]}, true, nil
}

// resolve returns the object that a value refers to, nil if there is none, or
// the value if it is no reference.
func (p *pdf) resolve(v any) any {
	number, ok := v.(reference)
	if !ok {
		return v
	}
	e, err := p.find(int64(number))
	if err != nil {
		return nil
	}
	if e.packed {
		v, err = p.packed(e)
	} else {
		v, _, err = p.object(e.at, int64(number))
	}
	if err != nil {
		return nil
	}
	return v
}

// packed returns an object of an object stream, which has pairs of numbers and
// offsets, and then, from /First on, the objects.
func (p *pdf) packed(e entry) (any, error) {
	stream, err := p.find(e.at)
	if err != nil || stream.packed {
		return nil, errPDF
	}
	v, l, err := p.object(stream.at, e.at)
	if err != nil {
		return nil, err
	}
	d, _ := v.(dict)
	first, ok := d["First"].(int64)
	if !ok || d["Type"] != name("ObjStm") || e.index < 0 || e.index >= maxPacked {
		return nil, errPDF
	}
	r, err := p.unpack(d, l)
	if err != nil {
		return nil, err
	}
	numbers := 2 * maxPacked // which are not held
	pairs := newLexer(r, 0, &numbers)
	var offset int64
	for range 2 * (e.index + 1) {
		pairs.left = maxObject
		v, err := pairs.value(0)
		if err != nil {
			return nil, err
		}
		if offset, ok = v.(int64); !ok {
			return nil, errPDF
		}
	}
	skip := first + offset - pairs.at
	if skip < 0 {
		return nil, errPDF
	}
	if _, err := io.CopyN(io.Discard, pairs.r, skip); err != nil {
		return nil, err
	}
	return newLexer(pairs.r, 0, &p.values).value(0)
}

// text returns the text that a value is or refers to.
func (p *pdf) text(v any) string {
	b, _ := p.resolve(v).(octets)
	return pdfText(b)
}

// pdfText returns the text that a string is: UTF-16 or UTF-8 with a byte order
// mark, else in PDFDocEncoding, unless it is UTF-8 all the same.
func pdfText(b octets) string {
	switch {
	case bytes.HasPrefix(b, bomUTF16BE), bytes.HasPrefix(b, bomUTF16LE):
		b, _ = utf.UTF16(utf.BigEndian, utf.UseBOM).NewDecoder().Bytes(b)
		return string(b)
	case utf8.Valid(bytes.TrimPrefix(b, bomUTF8)):
		return string(bytes.TrimPrefix(b, bomUTF8))
	}
	var s strings.Builder
	for _, c := range b {
		switch {
		case c >= 0x18 && c < 0x20:
			s.WriteRune(pdfLow[c-0x18])
		case c >= 0x80 && c <= 0xa0:
			s.WriteRune(pdfHigh[c-0x80])
		default:
			s.WriteRune(charmap.ISO8859_1.DecodeByte(c))
		}
	}
	return s.String()
}

// Where PDFDocEncoding differs from Latin-1 (ISO 32000-1, D.2).
var (
	pdfLow  = []rune("˘ˇˆ˙˝˛˚˜")
	pdfHigh = []rune("•†‡…—–ƒ⁄‹›−‰„“”‘’‚™ﬁﬂŁŒŠŸŽıłœšž\ufffd€")
)
