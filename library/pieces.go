package library

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/library/sheet"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

const (
	// DefaultInstrument is the instrument of a piece that is added without one,
	// as in the OrbitDB tutorial.
	DefaultInstrument = "Piano"

	// maxDetail is the length of the longest text of a piece, in bytes.
	maxDetail = 1024
)

var (
	// ErrNoFile is returned for a hash that is not that of a file.
	ErrNoFile = errors.New("not a file")

	// ErrStillPinned is returned if a piece was removed, but the pin of its
	// file could not be removed.
	ErrStillPinned = errors.New("the piece is removed, but its file is still pinned")
)

// Details are changes of a piece. A nil text is left unchanged; an empty one is
// removed.
type Details struct {
	Instrument, Title, Composer *string

	// Fields are further fields of the document. [value.Null] removes a field.
	Fields map[string]value.Value
}

// Result is the effect of adding or updating a piece.
type Result string

// The effects of adding or updating a piece.
const (
	Added     Result = "added"
	Updated   Result = "updated"   // the piece existed and was changed
	Unchanged Result = "unchanged" // the piece existed with the same content
)

func (d Details) check() error {
	for name, s := range map[string]*string{piece.FieldInstrument: d.Instrument, piece.FieldTitle: d.Title, piece.FieldComposer: d.Composer} {
		switch {
		case s == nil:
		case len(*s) > maxDetail:
			return fmt.Errorf("%w: the %s has %d bytes, at most %d are allowed", ErrInvalid, name, len(*s), maxDetail)
		case strings.ContainsAny(*s, "\n\r\x00"):
			return fmt.Errorf("%w: the %s has more than one line", ErrInvalid, name)
		}
	}
	if d.Instrument != nil && strings.TrimSpace(*d.Instrument) == "" {
		return fmt.Errorf("%w: the instrument is empty", ErrInvalid)
	}
	for name := range d.Fields {
		if name == "" || slices.Contains([]string{piece.FieldHash, piece.FieldInstrument, piece.FieldTitle, piece.FieldComposer, piece.FieldType, piece.FieldName, piece.FieldSize}, name) {
			return fmt.Errorf("%w: the field %q cannot be set as a further field", ErrInvalid, name)
		}
	}
	return nil
}

// AddFile adds a file to IPFS, pins it, and adds it as a piece or updates the
// existing piece. Title and composer come from the details, or else from the
// existing piece, or else from the file. AddFile returns once all of that is on
// disk.
func (l *Library) AddFile(ctx context.Context, f files.File, name string, d Details) (piece.Piece, Result, error) {
	if err := d.check(); err != nil {
		return piece.Piece{}, "", err
	}
	c, err := l.cfg.Files.Add(ctx, guardedFile{f, l.cfg.Disk})
	if err != nil {
		return piece.Piece{}, "", fmt.Errorf("add to IPFS: %w", err)
	}
	found, err := l.inspect(ctx, c)
	if err != nil {
		return piece.Piece{}, "", err
	}
	found.name = name
	return l.put(ctx, c.String(), found, d)
}

// AddHash adds a piece by the CID of its file, in the given spelling, or
// updates the existing piece. With pin, it first fetches and pins the file, and
// reads its title and composer as [Library.AddFile] does. progress may be nil.
func (l *Library) AddHash(ctx context.Context, hash string, d Details, pin bool, progress func(blocks int)) (piece.Piece, Result, error) {
	if err := d.check(); err != nil {
		return piece.Piece{}, "", err
	}
	c, err := piece.Decode(hash)
	if err != nil {
		return piece.Piece{}, "", fmt.Errorf("%w: %.80q is not a CID", ErrInvalid, hash)
	}
	var found file
	if pin {
		l.connectProviders(ctx, c)
		if err := l.pin(ctx, c, progress); err != nil {
			return piece.Piece{}, "", fmt.Errorf("pin %s: %w", hash, err)
		}
		if found, err = l.inspect(ctx, c); err != nil && !errors.Is(err, ErrNoFile) {
			return piece.Piece{}, "", err
		}
	}
	return l.put(ctx, hash, found, d)
}

// file describes a file.
type file struct {
	sheet.Sheet
	name string
	size int64
}

// inspect describes a file that is here.
func (l *Library) inspect(ctx context.Context, c cid.Cid) (file, error) {
	f, err := l.cfg.Files.Open(ctx, c)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return file{}, err
	}
	s, err := sheet.Read(ctx, &readerAt{from: f}, size)
	if err != nil {
		return file{}, fmt.Errorf("read %s: %w", c, err)
	}
	return file{Sheet: s, size: size}, nil
}

// readerAt is an [io.ReaderAt] of a file.
type readerAt struct {
	mu   sync.Mutex
	from io.ReadSeeker
}

