package orbit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// ErrInvalidCAR is returned for input that is not the CAR of a database.
var ErrInvalidCAR = errors.New("not a CAR of an OrbitDB database")

// ExportStats counts what an export wrote.
type ExportStats struct {
	Entries int
	Blocks  int      // entries included
	Damaged []string // CIDs of damaged entries, which are left out
}

// Export writes a database as a CAR (version 1). Its root is the manifest. It
// contains the access controller, and the entries in order of arrival, each
// writer's identity before the first entry that names it. Entries that arrive
// meanwhile are left out.
func (db *Database) Export(ctx context.Context, w io.Writer) (ExportStats, error) {
	root, err := db.orbit.block(ctx, db.hash(), nil)
	if err != nil {
		return ExportStats{}, err
	}
	c, err := block.ParseHash(root.Hash)
	if err != nil {
		return ExportStats{}, err
	}
	head := dagcbor.AppendMap(nil, 2)
	head = dagcbor.AppendText(head, "roots")
	head = dagcbor.AppendArray(head, 1)
	if head, err = dagcbor.AppendLink(head, c); err != nil {
		return ExportStats{}, err
	}
	head = dagcbor.AppendText(head, "version")
	head = dagcbor.AppendUint(head, 1)
	x := &exporter{w: w, written: make(map[string]bool)}
	if err := x.section(head); err != nil {
		return x.stats, err
	}
	return x.stats, x.database(ctx, db)
}

func (db *Database) hash() string {
	hash, _ := manifest.ParseAddress(db.address) // the address was made from it
	return hash
}

type exporter struct {
	w       io.Writer
	written map[string]bool // blocks that are not entries
	stats   ExportStats
}

func (x *exporter) section(parts ...[]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	section := binary.AppendUvarint(make([]byte, 0, size+binary.MaxVarintLen64), uint64(size))
	for _, p := range parts {
		section = append(section, p...)
	}
	_, err := x.w.Write(section)
	return err
}

func (x *exporter) block(b block.Block) error {
	c, err := block.ParseHash(b.Hash)
	if err != nil {
		return err
	}
	x.stats.Blocks++
	return x.section(c.Bytes(), b.Data)
}

// writeOnce writes a block that is not an entry, unless it was written before.
func (x *exporter) writeOnce(ctx context.Context, o *Orbit, hash string) error {
	if x.written[hash] {
		return nil
	}
	b, err := o.block(ctx, hash, nil)
	if err != nil {
		return err
	}
	x.written[hash] = true
	return x.block(b)
}

func (x *exporter) database(ctx context.Context, db *Database) error {
	if err := x.writeOnce(ctx, db.orbit, db.hash()); err != nil {
		return err
	}
	if inner := db.access.managed; inner != nil {
		if err := x.database(ctx, inner); err != nil {
			return err
		}
	} else if _, list, err := db.manifest.Access(); err != nil {
		return err
	} else if err := x.writeOnce(ctx, db.orbit, list); err != nil {
		return err
	}
	for a, err := range db.log.Stored(ctx, 0) {
		if errors.Is(err, ErrDamagedBlock) {
			x.stats.Damaged = append(x.stats.Damaged, a.Hash)
			continue
		}
		if err != nil {
			return err
		}
		// An entry without its identity cannot be verified, but its
		// descendants need it.
		if err := x.writeOnce(ctx, db.orbit, a.Entry.Identity); err != nil && !errors.Is(err, ErrUnavailable) {
			return err
		}
		if err := x.block(a.Entry.Block); err != nil {
			return err
		}
		x.stats.Entries++
	}
	return nil
}

// ImportStats counts the entries of a CAR by their outcome.
type ImportStats struct {
	Entries      int      // new
	Known        int      // already here
	Pending      int      // pending: their parents are neither here nor in the CAR
	Unauthorized int      // new and not authorized
	Refused      int      // not entries of the database, or not allowed to be
	Missing      []string // CIDs of the parents that pending entries need
}

// The bounds of an import, in bytes of blocks.
const (
	importBlock = 256      // overhead of a block
	importBatch = 4 << 20  // entries that are joined at once
	importHeld  = 64 << 20 // blocks in memory: those that are not entries, and entries that cannot be verified yet
)

