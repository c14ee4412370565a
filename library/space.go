package library

import (
	"context"
	"errors"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"

	"github.com/newpieceplease/npp/space"
)

// accepts reports whether the disk has space for data from peers. If not, cards
// are exchanged again once it has.
func (l *Library) accepts() bool {
	if l.cfg.Disk.CheckIncoming() == nil {
		return true
	}
	l.declined.Set()
	return false
}

// announceAgain exchanges cards again after some were ignored.
func (l *Library) announceAgain() {
	for {
		select {
		case <-l.declined:
		case <-l.ctx.Done():
			return
		}
		if l.cfg.Disk.AwaitIncoming(l.ctx) != nil {
			return
		}
		l.cards.Announce() // peers respond with their cards
	}
}

// guardedFile is a file whose Read fails once the disk is almost full.
type guardedFile struct {
	files.File
	disk *space.Disk
}

func (f guardedFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	if full := f.disk.CheckWrite(n); full != nil {
		return 0, full
	}
	return n, err
}

// pin fetches and pins the DAG of a CID; see [Files.Pin]. It fails once the
// disk is almost full.
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
