package piece

import (
	"github.com/newpieceplease/npp/orbit/value"
)

// Fields of a piece's document.
const (
	FieldHash       = "hash"
	FieldInstrument = "instrument"
	FieldTitle      = "title"
	FieldComposer   = "composer"
	FieldType       = "type"
	FieldName       = "name"
	FieldSize       = "size"
)

// MaxHash is the length of the longest hash, in bytes.
const MaxHash = 256

// Piece is a piece of sheet music. Unknown values are empty.
type Piece struct {
	Hash       string
	Instrument string
	Title      string
	Composer   string
	MediaType  string // of the file
	Name       string // of the file
	Size       uint64 // of the file, in bytes

	// Doc is the document, including the fields of other apps.
	Doc value.Value
}

// Of returns the piece that a document describes. It reports whether the
// document is a map whose field "hash" is a text of 1 to [MaxHash] bytes. The
// hash may be any text, since readers of the tutorial do not always store a
// CID.
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
