package sim

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// lie answers a session of package reconcile in valid messages: it claims to
// have many entries, and transfers useless blocks.
func (x *hostile) lie(s network.Stream, rng *rand.Rand) {
	defer s.Reset()
	in, out := msgio.NewVarintReaderSize(s, maxFrame), msgio.NewVarintWriter(s)
	for {
		frame, err := in.ReadMsg()
		if err != nil {
			return
		}
		r := dagcbor.NewReader(frame)
		r.Array()
		kind, _ := r.Number()
		asked, _ := r.Array()
		switch kind.Bits {
		case 0: // to open a database
			err = out.WriteMsg(dagcbor.AppendArray(nil, 0))
		case 2: // for nodes of the tree
			err = out.WriteMsg(manyHashes(asked, rng))
		default:
			err = x.transferJunk(out, rng)
		}
		if err != nil {
			return
		}
	}
}

// manyHashes returns nodes that claim many entries, and name a few CIDs.
func manyHashes(nodes int, rng *rand.Rand) []byte {
	b := dagcbor.AppendArray(nil, nodes)
	for range nodes {
		b = dagcbor.AppendArray(b, 5)
		b = dagcbor.AppendBytes(dagcbor.AppendUint(b, rng.Uint64()), slices.Repeat([]byte{byte(rng.Uint32())}, 16))
		b = dagcbor.AppendArray(b, 0)
		hashes := slices.Repeat([]byte{byte(rng.Uint32())}, 32*(1+rng.IntN(20)))
		b = dagcbor.AppendBool(dagcbor.AppendBytes(b, hashes), rng.IntN(10) == 0)
	}
	return b
}

// transferJunk transfers useless blocks, perhaps slowly, perhaps for ever.
func (x *hostile) transferJunk(out msgio.Writer, rng *rand.Rand) error {
	pack, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	var all [][]byte
	address := x.databases[rng.IntN(len(x.databases))].address
	for range 1 + rng.IntN(30) {
		switch e := x.entry(address, rng); rng.IntN(4) {
		case 0:
			all = append(all, e.Data)
		case 1: // the signature is invalid
			all = append(all, changed(e).Data)
		case 2:
			all = append(all, x.signer.Block().Data)
		default:
			all = append(all, dagcbor.AppendUint(nil, rng.Uint64()))
		}
	}
	batch := pack.EncodeAll(bytes.Join(all, nil), nil)
	pause := time.Duration(rng.Int64N(int64(2 * time.Second)))
	endless := rng.IntN(3) == 0
	for endless || rng.IntN(5) > 0 {
		if err := out.WriteMsg(batch); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return out.WriteMsg(nil)
}
