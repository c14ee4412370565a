// Package manifest encodes and decodes the blocks that define a database: its
// manifest, whose CID is the database's address, and its access list.
//
// A manifest is dag-cbor of { name, type, accessController [, meta] }. Equal
// fields make an equal address on every peer. The manifest contains the address
// of its access controller, which begins with the controller's type:
// /ipfs/<CID> is a block { type: "ipfs", write: [ id, … ] }, and /orbitdb/<CID>
// is a keyvalue database that contains the access list.
//
// # Cost
//
// A manifest or access list from a peer has at most [MaxSize] bytes; a larger
// one is not read. [Decode] and [DecodeAccessList] take the time of
// [value.FromCBOR], and hold a copy of the texts and 16 bytes for each writer,
// which may be one byte of the block. The caller bounds the cost of searching
// an access list. [ParseAddress] compares characters and decodes nothing.
// Nothing is written to disk.
package manifest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/value"
)

// Types of access controllers.
const (
	AccessIPFS    = "ipfs"
	AccessOrbitDB = "orbitdb"
)

// Anyone in an access list permits every identity to write.
const Anyone = "*"

// MaxSize is the size of the largest manifest or access list that is read or
// made, in bytes.
const MaxSize = 256 << 10

var (
	// ErrInvalid is returned for a block that is not a manifest or not an
	// access list.
	ErrInvalid = errors.New("invalid manifest")
	// ErrInvalidAddress is returned for a text that is not an address.
	ErrInvalidAddress = errors.New("invalid OrbitDB address")
	// ErrLegacyAddress is returned for an address in the format before
	// OrbitDB 1.0, which contains a name after the CID.
	ErrLegacyAddress = fmt.Errorf("%w: it has the format before OrbitDB 1.0",
		ErrInvalidAddress)
)

const addressPrefix = "/orbitdb/"

// Address returns the address of the database whose manifest has a hash.
func Address(hash string) string { return addressPrefix + hash }

// ParseAddress returns the hash that an address contains. It returns
// [ErrLegacyAddress] or [ErrInvalidAddress] if there is none.
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

// Manifest describes a database.
type Manifest struct {
	Name             string
	Type             string
	AccessController string      // address
	Meta             value.Value // nil for none
}

// Access returns the type of the access controller and the hash in its address.
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
		return block.Block{}, fmt.Errorf("%w: a name, a type and an access controller are required", ErrInvalid)
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

// blank reports whether a text is empty after encoding and decoding, which
// drops byte order marks.
func blank(text string) bool { return strings.TrimLeft(text, "\ufeff") == "" }

// Decode decodes a manifest. Like JavaScript, it ignores unknown fields.
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
			return m, fmt.Errorf("%w %s: no text %q", ErrInvalid, b.Hash, name)
		}
	}
	m.Meta = v.Field("meta")
	return m, nil
}

// AccessList is the access list of an ipfs access controller: IDs of
// identities, or [Anyone].
type AccessList []string

// Address returns the address of the access controller that has this list, and
// the list's block.
func (w AccessList) Address() (string, block.Block, error) {
	b := dagcbor.AppendMap(nil, 2)
	b = dagcbor.AppendText(b, "type")
	b = dagcbor.AppendText(b, AccessIPFS)
	b = dagcbor.AppendText(b, "write")
	b = dagcbor.AppendArray(b, len(w))
	for _, id := range w {
		b = dagcbor.AppendText(b, id)
	}
	if len(b) > MaxSize {
		return "", block.Block{}, fmt.Errorf("%w: an access list of %d bytes, at most %d",
			ErrInvalid, len(b), MaxSize)
	}
	list := block.New(b)
	return "/" + AccessIPFS + "/" + list.Hash, list, nil
}

// DecodeAccessList decodes the access list of an ipfs access controller.
func DecodeAccessList(b block.Block) (AccessList, error) {
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

// Texts decodes a value that is a list of texts.
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
