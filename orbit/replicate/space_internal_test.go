package replicate

import (
	"testing"

	"github.com/newpieceplease/npp/space/spacetest"
)

// A replica for which nothing else happens notices by itself that there is room.
func TestWhatIsTurnedAwayWakesTheReplica(t *testing.T) {
	disk := spacetest.New()
	r := &Replicator{cfg: Config{Disk: disk.Disk}, ctx: t.Context()}
	rp := newReplica(r, "/orbitdb/zdpu")
	if !rp.accepts() || len(rp.pulling) > 0 {
		t.Fatal("a disk with room turns something away")
	}
	disk.Set(0)
	if rp.accepts() {
		t.Fatal("a full disk accepts something")
	}
	if len(rp.pulling) == 0 {
		t.Fatal("nothing waits for room")
	}
	disk.Set(2 * spacetest.Floor)
	<-rp.pulling
	if !rp.awaitRoom() || len(rp.pulling) == 0 {
		t.Error("nothing asks again")
	}
	rp.cancel()
	if disk.Set(0); rp.awaitRoom() {
		t.Error("it goes on after its end")
	}
}
