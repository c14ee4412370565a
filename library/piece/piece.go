package piece

import (
	"github.com/newpieceplease/npp/orbit/value"
)

// Fields of a document that is a piece.
const (
	FieldHash       = "hash"
	FieldInstrument = "instrument"
	FieldTitle      = "title"
	FieldComposer   = "composer"
	FieldType       = "type"
	FieldName       = "name"
	FieldSize       = "size"
)

// MaxHash is the longest text that is taken for a hash, in bytes.
const MaxHash = 256

// Piece is a piece of sheet music. What is not known is empty.
type Piece struct {
	Hash       string
	Instrument string
	Title      string
	Composer   string
	MediaType  string // of the file
	Name       string // of the file
	Size       uint64 // of the file, in bytes

	// Doc is the document, with all that apps keep there.
	Doc value.Value
}

// Of returns the piece that a document is, and reports whether it is one: a map
// whose field "hash" is a text of 1 to [MaxHash] bytes. Whether that is a CID is
// left open: the tutorial's readers put other texts there.
func Of(doc value.Value) (Piece, bool) {
	text := func(name string) string {
		s, _ := doc.Field(name).Text()
		return s
	}
	p := Piece{
		Hash:       text(FieldHash),
		Instrument: text(FieldInstrument),
		Title:      text(FieldTitle),
		Composer:   text(FieldComposer),
		MediaType:  text(FieldType),
		Name:       text(FieldName),
		Doc:        doc,
	}
	if size := doc.Field(FieldSize); size != nil && size.Decode(&p.Size) != nil {
		p.Size = 0
	}
	return p, p.Hash != "" && len(p.Hash) <= MaxHash
}
