package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	logging "github.com/ipfs/go-log/v2"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

var log = logging.Logger("npp/router")

const (
	// queueSize replaces gossipsub's default of 32 for the outbound queue of a
	// peer, the validation queue and the queue of a subscription, which a burst
	// exceeds. [Limits] bounds the bytes in outbound queues.
	queueSize = 2048

	// MaxMessageBytes is the largest payload that can be published. Gossipsub
	// drops an RPC above 1 MiB without an error, and the RPC also contains the
	// author, topic, key and signature of the message.
	MaxMessageBytes = 1<<20 - 4096

	// stockRate is how many messages a second are published to a topic that
	// peers with stock queues and the stock validator listen to. kubo 0.43.1
	// lost none of 400 a second on an idle machine, and some of 300 on a busy
	// one.
	stockRate = 100
)

// ErrTooLarge is returned for a message above [MaxMessageBytes].
var ErrTooLarge = errors.New("message too large for pubsub")

// Options configures a Router.
type Options struct {
	Floodsub         bool                // floodsub instead of gossipsub (kubo's Pubsub.Router)
	Discovery        discovery.Discovery // finds peers of topics that are not only followed; nil: only connected peers
	DefaultValidator pubsub.ValidatorEx  // for topics that are not used through this package
	Extra            []pubsub.Option     // the operator's settings
	// SupportsBursts reports whether a subscriber has queues as large as this
	// router's, so that a burst need not be paced.
	SupportsBursts func(peer.ID) bool
	// TellFollowed tells all peers of the followed topics, not only those that
	// are subscribed to them.
	TellFollowed bool
	Limits       Limits
}

// Limits bounds what peers can make the router hold. Zero means the default.
type Limits struct {
	// PeerBytes bounds the RPCs that are queued for one peer or being written
	// to it, in bytes as sent; at least 2 MiB. A peer that exceeds it does not
	// read, and its stream is reset. Default: 64 MiB.
	PeerBytes int
	// AllBytes bounds the same for all peers together. A message in several
	// queues counts once, because they share its memory. Above the bound, the
	// stream of the peer with the most queued bytes is reset. Default: 256 MiB.
	AllBytes int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		PeerBytes: cmp.Or(l.PeerBytes, 64<<20),
		AllBytes:  cmp.Or(l.AllBytes, 256<<20),
	}
}

// AcceptFunc reports whether a message of a topic that is used through this
// package may be delivered and forwarded. It must be quick and safe for
// concurrent use.
type AcceptFunc func(author peer.ID, seqno []byte) bool

// Router is a pubsub router on a host. It is safe for concurrent use.
type Router struct {
	pubsub           *pubsub.PubSub
	self             peer.ID
	defaultValidator pubsub.ValidatorEx
	supportsBursts   func(peer.ID) bool
	pace             *rate.Limiter
	publish          chan struct{} // holds a token while a message is being published
	topics           *topicSet
	in               *inbound
	out              *outbound
	validating       *validationBudget
	tracer           tracer
	floodsub         bool // messages are forwarded to all subscribers

	mu   sync.RWMutex
	used map[string]*usedTopic

	telling    sync.Mutex                             // held while subscribed is told, so that it is told in order
	subscribed func(p peer.ID, topic string, on bool) // may be nil
}

// usedTopic counts who uses a topic through this package.
type usedTopic struct {
	users  int
	accept AcceptFunc // nil while there are only publishers
}

// New starts a router on h that runs until ctx is done.
func New(ctx context.Context, h host.Host, o Options) (*Router, error) {
	limits := o.Limits.withDefaults()
	r := &Router{
		self:             h.ID(),
		defaultValidator: o.DefaultValidator,
		supportsBursts:   o.SupportsBursts,
		pace:             rate.NewLimiter(stockRate, 1),
		publish:          make(chan struct{}, 1),
		used:             make(map[string]*usedTopic),
		topics:           newTopicSet(o.TellFollowed),
		floodsub:         o.Floodsub,
	}
	started := make(chan struct{})
	r.in = newInbound(r.topics)
	r.out = newOutbound(h, r.in, limits, func(n int) { r.tracer.outbound.Add(uint64(n)) })
	r.out.serves = func(p peer.ID) bool {
		select {
		case <-started:
			return slices.Contains(r.pubsub.ListPeers(""), p) || ctx.Err() != nil
		case <-ctx.Done():
			return true
		}
	}
	r.validating = newValidationBudget(limits, r.topics.isJoined)
	r.tracer = tracer{mesh: make(map[string]map[peer.ID]bool), topics: r.topics, out: r.out, validating: r.validating}
	opts := append([]pubsub.Option{
		pubsub.WithPeerOutboundQueueSize(queueSize),
		pubsub.WithValidateQueueSize(queueSize),
		pubsub.WithRawTracer(&r.tracer),
		pubsub.WithAppSpecificRpcInspector(r.inspect),
		// One inline worker: with several, messages of one author overtake each
		// other.
		pubsub.WithValidateWorkers(1),
		pubsub.WithDefaultValidator(pubsub.ValidatorEx(r.validate), pubsub.WithValidatorInline(true)),
	}, o.Extra...)
	if o.Discovery != nil {
		opts = append(opts, pubsub.WithDiscovery(topicDiscovery{o.Discovery, r.topics.isOnlyFollowed}))
	}
	start := pubsub.NewGossipSub
	if o.Floodsub {
		start = pubsub.NewFloodSub
	} else {
		opts = append(opts, pubsub.WithFloodPublish(true))
	}
	ps, err := start(ctx, r.out, opts...)
	if err != nil {
		return nil, fmt.Errorf("start pubsub router: %w", err)
	}
	r.pubsub = ps
	close(started)
	return r, nil
}

