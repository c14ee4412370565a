package router

import "testing"

// A topic counts before pubsub accepts messages of it.
func TestTopicIsOpenBeforeItIsJoined(t *testing.T) {
	s := newTopicSet(false)
	isOpen := func() bool { _, ok := s.open(topic); return ok }
	s.follow(topic)
	if !isOpen() || s.isJoined(topic) {
		t.Error("opened")
	}
	s.join(topic)
	s.unfollow(topic)
	if !isOpen() || !s.isJoined(topic) {
		t.Error("joined")
	}
	s.leave(topic)
	if isOpen() || s.isJoined(topic) || len(s.topics) != 0 {
		t.Error("left")
	}
}

func TestOnlyTopicsThatAreMerelyFollowedAreNotPublic(t *testing.T) {
	join := func(s *topicSet, topic string) { s.join(topic) } // as `ipfs pubsub sub` does
	type steps []func(*topicSet, string)
	for name, c := range map[string]struct {
		steps  steps
		public bool
	}{
		"never opened":                    {nil, false},
		"followed":                        {steps{(*topicSet).follow, join}, false},
		"no longer followed":              {steps{(*topicSet).follow, join, (*topicSet).leave, (*topicSet).unfollow}, false},
		"subscribed":                      {steps{(*topicSet).subscribe}, true},
		"subscribed and followed":         {steps{(*topicSet).subscribe, join, (*topicSet).follow}, true},
		"followed and subscribed":         {steps{(*topicSet).follow, join, (*topicSet).subscribe}, true},
		"followed, no longer subscribed":  {steps{(*topicSet).subscribe, join, (*topicSet).follow, (*topicSet).unsubscribe}, false},
		"foreign":                         {steps{join}, true},
		"foreign and followed":            {steps{join, (*topicSet).follow}, true},
		"followed, no longer foreign":     {steps{join, (*topicSet).leave, (*topicSet).follow, join}, false},
		"foreign since it was unfollowed": {steps{(*topicSet).follow, join, (*topicSet).unfollow}, true},
	} {
		for _, all := range []bool{false, true} {
			s := newTopicSet(all)
			for _, step := range c.steps {
				step(s, topic)
			}
			if got := s.isPublic(topic); got != (c.public || all) {
				t.Errorf("%s: public is %t", name, got)
			}
		}
	}
}
