package message

import (
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/space/spacetest"
)

func TestFullDiskIsToldToTheSenderAndStoresNothing(t *testing.T) {
	disk := spacetest.New()
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{disk: disk.Disk})
	deliver(t, a, b, "one", "before")
	disk.Set(spacetest.Floor - 1)
	out := wantOutcome(t, a, Outgoing{To: b.info, ID: "two", Data: []byte("meanwhile")}, Failed, ErrNoRoom)
	_, err := a.Send(testContext(t), Outgoing{To: b.info, ID: "two", Data: []byte("meanwhile")})
	if err == nil || !strings.Contains(err.Error(), `"the recipient's disk is full"`) {
		t.Errorf("the sender is told: %v", err)
	}
	wantStored(t, b, "before")
	// A message whose receipt was lost is on disk, whatever the free space.
	deliver(t, a, b, "one", "before")
	must(t, b.Remove(t.Context(), "one"))
	checkBooks(t, b.box)
	disk.Set(2 * spacetest.Floor)
	deliver(t, a, b, out.ID, "meanwhile")
	wantStored(t, b, "meanwhile")
	if st, err := b.Stats(t.Context()); err != nil || st.Refused != 2 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

func TestPubsubMessagesOnAFullDiskAreCounted(t *testing.T) {
	disk := spacetest.New()
	b := newDaemon(t, setup{disk: disk.Disk, pubsub: true})
	messages, _ := listening(t, testContext(t), b, Filter{})
	a := newAuthor(t, b)
	topic := b.info.ID.String()
	a.publish(topic, []byte{1}, "before")
	awaitMessage(t, "one with room", messages)
	disk.Set(spacetest.Floor - 1)
	for i := range 5 {
		a.publish(topic, []byte{2, byte(i)}, "meanwhile")
	}
	eventually(t, "they are counted as dropped", func() bool {
		st, err := b.Stats(t.Context())
		must(t, err)
		return st.Dropped.Subscriber == 5
	})
	var heard []string
	for _, m := range stored(t, b) {
		if m.Via == Pubsub {
			heard = append(heard, string(m.Data))
		}
	}
	if !slices.Equal(heard, []string{"before"}) {
		t.Errorf("stored: %q", heard)
	}
	disk.Set(2 * spacetest.Floor)
	a.publish(topic, []byte{3}, "after")
	if m := awaitMessage(t, "one with room again", messages); string(m.Data) != "after" {
		t.Errorf("heard %q", m.Data)
	}
	checkBooks(t, b.box)
}
