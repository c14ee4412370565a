// Package manifest is the blocks that make a database: the manifest, whose hash
// is the database's address, and the list of writers that it names.
//
// A manifest is dag-cbor of { name, type, accessController [, meta] }. The same
// four make the same address on every peer. The access controller is named by
// its own address, whose first part is its type: /ipfs/<hash> is a block
// { type: "ipfs", write: [ id, … ] }, /orbitdb/<hash> is a keyvalue database
// that holds the list.
//
// # Cost
//
// A manifest or list of another peer has at most [MaxSize] bytes; a larger one is not
// read. [Decode] and [DecodeWriters] take the time of [value.FromCBOR] and hold a copy
// of the texts, and 16 bytes for each writer, which may have one byte in the block. How
// a list is searched is up to the caller. [ParseAddress] compares characters and decodes
// nothing. Nothing is written to disk.
package manifest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

// Types of access controllers.
const (
	AccessIPFS    = "ipfs"
	AccessOrbitDB = "orbitdb"
)

// Anyone in a list of writers stands for everybody.
const Anyone = "*"

// MaxSize is the largest manifest or list that is read or made, in bytes.
const MaxSize = 256 << 10

var (
	// ErrInvalid says that a block is no manifest, or no list of writers.
	ErrInvalid = errors.New("invalid manifest")
	// ErrInvalidAddress says that a text is no address.
	ErrInvalidAddress = errors.New("invalid OrbitDB address")
	// ErrLegacyAddress says that an address is one of OrbitDB before 1.0,
	// which has the name behind the hash.
	ErrLegacyAddress = fmt.Errorf("%w: it is of the format before OrbitDB 1.0",
		ErrInvalidAddress)
)

const addressPrefix = "/orbitdb/"

// Address returns the address of the database whose manifest has the hash.
func Address(hash string) string { return addressPrefix + hash }

// ParseAddress returns the hash in an address.
func ParseAddress(address string) (hash string, err error) {
	hash, ok := strings.CutPrefix(address, addressPrefix)
	if ok && block.ValidHash(hash) {
		return hash, nil
	}
	if before, name, _ := strings.Cut(hash, "/"); ok && name != "" && block.ValidHash(before) {
		return "", fmt.Errorf("%w: %.200q", ErrLegacyAddress, address)
	}
	return "", fmt.Errorf("%w: %.200q, must be %s<hash>", ErrInvalidAddress, address, addressPrefix)
}

// Manifest says what a database is.
type Manifest struct {
	Name             string
	Type             string
	AccessController string      // its address
	Meta             value.Value // nil for none
}

// Access returns the type of the access controller and the hash in its
// address.
func (m Manifest) Access() (kind, hash string, err error) {
	address, ok := strings.CutPrefix(m.AccessController, "/")
	kind, hash, _ = strings.Cut(address, "/")
	if !ok || !block.ValidHash(hash) {
		return kind, hash, fmt.Errorf("%w: access controller %.200q", ErrInvalid, m.AccessController)
	}
	return kind, hash, nil
}

// Block returns the manifest's block.
func (m Manifest) Block() (block.Block, error) {
	if blank(m.Name) || blank(m.Type) || blank(m.AccessController) {
		return block.Block{}, fmt.Errorf("%w: it needs a name, a type and an access controller", ErrInvalid)
	}
	n := 3
	if m.Meta != nil {
		n++
	}
	b := dagcbor.AppendMap(nil, n)
	if m.Meta != nil {
		b = append(dagcbor.AppendText(b, "meta"), m.Meta...)
	}
	b = dagcbor.AppendText(b, "name")
	b = dagcbor.AppendText(b, m.Name)
	b = dagcbor.AppendText(b, "type")
	b = dagcbor.AppendText(b, m.Type)
	b = dagcbor.AppendText(b, "accessController")
	b = dagcbor.AppendText(b, m.AccessController)
	if len(b) > MaxSize {
		return block.Block{}, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(b), MaxSize)
	}
	return block.New(b), nil
}

// blank reports whether a text is empty when it is read again.
func blank(text string) bool { return strings.TrimLeft(text, "\ufeff") == "" }

// Decode reads a manifest. Fields that it does not know are left alone, as in
// JavaScript.
func Decode(b block.Block) (Manifest, error) {
	v, err := decode(b)
	if err != nil {
		return Manifest{}, err
	}
	var m Manifest
	for name, text := range map[string]*string{
		"name": &m.Name, "type": &m.Type, "accessController": &m.AccessController,
	} {
		var ok bool
		if *text, ok = v.Field(name).Text(); !ok || *text == "" {
			return m, fmt.Errorf("%w %s: it has no text %q", ErrInvalid, b.Hash, name)
		}
	}
	m.Meta = v.Field("meta")
	return m, nil
}

// Writers is the list of an ipfs access controller: IDs of identities, or
// [Anyone].
type Writers []string

// Address returns the address of the access controller with this list, and the
// block at it.
func (w Writers) Address() (string, block.Block, error) {
	b := dagcbor.AppendMap(nil, 2)
	b = dagcbor.AppendText(b, "type")
	b = dagcbor.AppendText(b, AccessIPFS)
	b = dagcbor.AppendText(b, "write")
	b = dagcbor.AppendArray(b, len(w))
	for _, id := range w {
		b = dagcbor.AppendText(b, id)
	}
	if len(b) > MaxSize {
		return "", block.Block{}, fmt.Errorf("%w: a list of writers of %d bytes, at most %d",
			ErrInvalid, len(b), MaxSize)
	}
	list := block.New(b)
	return "/" + AccessIPFS + "/" + list.Hash, list, nil
}

// DecodeWriters reads the list of an ipfs access controller.
func DecodeWriters(b block.Block) (Writers, error) {
	v, err := decode(b)
	if err != nil {
		return nil, err
	}
	w, err := Texts(v.Field("write"))
	if err != nil {
		return nil, fmt.Errorf("%w %s: write: %v", ErrInvalid, b.Hash, err)
	}
	return w, nil
}

// Texts reads a value that is a list of texts.
func Texts(v value.Value) ([]string, error) {
	r := dagcbor.NewReader(v)
	n, err := r.Array()
	if err != nil {
		return nil, err
	}
	list := make([]string, n)
	for i := range list {
		if list[i], err = r.Text(); err != nil {
			return nil, err
		}
	}
	return list, r.End()
}

func decode(b block.Block) (value.Value, error) {
	if len(b.Data) > MaxSize {
		return nil, fmt.Errorf("%w %s: %d bytes, at most %d", ErrInvalid, b.Hash, len(b.Data), MaxSize)
	}
	v, err := value.FromCBOR(b.Data)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %v", ErrInvalid, b.Hash, err)
	}
	return v, nil
}
