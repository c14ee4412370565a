package oplog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// A log usually has few heads, and its summary contains them. If a log has more
// than maxInline, they are stored in pages, in the order in which they became
// heads, so that the cost of an entry does not grow with the number of heads.
// They move back to the summary when at most fewHeads remain. A page is
// overwritten in place, which leaves no trail of deleted keys for the datastore
// to skip.
const (
	maxInline    = 32
	fewHeads     = 8
	headsPerPage = 64
)

// MaxHeads is the largest number of heads that [Log.Heads] returns.
const MaxHeads = 4096

// paged reports whether the heads are in pages.
func (s *summary) paged() bool { return s.HeadCount > uint64(len(s.Heads)) }

// pageKey returns the key of a page of heads. The first page is number 1.
func (l *Log) pageKey(page uint64) string { return store.Key(l.key("heads"), page) }

// headKey returns the key of the record that contains the page of a head.
func (l *Log) headKey(hash string) string { return l.key("head/" + hash) }

// page returns the heads of a page, in the order in which they became heads.
func (l *Log) page(g blocks.Getter, page uint64) (list []entry.Position, err error) {
	record, err := g.Get(l.pageKey(page))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := dagcbor.NewReader(record)
	n, err := r.Array()
	for i := 0; err == nil && i < n; i++ {
		var number uint64
		var name string
		if number, err = r.Uint(); err != nil {
			break
		}
		if name, err = r.Text(); err != nil {
			break
		}
		p, ok := decodePosition(number, name)
		if !ok {
			err = errors.New("invalid position")
		}
		list = append(list, p)
	}
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, fmt.Errorf("%w of %s: page %d of the heads: %v", ErrDamaged, l.id, page, err)
	}
	return list, nil
}

// putPage stores a page. It keeps the last page from being empty.
func (l *Log) putPage(tx *store.Tx, sum *summary, page uint64, list []entry.Position) error {
	if len(list) > 0 {
		b := dagcbor.AppendArray(nil, len(list))
		for _, p := range list {
			b = appendHead(b, p)
		}
		return tx.Put(l.pageKey(page), b)
	}
	if err := tx.Delete(l.pageKey(page)); err != nil {
		return err
	}
	for sum.HeadPages > 0 {
		if ok, err := tx.Has(l.pageKey(sum.HeadPages)); err != nil || ok {
			return err
		}
		sum.HeadPages--
	}
	return nil
}

