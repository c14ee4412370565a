package router

import (
	"errors"
	"fmt"
	"sync"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/internal/wait"
)

// ErrTooManyTopics matches each [TopicLimitError].
var ErrTooManyTopics = errors.New("too many pubsub topics")

// TopicLimitError is returned if another topic would exceed the bounds of
// [Limits].
type TopicLimitError struct {
	Topics int             // open topics, those of `ipfs pubsub sub` included
	Freed  <-chan struct{} // closed when one of them has been closed
}

func (e *TopicLimitError) Error() string {
	return fmt.Sprintf("%d pubsub topics are open, and peers accept no more", e.Topics)
}

// Is reports whether target is [ErrTooManyTopics].
func (e *TopicLimitError) Is(target error) bool { return target == ErrTooManyTopics }

// topicSet holds the topics that this peer is subscribed to or about to
// subscribe to. Pubsub announces all of them to each new peer in one RPC, and
// the peer resets the stream if the RPC is too large.
type topicSet struct {
	limits Limits

	mu     sync.Mutex
	topics map[string]*topicUse
	bytes  int         // of that RPC
	freed  wait.Change // announced when a topic is removed
}

// topicUse is a topic in a [topicSet]. At least one field is not zero.
type topicUse struct {
	opened int  // calls of open minus calls of close
	joined bool // pubsub is subscribed to it
}

func newTopicSet(limits Limits) *topicSet {
	return &topicSet{limits: limits, topics: make(map[string]*topicUse)}
}

// open adds a topic that this package is about to subscribe to.
func (s *topicSet) open(topic string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[topic] == nil && (len(s.topics) >= s.limits.Topics || s.bytes+greetingBytes(topic) > s.limits.TopicBytes) {
		return &TopicLimitError{Topics: len(s.topics), Freed: s.freed.Next()}
	}
	s.use(topic).opened++
	return nil
}

// close undoes open. The topic is removed as soon as pubsub has unsubscribed.
func (s *topicSet) close(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics[topic].opened--
	s.clean(topic)
}

// has reports whether a topic is open.
func (s *topicSet) has(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.topics[topic] != nil
}

// isJoined reports whether pubsub is subscribed to a topic.
func (s *topicSet) isJoined(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[topic]
	return t != nil && t.joined
}

// join records that pubsub has subscribed to a topic.
func (s *topicSet) join(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use(topic).joined = true
}

// leave records that pubsub has unsubscribed from a topic.
func (s *topicSet) leave(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use(topic).joined = false
	s.clean(topic)
}

// use returns the record of a topic, and adds it if needed. The caller holds
// s.mu.
func (s *topicSet) use(topic string) *topicUse {
	t := s.topics[topic]
	if t == nil {
		t = &topicUse{}
		s.topics[topic] = t
		s.bytes += greetingBytes(topic)
	}
	return t
}

// clean removes a topic without users. The caller holds s.mu.
func (s *topicSet) clean(topic string) {
	if t := s.topics[topic]; t.opened > 0 || t.joined {
		return
	}
	delete(s.topics, topic)
	s.bytes -= greetingBytes(topic)
	s.freed.Announce()
}

// greetingBytes is what a topic adds to the RPC that announces the topics.
func greetingBytes(topic string) int {
	yes, no := true, false
	return proto.Size(&pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{
		Topicid: &topic, Subscribe: &yes, RequestsPartial: &no, SupportsSendingPartial: &no,
	}}})
}
