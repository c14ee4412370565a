package replicate

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
)

// PubSub returns a [Router] that uses a gossipsub router as it is. It registers
// a validator for each topic of a database, so a message is forwarded once its
// entry is part of the log, as [Router] demands. The caller must not join these
// topics, nor register validators for them.
//
// In comparison with a router.Router, a plain router loses messages. The
// exchanges of heads replace them, ten seconds after a change or up to eight
// minutes later:
//
//   - Without [pubsub.WithFloodPublish], it does not send the entries of this
//     peer to subscribers that joined within the last second or so.
//   - It does not tell to which subscribers it does not forward the entries of
//     other peers, such as those. So [Router].Unmeshed returns none, and these
//     subscribers are not sent the heads instead.
//   - In a burst, it drops messages beyond the 32 that wait for validation, and
//     beyond the 32 that wait to be sent to a peer (see
//     [pubsub.WithValidateQueueSize] and [pubsub.WithPeerOutboundQueueSize]).
//   - It publishes no message of more than 1 MiB (see
//     [pubsub.WithMaxMessageSize]).
//   - It tells of the subscriptions of peers to topics that it joined, and of
//     no others. So all databases are subscribed to all the time, and none
//     rests. From some 9000 topics on, peers discard the subscriptions of this
//     host, all of which it sends at once.
//   - A peer that unsubscribes and subscribes again at once may go unnoticed.
//     It still begins exchanges itself.
func PubSub(ps *pubsub.PubSub) Router {
	return &plainRouter{ps: ps, topics: make(map[string]*pubsub.Topic)}
}

// ownMessage marks a message of this peer for the validator.
type ownMessage struct{}

// plainRouter is the Router of PubSub. topics has the topics that are followed.
type plainRouter struct {
	ps *pubsub.PubSub

	mu         sync.Mutex
	topics     map[string]*pubsub.Topic
	subscribed func(p peer.ID, topic string, on bool) // may be nil
}

// Follow implements [Router].
func (r *plainRouter) Follow(topic string, take func(context.Context, *pubsub.Message) bool) (stop func(), err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("follow topic %q: %w", topic, err)
		}
	}()
	err = r.ps.RegisterTopicValidator(topic, func(ctx context.Context, _ peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if _, own := m.ValidatorData.(ownMessage); own || take(ctx, m) {
			return pubsub.ValidationAccept
		}
		return pubsub.ValidationIgnore
	})
	if err != nil {
		return nil, err
	}
	leave, err := r.join(topic)
	if err != nil {
		return nil, errors.Join(err, r.ps.UnregisterTopicValidator(topic))
	}
	return func() {
		leave()
		r.ps.UnregisterTopicValidator(topic) // fails if the router has stopped
	}, nil
}

// join subscribes to a topic and reports its peers until leave is called. It
// relays the topic without reading it: the validator gets each message.
func (r *plainRouter) join(topic string) (leave func(), err error) {
	t, err := r.ps.Join(topic)
	if err != nil {
		return nil, err
	}
	events, err := t.EventHandler()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	unsubscribe, err := t.Relay()
	if err != nil {
		events.Cancel()
		return nil, errors.Join(err, t.Close())
	}
	r.set(topic, t)
	ctx, cancel := context.WithCancel(context.Background())
	var telling sync.WaitGroup
	telling.Go(func() { r.tell(ctx, topic, events) })
	return func() {
		r.set(topic, nil)
		cancel()
		telling.Wait()
		unsubscribe()
		events.Cancel()
		t.Close() // fails if the router has stopped
	}, nil
}

func (r *plainRouter) set(topic string, t *pubsub.Topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t == nil {
		delete(r.topics, topic)
	} else {
		r.topics[topic] = t
	}
}

// tell calls the function of OnSubscription for each peer that joins or leaves
// a topic, until the context is done.
func (r *plainRouter) tell(ctx context.Context, topic string, events *pubsub.TopicEventHandler) {
	for {
		e, err := events.NextPeerEvent(ctx)
		if err != nil {
			return
		}
		r.mu.Lock()
		f := r.subscribed
		r.mu.Unlock()
		if f != nil {
			f(e.Peer, topic, e.Type == pubsub.PeerJoin)
		}
	}
}

// Announce implements [Router]. It publishes on topics that are followed only.
func (r *plainRouter) Announce(ctx context.Context, topic string, data []byte) error {
	r.mu.Lock()
	t := r.topics[topic]
	r.mu.Unlock()
	if t == nil {
		return fmt.Errorf("publish to topic %q: it is not followed", topic)
	}
	if err := t.Publish(ctx, data, pubsub.WithValidatorData(ownMessage{})); err != nil {
		return fmt.Errorf("publish to topic %q: %w", topic, err)
	}
	return nil
}

// OnSubscription implements [Router]. The function is called for topics that
// are followed only.
func (r *plainRouter) OnSubscription(f func(p peer.ID, topic string, on bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscribed = f
}

// SeesAll implements [Router]. A plain router tells of topics that it joined.
func (r *plainRouter) SeesAll() bool { return false }

// Unmeshed implements [Router]. A plain router does not tell.
func (r *plainRouter) Unmeshed(string) []peer.ID { return nil }