// heads returns the heads, newest first.
func (l *Log) heads(g blocks.Getter, sum *summary) ([]entry.Position, error) {
	if !sum.paged() {
		return sum.Heads, nil
	}
	var list []entry.Position
	for page := range sum.HeadPages {
		some, err := l.page(g, page+1)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	slices.SortFunc(list, descending)
	return list, nil
}

// storedHeads returns the summary and the heads, newest first, outside of a
// transaction.
func (l *Log) storedHeads(g blocks.Getter) (sum *summary, heads []entry.Position, err error) {
	for range maxReads {
		if sum, err = l.readSummary(g); err != nil {
			return nil, nil, err
		}
		// Pages may change between two reads.
		if heads, err = l.heads(g, sum); err != nil || uint64(len(heads)) == sum.HeadCount {
			return sum, heads, err
		}
	}
	return sum, heads, nil
}

// maxReads is how often storedHeads reads pages that change meanwhile. The last
// read may lack heads that came or went since.
const maxReads = 8

// isHead reports whether an entry is a head.
func (l *Log) isHead(tx *store.Tx, sum *summary, hash string) (bool, error) {
	if !sum.paged() {
		return slices.ContainsFunc(sum.Heads, func(h entry.Position) bool { return h.Hash == hash }), nil
	}
	return tx.Has(l.headKey(hash))
}

// setHead adds or removes a head.
func (l *Log) setHead(tx *store.Tx, sum *summary, p entry.Position, head bool) error {
	is, err := l.isHead(tx, sum, p.Hash)
	switch {
	case err != nil || is == head:
		return err
	case head:
		return l.addHead(tx, sum, p)
	default:
		return l.removeHead(tx, sum, p.Hash)
	}
}

func (l *Log) addHead(tx *store.Tx, sum *summary, p entry.Position) error {
	paged := sum.paged()
	sum.HeadCount++
	if paged {
		return l.appendToPage(tx, sum, p)
	}
	i, _ := slices.BinarySearchFunc(sum.Heads, p, descending)
	sum.Heads = slices.Insert(sum.Heads, i, p)
	if len(sum.Heads) <= maxInline {
		return nil
	}
	inline := sum.Heads
	sum.Heads = nil
	for _, h := range slices.Backward(inline) {
		if err := l.appendToPage(tx, sum, h); err != nil {
			return err
		}
	}
	return nil
}

// appendToPage adds a head to the last page, or to a new one if that is full.
func (l *Log) appendToPage(tx *store.Tx, sum *summary, p entry.Position) error {
	n, heads := 0, []byte(nil) // of the last page, encoded
	if sum.HeadPages > 0 {
		key := l.pageKey(sum.HeadPages)
		record, err := l.mustGet(tx, key)
		if err != nil {
			return err
		}
		r := dagcbor.NewReader(record)
		if n, err = r.Array(); err != nil {
			return l.damaged(key)
		}
		heads = r.Rest()
	}
	if sum.HeadPages == 0 || n >= headsPerPage {
		sum.HeadPages++
		n, heads = 0, nil
	}
	b := append(dagcbor.AppendArray(nil, n+1), heads...)
	if err := tx.Put(l.pageKey(sum.HeadPages), appendHead(b, p)); err != nil {
		return err
	}
	return tx.Put(l.headKey(p.Hash), binary.AppendUvarint(nil, sum.HeadPages))
}

// appendHead appends the encoding of a head in a page.
func appendHead(b []byte, p entry.Position) []byte {
	number, name := encodePosition(p)
	return dagcbor.AppendText(dagcbor.AppendUint(b, number), name)
}

// removeHead removes a head, because an authorized entry names it. It does
// nothing if the entry is not a head.
func (l *Log) removeHead(tx *store.Tx, sum *summary, hash string) error {
	if !sum.paged() {
		if i := slices.IndexFunc(sum.Heads, func(h entry.Position) bool { return h.Hash == hash }); i >= 0 {
			sum.HeadCount--
			sum.Heads = slices.Delete(sum.Heads, i, i+1)
		}
		return nil
	}
	record, err := tx.Get(l.headKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	page, ok := decodeNumber(record)
	if !ok {
		return fmt.Errorf("%w of %s: page of head %s", ErrDamaged, l.id, hash)
	}
	list, err := l.page(tx, page)
	if err != nil {
		return err
	}
	if err := l.takeFromPage(tx, sum, page, list, map[string]bool{hash: true}); err != nil {
		return err
	}
	return l.inlineHeads(tx, sum)
}

// takeFromPage removes heads from a page.
func (l *Log) takeFromPage(tx *store.Tx, sum *summary, page uint64, list []entry.Position, hashes map[string]bool) error {
	var left []entry.Position
	prefix := l.headKey("")
	for _, h := range list {
		if !hashes[h.Hash] {
			left = append(left, h)
			continue
		}
		sum.HeadCount--
		if err := tx.Delete(prefix + h.Hash); err != nil {
			return err
		}
	}
	return l.putPage(tx, sum, page, left)
}

// inlineHeads moves the heads into the summary if few remain.
func (l *Log) inlineHeads(tx *store.Tx, sum *summary) error {
	if sum.HeadCount > fewHeads {
		return nil
	}
	var few []entry.Position
	for page := sum.HeadPages; page > 0; page-- {
		list, err := l.page(tx, page)
		if err != nil {
			return err
		}
		few = append(few, list...)
		if err := tx.Delete(l.pageKey(page)); err != nil {
			return err
		}
	}
	for _, p := range few {
		if err := tx.Delete(l.headKey(p.Hash)); err != nil {
			return err
		}
	}
	slices.SortFunc(few, descending)
	sum.Heads, sum.HeadPages = few, 0
	return nil
}

// takeHeads returns the heads that the next entry names, newest first, and
// removes them from their pages. These are all heads or, if there are too many,
// the [entry.MaxNext] that became heads last, including the newest entry
// written here if it is a head.
func (l *Log) takeHeads(tx *store.Tx, sum *summary) ([]entry.Position, error) {
	if !sum.paged() {
		return sum.Heads, nil
	}
	taken := make(map[string]bool)
	var list []entry.Position
	if len(sum.Own) > 0 {
		own := sum.Own[0]
		is, err := l.isHead(tx, sum, own.Hash)
		if err != nil {
			return nil, err
		}
		if is {
			taken[own.Hash], list = true, append(list, own)
		}
	}
	for page := sum.HeadPages; page > 0 && len(list) < entry.MaxNext; page-- {
		some, err := l.page(tx, page)
		if err != nil {
			return nil, err
		}
		for _, h := range slices.Backward(some) {
			if len(list) < entry.MaxNext && !taken[h.Hash] {
				taken[h.Hash], list = true, append(list, h)
			}
		}
		if err := l.takeFromPage(tx, sum, page, some, taken); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, descending)
	if err := l.inlineHeads(tx, sum); err != nil || len(sum.Own) == 0 || !taken[sum.Own[0].Hash] {
		return list, err
	}
	return list, l.removeHead(tx, sum, sum.Own[0].Hash) // it may be in an earlier page
}
