package message

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
)

// ErrNoPubsub is returned by operations that need pubsub if it is disabled.
var ErrNoPubsub = errors.New("pubsub is disabled")

const (
	// pubsubBatch and pubsubBatchBytes bound the pubsub messages that share a
	// transaction; the last message may exceed the bytes.
	pubsubBatch      = 256
	pubsubBatchBytes = 1 << 20
	// pubsubQueue bounds the number of pubsub messages of a topic that wait to
	// be stored, and pubsubBudgetBytes their bytes over all topics.
	pubsubQueue       = 8192
	pubsubBudgetBytes = 64 << 20
	// subscriberWait is how long a publisher waits for a first subscriber: a
	// peer announces its topics shortly after it connects.
	subscriberWait = 2 * time.Second
	// subscriberPoll is how often the publisher checks.
	subscriberPoll = 20 * time.Millisecond
	// maxTopicLength is the largest length of a topic, in bytes.
	maxTopicLength = 1024
)

// topics holds the topics that are subscribed to.
type topics struct {
	mu   sync.Mutex
	open map[string]*openTopic
}

type openTopic struct {
	users int
	stop  func()
}

// subscribe stores the messages of a topic until unsubscribe is called.
func (s *Service) subscribe(topic string) (unsubscribe func(), err error) {
	if s.router == nil {
		return nil, ErrNoPubsub
	}
	if topic == "" || len(topic) > maxTopicLength {
		return nil, fmt.Errorf("a topic's name has 1 to %d bytes, not %d", maxTopicLength, len(topic))
	}
	s.topics.mu.Lock()
	defer s.topics.mu.Unlock()
	t := s.topics.open[topic]
	if t == nil {
		stop, err := s.store(topic)
		if err != nil {
			return nil, err
		}
		t = &openTopic{stop: stop}
		if s.topics.open == nil {
			s.topics.open = make(map[string]*openTopic)
		}
		s.topics.open[topic] = t
	}
	t.users++
	return func() {
		s.topics.mu.Lock()
		defer s.topics.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(s.topics.open, topic)
			t.stop()
		}
	}, nil
}

// store subscribes to a topic and stores its messages until stop is called.
func (s *Service) store(topic string) (stop func(), err error) {
	end, ok := s.tasks.Begin()
	if !ok {
		return nil, ErrClosed
	}
	sub, err := s.router.Subscribe(topic, func(author peer.ID, seqno []byte) bool {
		return s.box.unseen(s.ctx, author, seqno)
	})
	if err != nil {
		end()
		return nil, err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	queue := make(chan *Message, pubsubQueue)
	go func() {
		defer close(queue)
		defer sub.Cancel()
		for {
			m, err := sub.Next(ctx)
			if err != nil {
				return
			}
			if m.GetFrom() != s.host.ID() {
				s.enqueue(queue, fromPubsub(m))
			}
		}
	}()
	go func() {
		defer end()
		for m := range queue {
			batch, bytes := []*Message{m}, m.weight()
			for len(queue) > 0 && len(batch) < pubsubBatch && bytes < pubsubBatchBytes {
				m := <-queue
				batch, bytes = append(batch, m), bytes+m.weight()
			}
			s.storeBatch(topic, batch)
			s.pubsubBudget.Release(bytes)
		}
	}()
	return cancel, nil
}

// enqueue never blocks: a queue before it would not bound the bytes.
func (s *Service) enqueue(queue chan<- *Message, m *Message) {
	if s.pubsubBudget.TryAcquire(m.weight()) {
		select {
		case queue <- m:
			return
		default:
			s.pubsubBudget.Release(m.weight())
		}
	}
	s.countLost(m.Topics[0], 1, errors.New("they arrive faster than they can be stored"))
}

// weight is the approximate size of a message in memory.
func (m *Message) weight() int64 { return int64(len(m.Data) + len(m.Seqno) + recordOverhead) }

func (s *Service) storeBatch(topic string, batch []*Message) {
	refused, err := s.box.addPubsub(s.ctx, batch)
	if err != nil && s.ctx.Err() == nil {
		s.countLost(topic, len(batch), err)
	}
	if refused > 0 {
		log.Warnw("messages of a topic do not fit in the store", "topic", topic, "messages", refused)
	}
}

// countLost counts messages that were received and not stored. It logs the
// first loss.
func (s *Service) countLost(topic string, n int, why error) {
	if s.lost.Add(uint64(n)) == uint64(n) {
		log.Errorw("messages of a topic are lost", "topic", topic, "err", why)
	}
}

func fromPubsub(m *pubsub.Message) *Message {
	return &Message{
		ID:     pubsubID(m.GetFrom(), m.GetSeqno()),
		From:   m.GetFrom(),
		Data:   m.GetData(),
		Seqno:  m.GetSeqno(),
		Topics: []string{m.GetTopic()},
		Via:    Pubsub,
	}
}

// Publish publishes data to a topic and returns the peers that are subscribed
// to it. It waits up to two seconds for a first subscriber. The result is not a
// receipt.
func (s *Service) Publish(ctx context.Context, topic string, data []byte) ([]peer.ID, error) {
	switch {
	case s.router == nil:
		return nil, ErrNoPubsub
	case topic == "" || len(topic) > maxTopicLength:
		return nil, fmt.Errorf("a topic's name has 1 to %d bytes, not %d", maxTopicLength, len(topic))
	case len(data) == 0:
		return nil, ErrEmpty
	}
	subscribers := s.subscribers(ctx, topic)
	if len(subscribers) == 0 {
		return nil, fmt.Errorf("%w to topic %q", ErrNobody, topic)
	}
	if err := s.router.Publish(ctx, topic, data); err != nil {
		return nil, err
	}
	return subscribers, nil
}

// ErrNobody is returned if no peer is subscribed to a topic.
var ErrNobody = errors.New("no peer is subscribed")

// subscribers waits for the first subscriber and returns all subscribers.
func (s *Service) subscribers(ctx context.Context, topic string) []peer.ID {
	ctx, cancel := context.WithTimeout(ctx, subscriberWait)
	defer cancel()
	tick := time.NewTicker(subscriberPoll)
	defer tick.Stop()
	for {
		if ps := s.router.ListPeers(topic); len(ps) > 0 {
			return ps
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