// PubSub returns the underlying router, for kubo's own commands.
func (r *Router) PubSub() *pubsub.PubSub { return r.pubsub }

// validate validates a message of any topic.
func (r *Router) validate(ctx context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	r.mu.RLock()
	t, ours := r.used[m.GetTopic()]
	var accept AcceptFunc
	if ours {
		accept = t.accept
	}
	r.mu.RUnlock()
	switch {
	case !ours && r.defaultValidator != nil:
		// Kubo's validator reads eight bytes and panics on fewer.
		if n := len(m.GetSeqno()); n != 0 && n != 8 {
			return pubsub.ValidationReject
		}
		return r.defaultValidator(ctx, from, m)
	case accept == nil || m.GetFrom() == r.self:
		return pubsub.ValidationAccept
	case !accept(m.GetFrom(), m.GetSeqno()):
		return pubsub.ValidationIgnore
	}
	return pubsub.ValidationAccept
}

// use marks a topic as used through this package until release is called.
func (r *Router) use(topic string, accept AcceptFunc) (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.used[topic]
	if t == nil {
		t = &usedTopic{}
		r.used[topic] = t
	}
	t.users++
	if accept != nil {
		t.accept = accept
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(r.used, topic)
		}
	}
}

// Subscription delivers the messages of a topic.
type Subscription struct {
	sub     *pubsub.Subscription
	release func()
}

// Subscribe subscribes to topic. The rules of this package apply to the topic
// while the subscription lasts. All subscriptions to one topic share the latest
// AcceptFunc. All peers are told of the subscription.
func (r *Router) Subscribe(topic string, accept AcceptFunc) (*Subscription, error) {
	r.topics.subscribe(topic)
	unuse := r.use(topic, accept)
	release := sync.OnceFunc(func() {
		unuse()
		r.topics.unsubscribe(topic)
	})
	// Join would allow only one handle per topic, and `ipfs pubsub` would fail.
	sub, err := r.pubsub.Subscribe(topic, pubsub.WithBufferSize(queueSize)) //nolint:staticcheck
	if err != nil {
		release()
		return nil, fmt.Errorf("subscribe to topic %q: %w", topic, err)
	}
	if r.topics.isFollowed(topic) {
		r.out.tellAll(topic)
	}
	return &Subscription{sub: sub, release: release}, nil
}

// Next waits for the next message.
func (s *Subscription) Next(ctx context.Context) (*pubsub.Message, error) { return s.sub.Next(ctx) }

// Cancel ends the subscription.
func (s *Subscription) Cancel() {
	s.sub.Cancel()
	s.release()
}

// ForwardFunc handles a message of another peer and reports whether to forward
// it. It may block; its context is done when the router stops.
type ForwardFunc = func(context.Context, *pubsub.Message) bool

// Follow subscribes to topic until stop is called. It calls take for each
// message of another peer in its own goroutine, 1024 at a time; further
// messages are lost. Only peers that are subscribed to topic themselves are
// told of the subscription.
func (r *Router) Follow(topic string, take ForwardFunc) (stop func(), err error) {
	r.topics.follow(topic)
	unuse := r.use(topic, nil)
	release := sync.OnceFunc(func() {
		unuse()
		r.topics.unfollow(topic)
	})
	err = r.pubsub.RegisterTopicValidator(topic, func(ctx context.Context, _ peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if m.ReceivedFrom == r.self || take(ctx, m) {
			return pubsub.ValidationAccept
		}
		return pubsub.ValidationIgnore
	})
	if err != nil {
		release()
		return nil, fmt.Errorf("follow topic %q: %w", topic, err)
	}
	// Pubsub keeps a topic for ever unless its handle is closed. There is none
	// if `ipfs pubsub` has used the topic.
	handle, _ := r.pubsub.Join(topic)
	sub, err := r.pubsub.Subscribe(topic, pubsub.WithBufferSize(0), pubsub.WithMessageFilter(none)) //nolint:staticcheck // as in Subscribe
	if err != nil {
		r.pubsub.UnregisterTopicValidator(topic)
		release()
		return nil, fmt.Errorf("follow topic %q: %w", topic, err)
	}
	return func() {
		sub.Cancel()
		if handle != nil {
			handle.Close() // fails while `ipfs pubsub` uses the topic
		}
		r.pubsub.UnregisterTopicValidator(topic)
		release()
	}, nil
}

