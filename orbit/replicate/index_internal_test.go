package replicate

import (
	"context"
	"testing"

	"github.com/newpieceplease/npp/orbit/internal/inventory"
)

// A state that changed without a change of the log is found by reading it anew.
func TestRenewedState(t *testing.T) {
	fingerprint := [32]byte{1}
	x := newIndex(func(context.Context, string) ([32]byte, error) { return fingerprint, nil })
	k := inventory.Key{7}
	x.add(k)
	if state, differs := x.renew(t.Context(), k); state != (inventory.State{1}) || !differs {
		t.Errorf("got %x, %v, want the state, which is new", state, differs)
	}
	fingerprint = [32]byte{2}
	if state := x.State(t.Context(), k); state != (inventory.State{1}) {
		t.Errorf("got %x, want the known state", state)
	}
	if state, differs := x.renew(t.Context(), k); state != (inventory.State{2}) || !differs {
		t.Errorf("got %x, %v, want the new state", state, differs)
	}
	if state, differs := x.renew(t.Context(), k); state != (inventory.State{2}) || differs {
		t.Errorf("got %x, %v, want the same state", state, differs)
	}
}
