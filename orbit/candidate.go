package orbit

import (
	"bytes"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
)

// Candidate is a decoded entry that is offered to a database. [NewCandidates]
// decodes it once; it can be verified and joined any number of times. The zero
// Candidate is malformed.
type Candidate struct {
	block block.Block
	entry *entry.Entry // nil if err is not nil
	err   error
}

// NewCandidates verifies the CIDs of blocks and decodes them as entries, on all
// processors. A candidate holds its block and a copy of each field. If its
// block is not an entry, [Candidate.Err] returns an error.
func NewCandidates(bs ...block.Block) []Candidate {
	cs := make([]Candidate, len(bs))
	parallel(len(bs), func(i int) {
		c := Candidate{block: bs[i]}
		if c.err = bs[i].Check(); c.err == nil {
			c.entry, c.err = entry.Decode(bs[i])
		}
		cs[i] = c
	})
	return cs
}

// Block returns the block of the candidate.
func (c Candidate) Block() block.Block { return c.block }

// Hash returns the CID of the block.
func (c Candidate) Hash() string { return c.block.Hash }

// Entry returns the entry, which must not be modified, or nil if there is an
// error.
func (c Candidate) Entry() *entry.Entry { return c.entry }

// Err returns the reason why the block is not an entry, or nil. It wraps
// [entry.ErrMalformed] or [block.ErrMismatch].
func (c Candidate) Err() error {
	if c.entry == nil && c.err == nil {
		return fmt.Errorf("%w: the candidate is empty", entry.ErrMalformed)
	}
	return c.err
}

// Clone returns a copy that does not share its block's memory, so that holding
// it does not hold the batch that the block was cut from.
func (c Candidate) Clone() Candidate {
	c.block.Data = bytes.Clone(c.block.Data)
	if c.entry != nil {
		e := *c.entry
		e.Block = c.block
		c.entry = &e
	}
	return c
}

func candidateBlocks(cs []Candidate) []block.Block {
	bs := make([]block.Block, len(cs))
	for i, c := range cs {
		bs[i] = c.block
	}
	return bs
}