// none drops the messages of a followed topic, which its validator has handled.
func none(*pubsub.Message) bool { return false }

// OnSubscription registers f, which is called for each subscription that a
// connected peer has, and when one subscribes to a topic or unsubscribes from
// it, also when it connects. It is not called when a peer disconnects, nor for a
// subscription that is ignored. f must be quick, because the router waits for
// it.
func (r *Router) OnSubscription(f func(p peer.ID, topic string, on bool)) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.subscribed = f
	if f == nil {
		return
	}
	for p, topics := range r.in.subscriptions() {
		for _, topic := range topics {
			f(p, topic, true)
		}
	}
}

// SeesAll reports that the function of [Router.OnSubscription] is called for all
// topics.
func (*Router) SeesAll() bool { return true }

func (r *Router) inspect(from peer.ID, rpc *pubsub.RPC) error {
	rpc.Subscriptions = r.in.accepted(from, rpc.GetSubscriptions())
	r.tell(from, rpc.GetSubscriptions())
	r.out.subscribed(from, rpc.GetSubscriptions())
	var dropped int
	rpc.Publish, dropped = r.validating.admit(from, rpc.GetPublish())
	r.tracer.dropValidation(dropped)
	return nil
}

// tell calls the function of OnSubscription.
func (r *Router) tell(from peer.ID, subs []*pb.RPC_SubOpts) {
	r.telling.Lock()
	defer r.telling.Unlock()
	if r.subscribed == nil {
		return
	}
	for _, s := range subs {
		r.subscribed(from, s.GetTopicid(), s.GetSubscribe())
	}
}

// Publish sends data to the peers that are subscribed to topic. Messages are
// published one after the other, because concurrent ones of one author overtake
// each other, and at a bounded rate if a subscriber has stock queues. A nil
// error does not mean that any peer received the message.
func (r *Router) Publish(ctx context.Context, topic string, data []byte) error {
	defer r.use(topic, nil)()
	for _, p := range r.pubsub.ListPeers(topic) {
		if r.supportsBursts == nil || !r.supportsBursts(p) {
			if err := r.pace.Wait(ctx); err != nil {
				return fmt.Errorf("publish to topic %q: %w", topic, err)
			}
			break
		}
	}
	return r.Announce(ctx, topic, data)
}

// Announce is Publish without a bounded rate, for messages that may be lost
// because they are published again later.
func (r *Router) Announce(ctx context.Context, topic string, data []byte) error {
	if len(data) > MaxMessageBytes {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(data), MaxMessageBytes)
	}
	defer r.use(topic, nil)()
	select {
	case r.publish <- struct{}{}:
		defer func() { <-r.publish }()
	case <-ctx.Done():
		return fmt.Errorf("publish to topic %q: %w", topic, ctx.Err())
	}
	// See Subscribe about Join.
	if err := r.pubsub.Publish(topic, data); err != nil { //nolint:staticcheck
		return fmt.Errorf("publish to topic %q: %w", topic, err)
	}
	return nil
}

// GetTopics returns the topics that this peer is subscribed to.
func (r *Router) GetTopics() []string { return r.pubsub.GetTopics() }

// SharedTopics returns the topics to which both this peer and the connected peer
// p are subscribed, sorted. It takes time in proportion to the topics of p.
func (r *Router) SharedTopics(p peer.ID) []string { return r.in.shared(p) }

// ListPeers returns the connected peers that are subscribed to topic.
func (r *Router) ListPeers(topic string) []peer.ID { return r.pubsub.ListPeers(topic) }

// Unmeshed returns the connected subscribers of topic to which messages of
// other peers are not forwarded at present. Gossipsub adds a new peer to the
// mesh after a moment, and only some of many peers.
func (r *Router) Unmeshed(topic string) []peer.ID {
	if r.floodsub {
		return nil
	}
	return slices.DeleteFunc(r.pubsub.ListPeers(topic), func(p peer.ID) bool { return r.tracer.meshed(topic, p) })
}

// Drops returns the losses since the start.
func (r *Router) Drops() Drops { return r.tracer.counts() }
