package replicate

import (
	"strings"

	"github.com/newpieceplease/npp/orbit"
)

// The stored record of a database that is not here yet contains what it will be
// opened with: the index field alone, as earlier versions wrote it, or, if
// there is a type, a NUL byte, the type, another NUL byte, and the index field.

func encodeOptions(opts orbit.OpenOptions) []byte {
	if opts.Type == "" && !strings.HasPrefix(opts.IndexBy, "\x00") {
		return []byte(opts.IndexBy)
	}
	return []byte("\x00" + opts.Type + "\x00" + opts.IndexBy)
}

func decodeOptions(record []byte) orbit.OpenOptions {
	typed, ok := strings.CutPrefix(string(record), "\x00")
	kind, indexBy, whole := strings.Cut(typed, "\x00")
	if !ok || !whole {
		return orbit.OpenOptions{IndexBy: string(record)}
	}
	return orbit.OpenOptions{Type: kind, IndexBy: indexBy}
}

// options returns what the database is opened with once it is here.
func (rp *replica) options() orbit.OpenOptions {
	record, err := rp.r.cfg.Store.Get(rp.ctx, key(wantedPrefix, rp.address))
	if err != nil {
		return orbit.OpenOptions{}
	}
	return decodeOptions(record)
}
