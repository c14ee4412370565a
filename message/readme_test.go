package message

import (
	"testing"

	"github.com/newpieceplease/npp/test/readme"
)

func TestReadmeHasTheLimits(t *testing.T) {
	l := DefaultLimits()
	b := &mailbox{limits: l}
	readme.Says(t, "A message has at most %d MiB by default", l.MaxMessageBytes>>20)
	readme.Says(t, "largest direct message, sent or received; at most %d |", maxMessageBytes)
	readme.Says(t, "for at least %d hours, also after restarts", int(ReplayWindow.Hours()))
	readme.Says(t, "the IDs of %d deleted messages are remembered, one per %d bytes of `PubsubBytes`", b.maxGone(), recordOverhead)
	readme.Says(t, "`KeepFor` | how long a message is kept; `0s`: until you remove it")
	readme.Says(t, "`%s` it and tell the sender, or `%s` of that sender", Refuse, DropOldest)
}
