package library_test

import (
	"testing"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
)

// What a companion has counts for one quota, and no other database does.
func TestStoresOfACompanionHaveOneQuota(t *testing.T) {
	n, o := newNode(t), newNode(t)
	o.shelve(t, "h1", "Canon")
	n.follow(o, 1)
	user := o.own(t, library.UserName).Address()
	var together uint64
	for _, name := range []string{library.UserName, library.PiecesName, library.PracticeName} {
		db, err := n.orbit.Open(t.Context(), o.own(t, name).Address(), orbit.OpenOptions{})
		must(t, err)
		u := db.Usage()
		if u.Group != user {
			t.Errorf("%s is of the group %q, not %q", name, u.Group, user)
		}
		if access := db.Access().Database(); access != nil {
			if g := access.Usage().Group; g != user {
				t.Errorf("who may write %s is of the group %q", name, g)
			}
			together += access.Usage().Entries + access.Usage().Waiting
		}
		if together += u.Entries + u.Waiting; name == library.PiecesName && u.Entries == 0 {
			t.Errorf("%s takes nothing", name)
		}
	}
	if u := n.own(t, library.PiecesName).Usage(); u.Group != "" || u.Limited {
		t.Errorf("a store of our own: %+v", u)
	}
	if u := n.orbit.Usage(); u.Entries+u.Waiting != together {
		t.Errorf("all of others take %+v, the companion %d bytes", u, together)
	}
}
