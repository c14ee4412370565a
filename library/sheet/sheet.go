// Package sheet tells from the content of a file whether it is sheet music,
// and reads title and composer from it where it has them. Names of files do not
// matter.
//
// What kind of file it is says github.com/gabriel-vasile/mimetype, and for what
// it does not know, functions of this package that are asked after it. They do
// not extend it: its tree of types is one for the whole process, and the
// gateway, which takes Content-Type from it, would then serve other headers.
//
// # Cost
//
// Files may come from anybody and have any size. [Read] reads at most 256 KiB to tell
// the kind, all there is to read of MIDI, ABC and LilyPond; 8 MiB more to find the
// texts of a PDF, of MusicXML (of which 2 MiB are parsed) or of an archive (of at most
// 64 MiB, with a directory of at most 1 MiB); and unpacks 32 MiB at most. It takes time
// in proportion to what it reads and unpacks. XML nests 64 deep and values of a PDF 32.
// Of a PDF, at most 64 sections and 262 144 values are read, which take some 20 MiB in
// memory at most until Read returns. A text has [MaxText] runes.
// [Peek] holds up to 64 MiB of a stream that is a zip, and 8 MiB of another one, in a
// buffer that grows. Nothing is written to disk, and nothing runs on after Read has
// returned.
package sheet

import (
	"context"
	"io"
	"strings"

	"github.com/gabriel-vasile/mimetype"
)

// Kind names a type of sheet music; it is "" for anything else.
type Kind string

// The kinds. Whether there is music on the pages of a PDF, or on an image,
// cannot be told.
const (
	PDF      Kind = "PDF"
	MusicXML Kind = "MusicXML" // also compressed
	ABC      Kind = "ABC"
	MIDI     Kind = "MIDI"
	LilyPond Kind = "LilyPond"
	Image    Kind = "image"
)

const (
	// MaxText is the length of the longest title and composer, in runes. What is
	// longer is cut.
	MaxText = 200

	maxHead = 256 << 10 // bytes by which a file is recognized, all that is read of text
)

// Sheet is what a file says of itself.
type Sheet struct {
	Kind Kind
	// MediaType is the usual one of the kind, such as application/pdf. For what is
	// no sheet music it is what the library says, which may have parameters:
	// application/octet-stream if nothing is known, never "".
	MediaType string
	// Extension is how names of such files usually end, such as ".mxl", or "".
	Extension string
	// Title and Composer are "" where the file has none, or none that can be read.
	// They are valid UTF-8 of at most MaxText runes, without control characters
	// and marks of writing direction, and have no white space but single spaces
	// within. What programs write where they know of no title, such as "Untitled"
	// or "Microsoft Word - x.doc", is none.
	Title, Composer string
}

// Read looks at a file of size bytes. It never fails because of what is in the
// file: what cannot be read is left empty. An error is one of reading r, among
// them [io.ErrUnexpectedEOF] if r has less than size bytes, or ctx's; the sheet
// is then empty.
//
// Read looks at ctx before each time it reads r. It is up to r to end what it
// does when ctx ends.
func Read(ctx context.Context, r io.ReaderAt, size int64) (Sheet, error) {
	src := &source{ctx: ctx, r: r, size: max(0, size)}
	if err := ctx.Err(); err != nil {
		return Sheet{}, err
	}
	head := src.bytes(0, maxHead)
	if src.err != nil {
		return Sheet{}, src.err
	}
	s := examine(src, head)
	if src.err != nil {
		return Sheet{}, src.err
	}
	return s, nil
}

// examine finds out what a file is that begins with head.
func examine(src *source, head []byte) Sheet {
	found := mimetype.Detect(head)
	switch {
	case found.Is("application/pdf"):
		if start, ok := pdfStart(src, head); ok {
			title, composer := readPDF(src, start)
			return Sheet{PDF, "application/pdf", ".pdf", title, composer}
		}
		found = mimetype.Lookup("application/octet-stream")
	case isMIDI(head):
		return Sheet{MIDI, "audio/midi", ".mid", midiTitle(head), ""}
	case within(found, "application/zip"):
		if title, composer, ok := readCompressed(src); ok {
			return Sheet{MusicXML, "application/vnd.recordare.musicxml", ".mxl", title, composer}
		}
	}
	if title, composer, ok := readMusicXML(src.from(0, maxRead)); ok {
		return Sheet{MusicXML, "application/vnd.recordare.musicxml+xml", ".musicxml", title, composer}
	}
	if text, ok := decode(head, src.size > int64(len(head))); ok {
		if title, composer, ok := readABC(text); ok {
			return Sheet{ABC, "text/vnd.abc", ".abc", title, composer}
		}
		if title, composer, ok := readLilyPond(text); ok {
			return Sheet{LilyPond, "text/x-lilypond", ".ly", title, composer}
		}
	}
	s := Sheet{MediaType: found.String(), Extension: found.Extension()}
	if strings.HasPrefix(s.MediaType, "image/") {
		s.Kind = Image
	}
	return s
}

// within reports whether a type is another one or based on it.
func within(m *mimetype.MIME, name string) bool {
	for ; m != nil; m = m.Parent() {
		if m.Is(name) {
			return true
		}
	}
	return false
}
