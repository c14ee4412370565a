package router

import "sync"

// topicSet holds the topics that this peer is subscribed to or about to
// subscribe to.
type topicSet struct {
	tellFollowed bool // followed topics are told to all peers

	mu     sync.Mutex
	topics map[string]*topicUse
}

// topicUse is a topic in a [topicSet]. At least one field besides the name is
// not zero.
type topicUse struct {
	name       string // shared by those that remember the topic
	followed   int    // followers of this package
	subscribed int    // subscriptions of this package
	joined     bool   // pubsub is subscribed to it
	foreign    bool   // pubsub subscribed to it while this package did not, as `ipfs pubsub sub` does
}

func newTopicSet(tellFollowed bool) *topicSet {
	return &topicSet{tellFollowed: tellFollowed, topics: make(map[string]*topicUse)}
}

// change changes the record of a topic, which is added and removed as needed.
func (s *topicSet) change(topic string, f func(*topicUse)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[topic]
	if t == nil {
		t = &topicUse{name: topic}
		s.topics[topic] = t
	}
	f(t)
	if *t == (topicUse{name: t.name}) {
		delete(s.topics, topic)
	}
}

// read returns the record of a topic, or a zero record.
func (s *topicSet) read(topic string) topicUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.topics[topic]; t != nil {
		return *t
	}
	return topicUse{}
}

// open returns this side's copy of the name of a topic, and whether the topic
// is in the set.
func (s *topicSet) open(topic string) (name string, ok bool) {
	t := s.read(topic)
	return t.name, t != topicUse{}
}

// isJoined reports whether pubsub is subscribed to a topic.
func (s *topicSet) isJoined(topic string) bool { return s.read(topic).joined }

// isFollowed reports whether a topic is followed.
func (s *topicSet) isFollowed(topic string) bool { return s.read(topic).followed > 0 }

// isPublic reports whether a topic is told to all peers. A topic that is not in
// the set is not: it may have been followed until a moment ago.
func (s *topicSet) isPublic(topic string) bool {
	t := s.read(topic)
	return s.tellFollowed || t.foreign || t.subscribed > 0 || t.joined && t.followed == 0
}

// isOnlyFollowed reports whether a topic is followed and not used otherwise.
func (s *topicSet) isOnlyFollowed(topic string) bool {
	t := s.read(topic)
	return t.followed > 0 && t.subscribed == 0 && !t.foreign
}

func (s *topicSet) follow(topic string)   { s.change(topic, func(t *topicUse) { t.followed++ }) }
func (s *topicSet) unfollow(topic string) { s.change(topic, func(t *topicUse) { t.followed-- }) }

func (s *topicSet) subscribe(topic string)   { s.change(topic, func(t *topicUse) { t.subscribed++ }) }
func (s *topicSet) unsubscribe(topic string) { s.change(topic, func(t *topicUse) { t.subscribed-- }) }

// join records that pubsub has subscribed to a topic, and reports whether that
// was not for this package.
func (s *topicSet) join(topic string) (foreign bool) {
	s.change(topic, func(t *topicUse) {
		t.joined, t.foreign = true, t.followed+t.subscribed == 0
		foreign = t.foreign
	})
	return foreign
}

// leave records that pubsub has unsubscribed from a topic.
func (s *topicSet) leave(topic string) {
	s.change(topic, func(t *topicUse) { t.joined, t.foreign = false, false })
}
