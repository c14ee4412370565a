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
	maxStart    = 1 << 10  // bytes at the start and the end of a file that are searched for those of the PDF
	maxSections = 64       // cross-reference sections that are read
	maxUnpacked = 32 << 20 // bytes that are decompressed per file
	maxNumber   = 1 << 31  // object number, and number of entries in a table
	maxPacked   = 1 << 16  // objects per object stream
	maxValues   = 1 << 18  // values that are read per file; one may use 400 bytes of memory
)

var errPDF = errors.New("malformed PDF")

var pdfBegins = regexp.MustCompile(`%PDF-\d`)

// pdfStart returns the offset of the PDF in a file, and reports whether there
// is one. Other data, such as mail headers, may precede it if the file ends as
// a PDF does, since a text may contain %PDF-1.7.
func pdfStart(src *source, head []byte) (int64, bool) {
	at := pdfBegins.FindIndex(head[:min(len(head), maxStart)])
	if at == nil {
		return 0, false
	}
	before := bytes.TrimPrefix(head[:at[0]], bomUTF8)
	return int64(at[0]), len(bytes.TrimSpace(before)) == 0 || startxref(src) >= 0
}

// startxref returns the offset of the last cross-reference section, which is at
// the end of the file, or -1.
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

// readPDF returns the Title and Author of the document information dictionary
// of the PDF at an offset. PDF has no field for the composer, and engraving
// programs store it as Author. An Author that names a program or a user account
// is ignored. A document that is encrypted, or that has invalid cross
// references, has neither. XMP is not read.
//
// This reader only knows the path to that dictionary: from the end of the file
// through cross-reference tables, cross-reference streams and object streams
// (ISO 32000-1, 7.5). It reads a few kilobytes of a 200 MB scan, which may have
// to come from the network, and tolerates errors elsewhere in the document. The
// alternative, pdfcpu 0.15, reads all streams of a document into memory, by
// default 2 GB for a hostile document of 32 kB. With limits set, it fails for
// documents with large images and for documents with any invalid part, and a
// document of 9 MB without cross references still occupies it, with 900 MB,
// until the timeout.
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

// notAuthor matches programs and user accounts. Sibelius without a version is a
// composer.
var notAuthor = regexp.MustCompile(`(?i)^(user|admin|administrator|owner|root|unknown|` +
	`(musescore( studio)?|lilypond|(gpl )?ghostscript|microsoft|adobe|libreoffice|openoffice(\.org)?)( .*)?|(pdf|xe|lua)?(la)?tex|` +
	`(dorico|finale|sibelius|encore|capella|noteflight|flat|guitar pro)( version)? v?[\d.]+)$`)

// pdf is a document.
type pdf struct {
	src      *source
	start    int64 // offset in the file, to which offsets in the document are relative
	left     int64 // bytes that may still be decompressed
	values   int   // values that may still be read
	sections []section
}

// section is a cross-reference section. Each incremental save appends one.
type section struct {
	tables  []table // of a section in table form
	at      int64   // offset of a cross-reference stream, else -1
	trailer dict
}

// table is a run of cross-reference entries of 20 bytes each.
type table struct{ first, count, at int64 }

// info returns the document information dictionary. It reads the section at an
// offset and the sections to which that one refers.
func (p *pdf) info(at int64) (dict, error) {
	var info any
	next := []int64{at}
	for len(next) > 0 && len(p.sections) < maxSections { // sections may form a cycle
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
		// In a hybrid file, the stream takes precedence over the previous
		// section.
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

// entry is a cross-reference entry: the location of an object in the document
// or in an object stream.
type entry struct {
	inStream  bool
	at, index int64 // offset, or object number of the stream and index in it
}

// find returns the newest cross-reference entry of an object.
func (p *pdf) find(number int64) (entry, error) {
	for _, s := range p.sections {
		if s.at >= 0 {
			if e, ok, err := p.findInStream(s, number); ok || err != nil {
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

// findInStream looks for an entry in a cross-reference stream. Each row has
// three numbers, and /W has their widths in bytes.
func (p *pdf) findInStream(s section, number int64) (entry, bool, error) {
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

// resolve returns the object to which a reference points, or nil if it does not
// exist. It returns any other value unchanged.
func (p *pdf) resolve(v any) any {
	number, ok := v.(reference)
	if !ok {
		return v
	}
	e, err := p.find(int64(number))
	if err != nil {
		return nil
	}
	if e.inStream {
		v, err = p.inObjectStream(e)
	} else {
		v, _, err = p.object(e.at, int64(number))
	}
	if err != nil {
		return nil
	}
	return v
}

// inObjectStream returns an object from an object stream. The stream has pairs
// of object numbers and offsets, and from /First on the objects.
func (p *pdf) inObjectStream(e entry) (any, error) {
	stream, err := p.find(e.at)
	if err != nil || stream.inStream {
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
	numbers := 2 * maxPacked // a separate limit, because these values are not stored
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

// text decodes the string that a value is or refers to.
func (p *pdf) text(v any) string {
	b, _ := p.resolve(v).(octets)
	return pdfText(b)
}

// pdfText decodes a string in UTF-16 if it has a byte order mark, in UTF-8 if
// it is valid, and otherwise in PDFDocEncoding.
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

// The ranges in which PDFDocEncoding differs from Latin-1 (ISO 32000-1, D.2).
var (
	pdfLow  = []rune("˘ˇˆ˙˝˛˚˜")
	pdfHigh = []rune("•†‡…—–ƒ⁄‹›−‰„“”‘’‚™ﬁﬂŁŒŠŸŽıłœšž\ufffd€")
)
