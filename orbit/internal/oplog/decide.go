package oplog

import (
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// denied is the reason stored for a valid entry that is not authorized.
const denied = "its writer is not on the access list"

// decision is the stored decision about an entry.
type decision struct {
	valid      bool
	writer     string // ID; "" if the entry is invalid
	authorized bool
	reason     string // why it is not authorized, or ""
}

// decision returns the stored decision about an entry.
func (l *Log) decision(g blocks.Getter, e *entry.Entry) (v decision, err error) {
	if v.reason, err = l.unauthorized(g, e.Hash()); err != nil {
		return v, err
	}
	v.authorized = v.reason == ""
	if v.valid = v.authorized || v.reason == denied; v.valid {
		v.writer, err = l.config.Writer(g, e)
	}
	return v, err
}

func (l *Log) unanchoredKey(hash string) string { return l.key("loose/" + hash) }

// unauthorizedPrefix returns the prefix of the keys of a writer's valid entries
// that are not authorized. An ID may be any text, so the key contains its hash.
func (l *Log) unauthorizedPrefix(writer string) string {
	return l.key("idle/" + block.Hash([]byte(writer)))
}

func (l *Log) unauthorizedKey(writer, hash string) string {
	return l.unauthorizedPrefix(writer) + "/" + hash
}

// decide decides whether an entry is authorized. It calls push with those
// parents for which the result matters.
func (l *Log) decide(tx *store.Tx, sum *summary, number uint64, m mark, push func(uint64, mark) error) error {
	e, err := l.byNumber(tx, number)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	hash := e.Hash()
	was, err := l.decision(tx, e)
	if err != nil {
		return err
	}
	unanchored, err := tx.Has(l.unanchoredKey(hash))
	if err != nil {
		return err
	}
	lists, err := l.access(tx, sum)
	if err != nil {
		return err
	}
	if m == granted && was.authorized {
		return nil
	}
	covered := m == anchored || m == granted && !unanchored // an anchor descends from it
	isAnchored := covered || was.valid && lists.anchors(hash, was.writer)
	authorized := was.valid && isAnchored && lists.eligible(hash, was.writer)
	if isAnchored == unanchored {
		if err := l.setUnanchored(tx, hash, !isAnchored); err != nil {
			return err
		}
	}
	if authorized != was.authorized {
		if err := l.setAuthorized(tx, sum, e, number, was.writer, authorized); err != nil {
			return err
		}
	}
	if authorized {
		p, err := PositionOf(tx, l.number, e)
		if err != nil {
			return err
		}
		if err := l.setHead(tx, sum, p, !covered); err != nil {
			return err
		}
	}
	switch {
	case isAnchored && (unanchored || sum.Doubted > 0):
		return l.pushParents(tx, e, anchored, push)
	case !isAnchored && !unanchored:
		return l.pushParents(tx, e, doubted, push)
	}
	return nil // nothing changed, so nothing changes for its parents
}

// pushParents calls push with the entries that e names in next.
func (l *Log) pushParents(tx *store.Tx, e *entry.Entry, m mark, push func(uint64, mark) error) error {
	for _, parent := range e.Next {
		at, err := l.locate(tx, parent)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := push(at.Number, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) setUnanchored(tx *store.Tx, hash string, unanchored bool) error {
	if unanchored {
		return tx.Put(l.unanchoredKey(hash), nil)
	}
	return tx.Delete(l.unanchoredKey(hash))
}

// setAuthorized authorizes or revokes a valid entry of the log.
func (l *Log) setAuthorized(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string, authorized bool) error {
	sum.Revision++
	sum.revised = append(sum.revised, number)
	if authorized {
		return l.authorize(tx, sum, e, number, writer)
	}
	return l.revoke(tx, sum, e, number, writer)
}

// authorize makes an unauthorized entry authorized.
func (l *Log) authorize(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string) error {
	sum.Unauthorized--
	for _, key := range []string{l.reasonKey(e.Hash()), l.unauthorizedKey(writer, e.Hash())} {
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	p, err := PositionOf(tx, l.number, e)
	if err != nil {
		return err
	}
	return l.addAuthorized(tx, sum, e, p, number)
}

// revoke makes an authorized entry unauthorized.
func (l *Log) revoke(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string) error {
	p, err := PositionOf(tx, l.number, e)
	if err != nil {
		return err
	}
	if err := l.deny(tx, sum, e.Hash(), writer); err != nil {
		return err
	}
	if err := l.setHead(tx, sum, p, false); err != nil {
		return err
	}
	sum.remove(p)
	if err := tx.Delete(l.orderKey(p)); err != nil {
		return err
	}
	time, _ := encodePosition(p)
	if err := l.removeFromTree(tx, time, p.Hash); err != nil {
		return err
	}
	keys, err := l.config.State.Retract(tx, e, Ref{p, number})
	sum.Keys += uint64(keys)
	return err
}

// deny records a valid entry as unauthorized.
func (l *Log) deny(tx *store.Tx, sum *summary, hash, writer string) error {
	sum.Unauthorized++
	if err := tx.Put(l.unauthorizedKey(writer, hash), []byte(hash)); err != nil {
		return err
	}
	return tx.Put(l.reasonKey(hash), []byte(denied))
}
