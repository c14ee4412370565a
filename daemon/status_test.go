package daemon

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

func TestFailedWriteToAnyStoreNeedsAttention(t *testing.T) {
	disks := []*storetest.Disk{storetest.NewDisk(), storetest.NewDisk()}
	d := &Daemon{}
	for _, disk := range disks {
		d.stores = append(d.stores, store.New(disk, "/npp"))
	}
	put := func(s *store.Store) error {
		return s.Update(t.Context(), func(tx *store.Tx) error { return tx.Put("key", nil) })
	}
	for i, s := range d.stores {
		if err := d.failing(); err != nil {
			t.Errorf("before store %d fails: %v", i, err)
		}
		disks[i].FailAfter(1, storetest.Once)
		if err := put(s); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err := d.failing(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("after store %d failed: %v", i, err)
		}
		if err := put(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.failing(); err != nil {
		t.Errorf("after all stores can be written: %v", err)
	}
}

func TestFullDiskIsToldApartFromOtherFailures(t *testing.T) {
	for err, want := range map[error]string{
		syscall.ENOSPC: "free space on the disk",
		syscall.EDQUOT: "free space on the disk",
		syscall.EIO:    "fix that",
	} {
		advice := diskAdvice(errors.Join(store.ErrNotDurable, err))
		if !strings.HasPrefix(advice, want) || !strings.Contains(advice, "restart the daemon") {
			t.Errorf("%v: %s", err, advice)
		}
	}
}

func TestAttentionCountsOneRight(t *testing.T) {
	attention := func(n int) (texts []string) {
		refused := slices.Repeat([]replicate.Refusal{{Err: errors.New("bad")}}, n)
		s := Status{Messages: message.Stats{Refused: uint64(n)}}
		s.attendMessages()
		s.attendDatabase(orbit.DatabaseInfo{}, replicate.Status{Refused: refused})
		s.attendOffers(n, false)
		for _, a := range s.Attention {
			texts = append(texts, a.Err.Error())
		}
		return texts
	}
	for n, want := range map[int]string{
		0: "",
		1: "1 message was refused since the start; 1 entry was refused, the last: bad; 1 peer offers its library",
		2: "2 messages were refused since the start; 2 entries were refused, the last: bad; 2 peers offer their libraries",
	} {
		if got := strings.Join(attention(n), "; "); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
