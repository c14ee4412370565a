package replicate

import (
	"errors"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/admission"
)

var errBusy = errors.New("the memory budget of the peer is exhausted")

// budgetReader charges what it reads to the memory budget of a peer.
type budgetReader struct {
	budget *admission.Quota
	peer   peer.ID
	from   io.Reader
	taken  int64
}

// Read implements [io.Reader]. It fails once the budget is exhausted.
func (r *budgetReader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	if n > 0 {
		if !r.budget.TryAcquire(r.peer, int64(n)) {
			return 0, errBusy
		}
		r.taken += int64(n)
	}
	return n, err
}

// release gives the budget back.
func (r *budgetReader) release() {
	r.budget.Release(r.peer, r.taken)
	r.taken = 0
}
