package sheet_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf16"
)

// Objects of a document with one empty page.
const (
	catalog = "<</Type/Catalog/Pages 2 0 R>>"
	pages   = "<</Type/Pages/Kids[3 0 R]/Count 1>>"
	page    = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<<>>>>"
	air     = "<</Title(Air)/Author(J. S. Bach)>>"
)

// pdf returns a document whose fourth object is the information dictionary. The
// trailer has additional entries, and further objects have numbers from 5 on.
func pdf(info, trailer string, objects ...string) string {
	var b strings.Builder
	b.WriteString("%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
	var at []int
	for i, o := range append([]string{catalog, pages, page, info}, objects...) {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", i+1, o)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(at)+1)
	for _, o := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&b, "trailer\n<</Size %d/Root 1 0 R/Info 4 0 R%s>>\nstartxref\n%d\n%%%%EOF\n", len(at)+1, trailer, xref)
	return b.String()
}

// saved appends a new version of object 4, as an incremental save does.
func saved(document, info string) string {
	prev := strings.TrimSuffix(document[strings.LastIndex(document, "startxref\n")+len("startxref\n"):], "\n%%EOF\n")
	object := len(document)
	document += "4 0 obj\n" + info + "\nendobj\n"
	return document + fmt.Sprintf("xref\n4 1\n%010d 00000 n \ntrailer\n<</Size 5/Root 1 0 R/Info 4 0 R/Prev %s>>\nstartxref\n%d\n%%%%EOF\n",
		object, prev, len(document))
}

// packed returns a document of version 1.5 whose fourth object is in an object
// stream, and whose cross-reference stream uses PNG predictors: its rows have
// the given filter types in turn.
func packed(stream, extra string, kinds ...byte) string {
	var b strings.Builder
	b.WriteString("%PDF-1.5\n%\xe2\xe3\xcf\xd3\n")
	at := []int{0}
	object := func(content string) {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(at)-1, content)
	}
	object(catalog)
	object(pages)
	object(page)
	at = append(at, 0)
	object("<</Type/ObjStm/Filter/FlateDecode" + extra + "/Length 6 0 R>>stream\r\n" + stream + "\nendstream")
	object(fmt.Sprint(len(stream)))
	at = append(at, b.Len())
	var plain, filtered []byte
	for i, o := range at {
		row := binary.BigEndian.AppendUint32([]byte{1}, uint32(o))
		row = append(row, 0)
		switch i {
		case 0:
			row = []byte{0, 0, 0, 0, 0, 0xff}
		case 4:
			row = []byte{2, 0, 0, 0, 5, 1}
		}
		above := make([]byte, 6)
		if i > 0 {
			copy(above, plain[len(plain)-6:])
		}
		plain = append(plain, row...)
		kind := kinds[i%len(kinds)]
		filtered = append(filtered, kind)
		for j, c := range row {
			var left, corner byte
			if j > 0 {
				left, corner = row[j-1], above[j-1]
			}
			filtered = append(filtered, c-guess(kind, left, above[j], corner))
		}
	}
	z := deflate(filtered)
	fmt.Fprintf(&b, "7 0 obj\n<</Type/XRef/Size 8/W[1 4 1]/Index[0 2 2 6]/Root 1 0 R/Info 4 0 R/Filter[/FlateDecode]"+
		"/DecodeParms<</Predictor 12/Columns 6>>/Length %d>>stream\n%s\nendstream\nendobj\nstartxref\n%d\n%%%%EOF", len(z), z, at[7])
	return b.String()
}

// guess returns the prediction of a PNG filter type.
func guess(kind, left, up, corner byte) byte {
	switch kind {
	case 1:
		return left
	case 2:
		return up
	case 3:
		return byte((int(left) + int(up)) / 2)
	case 4:
		p := int(left) + int(up) - int(corner)
		best, least := byte(0), 1<<10
		for _, c := range []byte{left, up, corner} {
			if d := max(p-int(c), int(c)-p); d < least {
				best, least = c, d
			}
		}
		return best
	}
	return 0
}

// objects returns an object stream of two objects, the second of which is info.
func objects(info string) (stream, extra string) {
	head := "9 0 4 5 "
	return string(deflate([]byte(head + "null " + info))), fmt.Sprintf("/N 2/First %d", len(head))
}

func deflate(b []byte) []byte {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// bomb deflates a head, many MiB of a repeated text, and an end.
func bomb(head, fill string, many int, end string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		panic(err)
	}
	part := func(s string) string {
		b.Reset()
		w.Write([]byte(s))
		w.Flush()
		return b.String()
	}
	fill = strings.Repeat(fill, 1<<20/len(fill))
	all := part(head) + part(fill)
	// From here on, each repetition compresses to the same bytes.
	return all + strings.Repeat(part(fill), many-1) + part(end) + "\x03\x00"
}

type file struct{ name, content string }

// explosive returns an archive of files and of one that is already compressed.
func explosive(t testing.TB, name, packed string, files ...file) string {
	return archived(t, func(w *zip.Writer) error {
		out, err := w.CreateRaw(&zip.FileHeader{
			Name: name, Method: zip.Deflate, CompressedSize64: uint64(len(packed)), UncompressedSize64: 1 << 31,
		})
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, packed)
		return err
	}, files...)
}

func archive(t testing.TB, files ...file) string {
	return archived(t, func(*zip.Writer) error { return nil }, files...)
}

func archived(t testing.TB, more func(*zip.Writer) error, files ...file) string {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		method := zip.Deflate
		if f.name == "mimetype" {
			method = zip.Store
		}
		out, err := w.CreateHeader(&zip.FileHeader{Name: f.name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(more(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func container(path string) file {
	return file{"META-INF/container.xml", `<?xml version="1.0" encoding="UTF-8"?>
<container><rootfiles><rootfile full-path="` + path + `" media-type="application/vnd.recordare.musicxml+xml"/><rootfile full-path="score.pdf"/></rootfiles></container>`}
}

// wide encodes a text in UTF-16.
func wide(order binary.AppendByteOrder, s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, u)
	}
	return string(b)
}

// partwise returns a document with a header and one part.
func partwise(head string) string {
	return `<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">
<score-partwise version="4.0">` + head + `
<part-list><score-part id="P1"><part-name>Violin</part-name></score-part></part-list>
<part id="P1"><measure number="1"><work><work-title>not this</work-title></work></measure></part></score-partwise>`
}

// song returns a MIDI file with one track of events.
func song(events string) string {
	events += "\x00\xff\x2f\x00"
	return "MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0MTrk" + string(binary.BigEndian.AppendUint32(nil, uint32(len(events)))) + events
}
