// Package sheet detects sheet music by the content of a file, and reads its
// title and composer. File names are ignored.
//
// The package github.com/gabriel-vasile/mimetype detects the type of a file.
// This package adds detectors for types that mimetype does not know. They do
// not extend the type tree of mimetype, because that tree is global and the
// gateway sets Content-Type from it: an extension would change the gateway's
// headers.
//
// # Cost
//
// Files may come from anybody and have any size. [Read] reads at most 256 KiB
// to detect the kind, and reads no more of MIDI, ABC and LilyPond. For title
// and composer it reads at most 8 MiB more of a PDF, of MusicXML (of which it
// parses 2 MiB) or of an archive (which has at most 64 MiB, and a directory of
// at most 1 MiB). It decompresses at most 32 MiB. Its time is proportional to
// what it reads and decompresses. XML is parsed to a depth of 64, and PDF
// objects to a depth of 32. At most 64 cross-reference sections and 262 144
// values of a PDF are read, which use at most 20 MiB of memory until Read
// returns. A text has at most [MaxText] runes. [Peek] buffers up to 64 MiB of a
// zip stream, and up to 8 MiB of any other stream, in a buffer that grows. This
// package writes nothing to disk and starts no goroutines.
package sheet

import (
	"context"
	"io"
	"strings"

	"github.com/gabriel-vasile/mimetype"
)

// Kind is a type of sheet music, or "" for any other file.
type Kind string

// The kinds of sheet music. A PDF or an image counts as one, since its content
// is not recognized.
const (
	PDF      Kind = "PDF"
	MusicXML Kind = "MusicXML" // also compressed
	ABC      Kind = "ABC"
	MIDI     Kind = "MIDI"
	LilyPond Kind = "LilyPond"
	Image    Kind = "image"
)

const (
	// MaxText is the maximum length of a title or composer, in runes. Longer
	// texts are truncated.
	MaxText = 200

	maxHead = 256 << 10 // bytes used to detect the kind; no more is read of text formats
)

// Sheet describes a file.
type Sheet struct {
	Kind Kind
	// MediaType is the common media type of the kind, such as application/pdf.
	// For other files it is the one that mimetype detects, possibly with
	// parameters. It is never empty: an unknown file has
	// application/octet-stream.
	MediaType string
	// Extension is the common file name extension, such as ".mxl", or "".
	Extension string
	// Title and Composer are "" if the file has none or they cannot be read.
	// They are valid UTF-8 of at most MaxText runes, without control characters
	// and bidirectional controls. White space is collapsed to single spaces.
	// Placeholders that programs write, such as "Untitled" or "Microsoft Word -
	// x.doc", are removed.
	Title, Composer string
}

// Read describes a file of size bytes. It never fails because of the content of
// the file: fields that cannot be read are empty. The error comes from r, such
// as [io.ErrUnexpectedEOF] if r has less than size bytes, or from ctx. The
// sheet is empty then.
//
// Read checks ctx before each call of r.ReadAt. It does not interrupt such a
// call.
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

// examine describes the file that begins with head.
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

// within reports whether m is the named type or one of its descendants.
func within(m *mimetype.MIME, name string) bool {
	for ; m != nil; m = m.Parent() {
		if m.Is(name) {
			return true
		}
	}
	return false
}
