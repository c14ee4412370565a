package oplog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/store"
)

// parentsPerRecord is how many parents of an entry that waits a record has; the
// last one has fewer, or none.
const parentsPerRecord = 64

// sleeper is an entry in the list of those that wait for a hash, or in the
// ready queue.
type sleeper struct {
	hash string
	// place is that of the hash among the entry's parents, which are stored by
	// themselves from there on; or 0, where they are not.
	place int
}

func (s sleeper) String() string {
	if s.place == 0 {
		return s.hash
	}
	return s.hash + "." + strconv.Itoa(s.place)
}

func parseSleeper(text string) (s sleeper, ok bool) {
	var place string
	if s.hash, place, ok = strings.Cut(text, "."); ok {
		s.place, _ = strconv.Atoi(place)
	}
	return s, block.ValidHash(s.hash) && s.place >= 0 && s.String() == text
}

// list puts an entry in the list of those that wait for a hash.
func (l *Log) list(tx *store.Tx, missing string, s sleeper) error {
	sleepers, err := l.sleepers(tx, missing)
	if err != nil {
		return err
	}
	return tx.Put(l.wakeKey(missing), append(append(sleepers, s.String()...), ' '))
}

func (l *Log) parentsKey(hash string, n int) string {
	return store.Key(l.key("parents/"+hash), uint64(n))
}

// putParents stores the parents of an entry that waits, from its place on.
func (l *Log) putParents(tx *store.Tx, s sleeper, parents []string) error {
	if s.place == 0 {
		return nil
	}
	for n := s.place / parentsPerRecord; ; n++ {
		some := parents[n*parentsPerRecord : min(len(parents), (n+1)*parentsPerRecord)]
		if err := tx.Put(l.parentsKey(s.hash, n), []byte(strings.Join(some, ""))); err != nil {
			return err
		}
		if len(some) < parentsPerRecord {
			return nil
		}
	}
}

// goOn returns the first of an entry's parents, from its place on, that is not
// in the log, or "", and moves the place there. It deletes the records of
// parents that are behind it. size is what it read.
func (l *Log) goOn(tx *store.Tx, s *sleeper) (missing string, size int, err error) {
	for {
		key := l.parentsKey(s.hash, s.place/parentsPerRecord)
		record, err := l.mustGet(tx, key)
		if err != nil {
			return "", size, err
		}
		size += len(record)
		parents, ok := splitHashes(record)
		at := s.place % parentsPerRecord
		if !ok || at > len(parents) || len(parents) > parentsPerRecord {
			return "", size, fmt.Errorf("%w of %s: %s", ErrDamaged, l.id, key)
		}
		missing, n, err := l.missing(tx, parents[at:])
		if err != nil {
			return "", size, err
		}
		s.place += n
		if missing != "" {
			return missing, size, nil
		}
		if err := tx.Delete(key); err != nil || len(parents) < parentsPerRecord {
			return "", size, err
		}
	}
}

// splitHashes returns the hashes that stand one behind the other.
func splitHashes(record []byte) (hashes []string, ok bool) {
	for ; len(record) >= block.HashLen; record = record[block.HashLen:] {
		hash := string(record[:block.HashLen])
		if !block.ValidHash(hash) {
			return nil, false
		}
		hashes = append(hashes, hash)
	}
	return hashes, len(record) == 0
}
