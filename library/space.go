package library

import (
	"context"
	"errors"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"

	"github.com/newpieceplease/npp/space"
)

// accepts reports whether data from other peers may be stored: not while the disk is
// almost full. Once there is room, the connected peers are asked for their cards
// again.
func (l *Library) accepts() bool {
	if l.cfg.Disk.CheckIncoming() == nil {
		return true
	}
	signal(l.declined)
	return false
}

// askAgain exchanges cards again after some were turned away.
func (l *Library) askAgain() {
	for {
		select {
		case <-l.declined:
		case <-l.ctx.Done():
			return
		}
		if l.cfg.Disk.AwaitIncoming(l.ctx) != nil {
			return
		}
		l.cards.Announce() // who is shown a card answers with its own
	}
}

// measured is a file that is added, as far as the disk has room for it.
type measured struct {
	files.File
	disk *space.Disk
}

func (m measured) Read(b []byte) (int, error) {
	n, err := m.File.Read(b)
	if full := m.disk.CheckWrite(n); full != nil {
		return 0, full
	}
	return n, err
}

// pin fetches and pins what a CID is of, as far as the disk has room for it; see
// [Files.Pin].
func (l *Library) pin(ctx context.Context, c cid.Cid, progress func(blocks int)) error {
	if err := l.cfg.Disk.CheckWrite(0); err != nil {
		return err
	}
	guarded, stop := l.cfg.Disk.Guard(ctx)
	defer stop()
	err := l.cfg.Files.Pin(guarded, c, progress)
	if full := context.Cause(guarded); err != nil && errors.Is(full, space.ErrFull) {
		return full
	}
	return err
}
