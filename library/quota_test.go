package library_test

import (
	"testing"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
)

// All databases of a companion share one quota, and no other database does.
func TestDatabasesOfACompanionShareAQuota(t *testing.T) {
	n, o := newNode(t), newNode(t)
	o.putOwnPieces(t, "h1", "Canon")
	n.addAndAwait(o, 1)
	user := o.database(t, library.UserName).Address()
	var together uint64
	for _, name := range []string{library.UserName, library.PiecesName, library.PracticeName} {
		db, err := n.orbit.Open(t.Context(), o.database(t, name).Address(), orbit.OpenOptions{})
		must(t, err)
		u := db.Usage()
		if u.Group != user {
			t.Errorf("%s is in the group %q, not %q", name, u.Group, user)
		}
		if access := db.Access().Database(); access != nil {
			if g := access.Usage().Group; g != user {
				t.Errorf("the access database of %s is in the group %q", name, g)
			}
			together += access.Usage().Entries + access.Usage().Pending
		}
		if together += u.Entries + u.Pending; name == library.PiecesName && u.Entries == 0 {
			t.Errorf("%s has no entries", name)
		}
	}
	if u := n.database(t, library.PiecesName).Usage(); u.Group != "" || u.Limited {
		t.Errorf("a library database: %+v", u)
	}
	if u := n.orbit.Usage(); u.Entries+u.Pending != together {
		t.Errorf("all databases of peers use %+v, the companion %d bytes", u, together)
	}
}
