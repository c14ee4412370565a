package oplog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// summary holds what must be known of a log without reading its entries. Each
// change of the log writes it.
type summary struct {
	Numbers      uint64 // number of the entry that arrived last, or 0
	Authorized   uint64 // authorized entries
	Unauthorized uint64 // unauthorized entries
	Keys         uint64 // live keys of the state
	Pending      uint64 // pending entries
	PendingBytes uint64 // bytes charged for them
	ReadyFrom    uint64 // number of the first record of the ready queue
	ReadyTo      uint64 // number after the last
	Rebuild      uint64 // 0 or, during a rebuild, 1 + Numbers from before it

	HeadCount uint64 // all heads
	HeadPages uint64 // pages of heads, if they are in pages
	Queue     uint64 // entries in the revision queue
	Doubted   uint64 // entries with the mark doubted among them
	Revision  uint64 // how often an entry of the log became authorized or unauthorized
	Missing   uint64 // missing hashes
	Abandoned uint64 // abandoned pending entries so far
	Bytes     uint64 // size of the blocks of the log's entries
	Secret    uint64 // determines the keys of missing hashes; 0 until it is needed

	Heads  []entry.Position // newest first; none if they are in pages
	Newest []entry.Position // the newest authorized entries, newest first
	Own    []entry.Position // the last entry that was written here, if any

	access     *accessSets // the access list, once this transaction has read it
	covered    bool        // the parents of the next entry were heads and are already removed
	revised    []uint64    // numbers of the entries that this transaction authorized or revoked
	old        bool        // an earlier version wrote it
	outdated   bool        // an earlier version wrote it, and there are unauthorized or pending entries
	unmeasured bool        // an earlier version wrote it without Bytes, and there are entries
}

// spare is how many more of the newest entries a summary holds than the next
// entry refers to, because entries refer further back when there are more
// heads.
const spare = 16

// newestLimit returns how many of the newest entries the summary holds.
func (s *summary) newestLimit() int { return len(s.Heads) + entry.MaxRefs + spare }

// add counts an authorized entry, and adds it to Newest if it is among them.
func (s *summary) add(p entry.Position) {
	all := uint64(len(s.Newest)) == s.Authorized
	s.Authorized++
	i, _ := slices.BinarySearchFunc(s.Newest, p, descending)
	if i == len(s.Newest) && !all {
		return
	}
	s.Newest = slices.Insert(s.Newest, i, p)
	if keep := s.newestLimit(); len(s.Newest) > keep {
		s.Newest = s.Newest[:keep]
	}
}

// remove undoes add.
func (s *summary) remove(p entry.Position) {
	s.Authorized--
	if i, ok := slices.BinarySearchFunc(s.Newest, p, descending); ok {
		s.Newest = slices.Delete(s.Newest, i, i+1)
	}
}

func descending(a, b entry.Position) int { return b.Compare(a) }

func (s *summary) numbers() []*uint64 {
	return append(s.oldNumbers(), &s.HeadCount, &s.HeadPages, &s.Queue, &s.Doubted, &s.Revision, &s.Missing, &s.Abandoned, &s.Bytes, &s.Secret)
}

// oldNumbers returns the numbers of a summary of an earlier version.
func (s *summary) oldNumbers() []*uint64 {
	return []*uint64{&s.Numbers, &s.Authorized, &s.Unauthorized, &s.Keys, &s.Pending, &s.PendingBytes, &s.ReadyFrom, &s.ReadyTo, &s.Rebuild}
}

func (s *summary) positionLists() []*[]entry.Position {
	return append(s.oldPositionLists(), &s.Own)
}

func (s *summary) oldPositionLists() []*[]entry.Position {
	return []*[]entry.Position{&s.Heads, &s.Newest}
}

func (l *Log) summaryKey() string { return l.key("summary") }

func (l *Log) readSummary(g blocks.Getter) (*summary, error) {
	b, err := g.Get(l.summaryKey())
	if errors.Is(err, store.ErrNotFound) {
		return new(summary), nil
	}
	if err != nil {
		return nil, err
	}
	s := new(summary)
	if err := s.decode(b); err != nil {
		return nil, fmt.Errorf("%w of %s: summary: %v", ErrDamaged, l.id, err)
	}
	return s, nil
}