// Import reads the CAR of a database, whose first root is the manifest, opens
// the database and joins the entries. The blocks may be in any order; unless
// they are in the order of [Database.Export], those that cannot be verified yet
// are held in memory. progress, if not nil, is called with the number of joined
// entries.
//
// An import also accepts entries of writers that are no longer on the access
// list, even if no pending entry needs them. The rule of [AccessController]
// determines whether they are authorized.
//
// Entries that were joined before an error remain. The counts are incomplete if
// there is an error.
func (o *Orbit) Import(ctx context.Context, r io.Reader, progress func(entries int)) (*Database, ImportStats, error) {
	car, err := carv2.NewBlockReader(r, carv2.MaxAllowedSectionSize(block.MaxSize+1024), carv2.MaxAllowedHeaderSize(1<<20))
	if errors.Is(err, io.EOF) {
		return nil, ImportStats{}, fmt.Errorf("%w: it is empty", ErrInvalidCAR)
	}
	if err != nil {
		return nil, ImportStats{}, fmt.Errorf("%w: %w", ErrInvalidCAR, err)
	}
	if len(car.Roots) == 0 {
		return nil, ImportStats{}, fmt.Errorf("%w: no root", ErrInvalidCAR)
	}
	root, ok := block.HashOf(car.Roots[0])
	if !ok || car.Roots[0].Prefix().Codec != cid.DagCBOR {
		return nil, ImportStats{}, fmt.Errorf("%w: the root %s is not a manifest", ErrInvalidCAR, car.Roots[0])
	}
	im := &importer{orbit: o, root: root, progress: progress, attached: make(Attached)}
	for {
		b, err := car.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return im.db, im.stats, fmt.Errorf("%w: %w", ErrInvalidCAR, err)
		}
		if hash, ok := block.HashOf(b.Cid()); ok {
			if err := im.add(ctx, block.Block{Hash: hash, Data: b.RawData()}); err != nil {
				return im.db, im.stats, err
			}
		}
	}
	if err := im.flush(ctx); err != nil {
		return im.db, im.stats, err
	}
	if im.db == nil {
		if im.db, err = o.Open(ctx, manifest.Address(root), OpenOptions{Attached: im.attached}); err != nil {
			return nil, im.stats, err
		}
		if err := im.flush(ctx); err != nil {
			return im.db, im.stats, err
		}
	}
	im.stats.Refused += len(im.entries)
	if err := im.count(ctx); err != nil {
		return im.db, im.stats, err
	}
	im.stats.Missing, err = im.db.log.Missing(ctx)
	return im.db, im.stats, err
}

// count counts the entries that became part of the databases, and the pending
// ones.
func (im *importer) count(ctx context.Context) error {
	for _, t := range im.targets {
		now, err := t.db.log.Stats(ctx)
		if err != nil {
			return err
		}
		im.stats.Entries += int(now.Entries - t.before.Entries)
		im.stats.Unauthorized += int(now.Unauthorized - t.before.Unauthorized)
		im.stats.Pending += int(now.Pending)
	}
	return nil
}

// target is a database to which the entries may belong, with its previous
// counts.
type target struct {
	db     *Database
	before oplog.Stats
}

type importer struct {
	orbit    *Orbit
	root     string
	progress func(int)
	db       *Database // nil until its manifest and access controller are known
	targets  []target

	attached Attached
	entries  []Candidate // to be joined
	size     int         // bytes of entries
	done     int         // entries that are part of a database or pending
	fresh    int         // bytes since the last flush
	held     int         // bytes of attached
	stats    ImportStats
}

func (im *importer) add(ctx context.Context, b block.Block) error {
	if c := NewCandidates(b)[0]; errors.Is(c.Err(), entry.ErrMalformed) {
		if _, again := im.attached[b.Hash]; again {
			return nil
		}
		im.held += len(b.Data) + importBlock
		im.attached[b.Hash] = block.Block{Hash: b.Hash, Data: bytes.Clone(b.Data)}
	} else {
		im.size += len(b.Data) + importBlock
		im.entries = append(im.entries, c)
	}
	if im.held+im.size > importHeld {
		return fmt.Errorf("%w: more than %d bytes of blocks that cannot be used yet", ErrInvalidCAR, importHeld)
	}
	if im.fresh += len(b.Data); im.fresh < importBatch {
		return nil
	}
	im.fresh = 0
	return im.flush(ctx)
}

// flush joins the entries and holds those that cannot be verified yet.
func (im *importer) flush(ctx context.Context) error {
	if im.db == nil {
		db, err := im.orbit.Open(ctx, manifest.Address(im.root), OpenOptions{Attached: im.attached})
		if errors.Is(err, ErrUnavailable) {
			return nil
		}
		if err != nil {
			return err
		}
		im.db = db
		targets := []*Database{db}
		if inner := db.access.managed; inner != nil {
			targets = []*Database{inner, db} // the access list first
		}
		for _, db := range targets {
			before, err := db.log.Stats(ctx)
			if err != nil {
				return err
			}
			im.targets = append(im.targets, target{db, before})
		}
	}
	for _, t := range im.targets {
		if err := im.join(ctx, t.db); err != nil {
			return err
		}
	}
	im.size = 0
	for _, c := range im.entries {
		im.size += len(c.block.Data) + importBlock
	}
	return nil
}

// join offers all entries to a database and holds those that it does not
// accept.
func (im *importer) join(ctx context.Context, db *Database) error {
	if err := im.orbit.config.Disk.CheckWrite(sizeOf(candidateBlocks(im.entries))); err != nil {
		return err
	}
	results, err := db.Join(ctx, im.entries, JoinOptions{Attached: im.attached, trusted: true})
	if err != nil {
		return err
	}
	var rest []Candidate
	for i, j := range results {
		switch {
		case j.Outcome == Known:
			im.stats.Known++
			im.done++
		case j.Outcome != Refused:
			im.done++
		case errors.Is(j.Err, ErrQuotaFull), errors.Is(j.Err, ErrPeerQuotaFull):
			return fmt.Errorf("import into %s: %w", db.address, j.Err)
		case errors.Is(j.Err, ErrUnavailable), errors.Is(j.Err, ErrNotAllowed), errors.Is(j.Err, ErrOtherDatabase):
			rest = append(rest, im.entries[i])
		default:
			im.stats.Refused++
		}
	}
	im.entries = rest
	if im.progress != nil {
		im.progress(im.done)
	}
	return nil
}
