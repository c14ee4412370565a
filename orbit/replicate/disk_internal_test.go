package replicate

import (
	"testing"

	"github.com/newpieceplease/npp/space/spacetest"
)

// A replica with nothing else to do notices by itself when there is disk space
// again.
func TestRejectedDataWakesTheReplica(t *testing.T) {
	disk := spacetest.New()
	r := bare(Config{Disk: disk.Disk})
	rp := newReplica(r, "/orbitdb/zdpu")
	if !rp.accepts() || len(rp.wants.wake) > 0 {
		t.Fatal("a disk with free space rejects data")
	}
	disk.Set(0)
	if rp.accepts() {
		t.Fatal("a full disk accepts data")
	}
	if len(rp.wants.wake) == 0 {
		t.Fatal("no task waits for free space")
	}
	disk.Set(2 * spacetest.Floor)
	<-rp.wants.wake
	if !rp.awaitDisk() || len(rp.wants.wake) == 0 {
		t.Error("peers are not asked again")
	}
	rp.cancel()
	if disk.Set(0); rp.awaitDisk() {
		t.Error("the replica goes on after its end")
	}
}