func (l *Log) writeSummary(tx *store.Tx, s *summary) error {
	return tx.Put(l.summaryKey(), s.encode())
}

// encode encodes the numbers, the clock IDs, and the lists of positions, which
// refer to clock IDs by index. A checksum follows, because entries that are
// written from a corrupt summary cannot be undone.
func (s *summary) encode() []byte {
	var ids []string
	places := make(map[string]int)
	size := 0
	for _, list := range s.positionLists() {
		size += len(*list)
		for _, p := range *list {
			if _, ok := places[p.ID]; !ok {
				places[p.ID] = len(ids)
				ids = append(ids, p.ID)
			}
		}
	}
	b := make([]byte, 0, 128+72*len(ids)+64*size)
	b = dagcbor.AppendArray(b, 2+len(s.positionLists()))
	b = dagcbor.AppendArray(b, len(s.numbers()))
	for _, n := range s.numbers() {
		b = dagcbor.AppendUint(b, *n)
	}
	b = dagcbor.AppendArray(b, len(ids))
	for _, id := range ids {
		b = dagcbor.AppendText(b, id)
	}
	for _, list := range s.positionLists() {
		b = dagcbor.AppendArray(b, len(*list))
		for _, p := range *list {
			b = dagcbor.AppendArray(b, 4)
			b, _ = dagcbor.AppendFloat(b, p.Time) // it is never NaN
			b = dagcbor.AppendUint(b, p.Depth)
			b = dagcbor.AppendUint(b, uint64(places[p.ID]))
			b = dagcbor.AppendText(b, p.Hash)
		}
	}
	return withChecksum(b)
}

func withChecksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func (s *summary) decode(b []byte) error {
	r, lists, err := s.decodeNumbers(b)
	if err != nil {
		return err
	}
	n, err := r.Array()
	if err != nil {
		return err
	}
	ids := make([]string, n)
	for i := range ids {
		if ids[i], err = r.Text(); err != nil {
			return err
		}
	}
	for _, list := range lists {
		n, err := r.Array()
		if err != nil {
			return err
		}
		*list = make([]entry.Position, n)
		for i := range *list {
			if (*list)[i], err = readPosition(r, ids); err != nil {
				return err
			}
		}
	}
	if s.old {
		s.HeadCount = uint64(len(s.Heads))
	}
	return r.End()
}

// decodeNumbers verifies the checksum and decodes the numbers of a summary. r
// continues with the clock IDs, which the given lists follow.
func (s *summary) decodeNumbers(b []byte) (r *dagcbor.Reader, lists []*[]entry.Position, err error) {
	body := b[:max(0, len(b)-4)]
	if len(b) < 4 || crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(b[len(body):]) {
		return nil, nil, errors.New("wrong checksum")
	}
	r = dagcbor.NewReader(body)
	parts, err := r.Array()
	if err != nil {
		return nil, nil, err
	}
	numbers, lists := s.numbers(), s.positionLists()
	if s.old = parts == 2+len(s.oldPositionLists()); s.old {
		numbers, lists = s.oldNumbers(), s.oldPositionLists()
	}
	if parts != 2+len(lists) {
		return nil, nil, fmt.Errorf("%d parts", parts)
	}
	if err := r.Tuple(len(numbers)); err != nil {
		return nil, nil, err
	}
	for _, n := range numbers {
		if *n, err = r.Uint(); err != nil {
			return nil, nil, err
		}
	}
	s.outdated = s.old && (s.Unauthorized > 0 || s.Pending > 0)
	s.unmeasured = s.old && s.Numbers > 0
	return r, lists, nil
}

func readPosition(r *dagcbor.Reader, ids []string) (p entry.Position, err error) {
	if err = r.Tuple(4); err != nil {
		return p, err
	}
	time, err := r.Number()
	if err != nil {
		return p, err
	}
	p.Time = time.Float64()
	if p.Depth, err = r.Uint(); err != nil {
		return p, err
	}
	id, err := r.Uint()
	if err != nil {
		return p, err
	}
	if id >= uint64(len(ids)) {
		return p, errors.New("unknown clock ID")
	}
	p.ID = ids[id]
	p.Hash, err = r.Text()
	return p, err
}
