package oplog

import (
	"bytes"
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

// summary is what is known of a log without reading it. It is written with
// each change of the log.
type summary struct {
	Numbers   uint64 // of the entry that came last; 0 for none
	Counting  uint64 // entries that count
	Faults    uint64 // entries that do not
	Keys      uint64 // live keys of the state
	Waiting   uint64 // entries that wait for others
	Pending   uint64 // bytes that those are charged
	ReadyFrom uint64 // first entry of the ready queue
	ReadyTo   uint64 // behind the last
	Rebuild   uint64 // 0, or while the index is being rebuilt 1 + Numbers of before

	HeadCount uint64 // heads
	HeadPages uint64 // pages of heads, where they are in pages
	Queue     uint64 // entries whose effect is to be decided anew
	Doubtful  uint64 // of those, the doubted ones
	Revision  uint64 // how often an entry that was here came to count, or ceased to
	Missing   uint64 // hashes that are to be fetched
	GivenUp   uint64 // how many waiting entries were forgotten for want of room
	Bytes     uint64 // of the blocks of the entries
	Secret    uint64 // by which missing hashes are laid out; 0: none is yet

	Heads  []entry.Position // newest first; none where they are in pages
	Newest []entry.Position // the newest of those that count, newest first
	Own    []entry.Position // the entry that was written here last, if any

	lists      *sets    // the access lists, once this transaction has read them
	covered    bool     // all that the next entry names were heads, and are none any more
	flipped    []uint64 // numbers of entries whose effect this transaction changed
	outdated   bool     // it was written before verdicts could change, and there are some
	unmeasured bool     // it was written before Bytes was counted, and there are entries
}

// spare is how many more entries are kept as newest than the references of an
// entry need now: with a log of more heads, they need more.
const spare = 16

// keep is how many entries a summary should have as newest.
func (s *summary) keep() int { return len(s.Heads) + entry.MaxRefs + spare }

// add makes an entry that counts one of the newest, if it is.
func (s *summary) add(p entry.Position) {
	all := uint64(len(s.Newest)) == s.Counting
	s.Counting++
	i, _ := slices.BinarySearchFunc(s.Newest, p, descending)
	if i == len(s.Newest) && !all {
		return
	}
	s.Newest = slices.Insert(s.Newest, i, p)
	if keep := s.keep(); len(s.Newest) > keep {
		s.Newest = s.Newest[:keep]
	}
}

// remove undoes add.
func (s *summary) remove(p entry.Position) {
	s.Counting--
	if i, ok := slices.BinarySearchFunc(s.Newest, p, descending); ok {
		s.Newest = slices.Delete(s.Newest, i, i+1)
	}
}

func descending(a, b entry.Position) int { return b.Compare(a) }

func (s *summary) numbers() []*uint64 {
	return append(s.oldNumbers(), &s.HeadCount, &s.HeadPages, &s.Queue, &s.Doubtful, &s.Revision, &s.Missing, &s.GivenUp, &s.Bytes, &s.Secret)
}

// oldNumbers are the numbers of a summary that was written before verdicts could
// change.
func (s *summary) oldNumbers() []*uint64 {
	return []*uint64{&s.Numbers, &s.Counting, &s.Faults, &s.Keys, &s.Waiting, &s.Pending, &s.ReadyFrom, &s.ReadyTo, &s.Rebuild}
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

// encode returns the numbers, the clock IDs, and the lists of positions, with
// the place of the clock ID in their list; then a checksum, since entries that
// are made of a garbled summary could not be taken back.
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
			b, _ = dagcbor.AppendFloat(b, p.Time) // which is a number
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
	body := b[:max(0, len(b)-4)]
	if !bytes.Equal(withChecksum(slices.Clone(body)), b) {
		return errors.New("wrong checksum")
	}
	r := dagcbor.NewReader(body)
	parts, err := r.Array()
	if err != nil {
		return err
	}
	numbers, lists := s.numbers(), s.positionLists()
	old := parts == 2+len(s.oldPositionLists())
	if old {
		numbers, lists = s.oldNumbers(), s.oldPositionLists()
	}
	if parts != 2+len(lists) {
		return fmt.Errorf("%d parts", parts)
	}
	if err := r.Tuple(len(numbers)); err != nil {
		return err
	}
	for _, n := range numbers {
		if *n, err = r.Uint(); err != nil {
			return err
		}
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
	if old {
		s.HeadCount = uint64(len(s.Heads))
		s.outdated = s.Faults > 0 || s.Waiting > 0
		s.unmeasured = s.Numbers > 0
	}
	return r.End()
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
		return p, errors.New("no such clock")
	}
	p.ID = ids[id]
	p.Hash, err = r.Text()
	return p, err
}