func (r *readerAt) ReadAt(p []byte, at int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.from.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.from, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// put adds a piece or updates the existing one.
func (l *Library) put(ctx context.Context, hash string, found file, d Details) (piece.Piece, Result, error) {
	docs, err := l.documents(ctx)
	if err != nil {
		return piece.Piece{}, "", err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	item, err := getAny(ctx, docs, hash)
	outcome := Updated
	doc := make(map[string]any)
	switch {
	case errors.Is(err, orbit.ErrNotFound):
		outcome = Added
		doc[piece.FieldHash], doc[piece.FieldInstrument] = hash, DefaultInstrument
	case err != nil:
		return piece.Piece{}, "", err
	default:
		if doc, err = mapOf(item.Value); err != nil {
			return piece.Piece{}, "", err
		}
	}
	missing := map[string]string{
		piece.FieldTitle:    found.Title,
		piece.FieldComposer: found.Composer,
		piece.FieldType:     found.MediaType,
		piece.FieldName:     found.name,
	}
	for name, s := range missing {
		if _, ok := doc[name]; !ok && s != "" {
			doc[name] = s
		}
	}
	if _, ok := doc[piece.FieldSize]; !ok && found.size > 0 {
		doc[piece.FieldSize] = found.size
	}
	return l.write(ctx, docs, doc, item.Value, outcome, d)
}

// write applies details to a document, and puts it if it changed. The caller
// holds l.writing.
func (l *Library) write(ctx context.Context, docs *orbit.Documents, doc map[string]any, before value.Value, outcome Result, d Details) (piece.Piece, Result, error) {
	d.apply(doc)
	v, err := value.Of(doc)
	if err != nil {
		return piece.Piece{}, "", err
	}
	p, ok := piece.Of(v)
	switch {
	case !ok:
		return p, "", fmt.Errorf("%w: its hash is not a text of at most %d bytes", ErrInvalid, piece.MaxHash)
	case v.Equal(before):
		return p, Unchanged, nil
	}
	if _, err := docs.Put(ctx, v); err != nil {
		return p, "", err
	}
	l.own.index.Put(p, false)
	return p, outcome, nil
}

func (d Details) apply(doc map[string]any) {
	set := func(name string, s *string) {
		switch {
		case s == nil:
		case *s == "":
			delete(doc, name)
		default:
			doc[name] = strings.ToValidUTF8(*s, "\uFFFD")
		}
	}
	set(piece.FieldInstrument, d.Instrument)
	set(piece.FieldTitle, d.Title)
	set(piece.FieldComposer, d.Composer)
	for name, v := range d.Fields {
		if v.Equal(value.Null) {
			delete(doc, name)
		} else {
			doc[name] = v
		}
	}
}

// getAny returns the document with a hash in any spelling.
func getAny(ctx context.Context, docs *orbit.Documents, hash string) (orbit.Item, error) {
	for _, s := range piece.Spellings(hash) {
		item, err := docs.Get(ctx, s)
		if !errors.Is(err, orbit.ErrNotFound) {
			return item, err
		}
	}
	return orbit.Item{}, fmt.Errorf("piece %s: %w", hash, orbit.ErrNotFound)
}

// mapOf returns a copy of a document that the caller may change.
func mapOf(doc value.Value) (map[string]any, error) {
	v, err := doc.Any()
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: %.80s is not a document", ErrInvalid, doc)
	}
	return maps.Clone(m), nil
}

// Update changes the own piece with a hash. The error wraps
// [orbit.ErrNotFound].
func (l *Library) Update(ctx context.Context, hash string, d Details) (piece.Piece, Result, error) {
	if err := d.check(); err != nil {
		return piece.Piece{}, "", err
	}
	docs, err := l.documents(ctx)
	if err != nil {
		return piece.Piece{}, "", err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	item, err := getAny(ctx, docs, hash)
	if err != nil {
		return piece.Piece{}, "", err
	}
	doc, err := mapOf(item.Value)
	if err != nil {
		return piece.Piece{}, "", err
	}
	return l.write(ctx, docs, doc, item.Value, Updated, d)
}

// Remove removes the own piece with a hash, and its pin if a library created
// that; unpinned reports whether there was such a pin. The practice counts
// stay. The error wraps [orbit.ErrNotFound], or [ErrStillPinned] if the piece
// was removed and the pin was not.
func (l *Library) Remove(ctx context.Context, hash string) (p piece.Piece, unpinned bool, err error) {
	docs, err := l.documents(ctx)
	if err != nil {
		return p, false, err
	}
	if p, err = l.remove(ctx, docs, hash); err != nil {
		return p, false, err
	}
	c, err := piece.Decode(p.Hash)
	if err != nil {
		return p, false, nil // a hash that is not a CID has no pin
	}
	if unpinned, err = l.cfg.Files.Unpin(ctx, c); err != nil {
		return p, false, fmt.Errorf("%w: %w", ErrStillPinned, err)
	}
	return p, unpinned, nil
}

func (l *Library) remove(ctx context.Context, docs *orbit.Documents, hash string) (piece.Piece, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	item, err := getAny(ctx, docs, hash)
	if err != nil {
		return piece.Piece{}, err
	}
	p, _ := piece.Of(item.Value)
	if _, err := docs.Delete(ctx, item.Key); err != nil {
		return p, err
	}
	l.own.index.Delete(p.Hash)
	return p, nil
}
