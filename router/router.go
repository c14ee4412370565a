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
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

var log = logging.Logger("npp/router")

const (
	// queueSize replaces gossipsub's queues of 32 (per peer outbound, awaiting
	// validation, per subscription), which a burst overruns. [Limits] bounds the
	// bytes in those that are outbound.
	queueSize = 2048

	// MaxMessageBytes is the largest payload that is published: gossipsub drops
	// an RPC of over 1 MiB without a word, and an RPC carries the message with
	// its author, topic, key and signature.
	MaxMessageBytes = 1<<20 - 4096

	// strangerRate is how many messages a second are published to a topic that
	// peers with stock queues and the stock validator listen to. kubo 0.43.1
	// lost none of 400 a second on an idle machine, and some of 300 on a busy one.
	strangerRate = 100
)

// ErrTooLarge is returned for a message of over [MaxMessageBytes].
var ErrTooLarge = errors.New("message too large for pubsub")

// Options say how a Router is set up.
type Options struct {
	Floodsub  bool                // floodsub instead of gossipsub (kubo's Pubsub.Router)
	Discovery discovery.Discovery // finds peers of a topic; nil: open connections alone
	Stock     pubsub.ValidatorEx  // the rule for topics that are not npp's
	Extra     []pubsub.Option     // the operator's settings
	// Patient tells whether a subscriber has queues like ours, so that a burst
	// need not be paced for its sake.
	Patient func(peer.ID) bool
	Limits  Limits
}

// Limits bound what is spent on peers. A field that is zero means its default.
type Limits struct {
	// PeerBytes bounds the RPCs that are queued for one peer or being written to it,
	// in bytes as they are sent, at least 2 MiB. Where they are more, the peer does not
	// read, and its stream is reset. Default: 64 MiB.
	PeerBytes int
	// AllBytes bounds that of all peers. A message that is queued for several peers
	// counts once, as they share its memory. The stream of the peer for which most is
	// queued is reset. Default: 256 MiB.
	AllBytes int
	// Topics bounds the topics that are subscribed to. Default: 7000.
	Topics int
	// TopicBytes bounds the RPC that tells a peer of them. Peers discard one of over
	// 512 KiB (pubsub.DefaultMaxControlMessageSize). Default: 480 KiB, so that there is
	// room for topics of `ipfs pubsub sub`, which count and are never refused.
	TopicBytes int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		PeerBytes:  cmp.Or(l.PeerBytes, 64<<20),
		AllBytes:   cmp.Or(l.AllBytes, 256<<20),
		Topics:     cmp.Or(l.Topics, 7000),
		TopicBytes: cmp.Or(l.TopicBytes, 480<<10),
	}
}

// An AcceptFunc tells whether a message of a topic that is ours may be
// delivered and passed on. It must be quick and safe for concurrent use.
type AcceptFunc func(author peer.ID, seqno []byte) bool

// Router is a pubsub router on a host. It is safe for concurrent use.
type Router struct {
	pubsub  *pubsub.PubSub
	self    peer.ID
	stock   pubsub.ValidatorEx
	patient func(peer.ID) bool
	pace    *rate.Limiter
	publish chan struct{} // holds a token while something is published
	topics  *topicSet
	in      *inbound
	out     *outbound
	waiting *awaiting
	tracer  tracer
	floods  bool // what is passed on goes to all subscribers

	mu         sync.RWMutex
	ours       map[string]*ourTopic
	followed   map[string]bool
	subscribed func(p peer.ID, topic string, on bool) // may be nil
}

// ourTopic counts who uses a topic through this package.
type ourTopic struct {
	users  int
	accept AcceptFunc // nil while there are only publishers
}

// New starts a router on h that runs until ctx is done.
func New(ctx context.Context, h host.Host, o Options) (*Router, error) {
	limits := o.Limits.withDefaults()
	r := &Router{
		self:     h.ID(),
		stock:    o.Stock,
		patient:  o.Patient,
		pace:     rate.NewLimiter(strangerRate, 1),
		publish:  make(chan struct{}, 1),
		ours:     make(map[string]*ourTopic),
		followed: make(map[string]bool),
		topics:   newTopicSet(limits),
		floods:   o.Floodsub,
	}
	started := make(chan struct{})
	r.in = newInbound(r.topics.has)
	r.out = newOutbound(h, r.in, limits, func(n int) { r.tracer.outbound.Add(uint64(n)) })
	r.out.serves = func(p peer.ID) bool {
		select {
		case <-started:
			return slices.Contains(r.pubsub.ListPeers(""), p) || ctx.Err() != nil
		case <-ctx.Done():
			return true
		}
	}
	r.waiting = newAwaiting(limits, r.topics.isJoined)
	r.tracer = tracer{mesh: make(map[string]map[peer.ID]bool), topics: r.topics, out: r.out, waiting: r.waiting}
	opts := append([]pubsub.Option{
		pubsub.WithPeerOutboundQueueSize(queueSize),
		pubsub.WithValidateQueueSize(queueSize),
		pubsub.WithRawTracer(&r.tracer),
		pubsub.WithAppSpecificRpcInspector(r.inspect),
		// one worker, inline: side by side, messages of one author overtake each other
		pubsub.WithValidateWorkers(1),
		pubsub.WithDefaultValidator(pubsub.ValidatorEx(r.validate), pubsub.WithValidatorInline(true)),
	}, o.Extra...)
	if o.Discovery != nil {
		opts = append(opts, pubsub.WithDiscovery(newSparing(o.Discovery, r.follows)))
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

// PubSub is the router as kubo's own commands use it.
func (r *Router) PubSub() *pubsub.PubSub { return r.pubsub }

// validate is the rule for a message of any topic.
func (r *Router) validate(ctx context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	r.mu.RLock()
	t, ours := r.ours[m.GetTopic()]
	var accept AcceptFunc
	if ours {
		accept = t.accept
	}
	r.mu.RUnlock()
	switch {
	case !ours && r.stock != nil:
		// kubo's rule reads eight bytes and panics on fewer
		if n := len(m.GetSeqno()); n != 0 && n != 8 {
			return pubsub.ValidationReject
		}
		return r.stock(ctx, from, m)
	case accept == nil || m.GetFrom() == r.self:
		return pubsub.ValidationAccept
	case !accept(m.GetFrom(), m.GetSeqno()):
		return pubsub.ValidationIgnore
	}
	return pubsub.ValidationAccept
}

// use makes topic ours until the returned function is called.
func (r *Router) use(topic string, accept AcceptFunc) (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.ours[topic]
	if t == nil {
		t = &ourTopic{}
		r.ours[topic] = t
	}
	t.users++
	if accept != nil {
		t.accept = accept
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(r.ours, topic)
		}
	}
}

// open is use for a topic that is subscribed to.
func (r *Router) open(topic string, accept AcceptFunc) (release func(), err error) {
	if err := r.topics.open(topic); err != nil {
		return nil, err
	}
	unuse := r.use(topic, accept)
	return sync.OnceFunc(func() {
		unuse()
		r.topics.close(topic)
	}), nil
}

// Subscription delivers the messages of a topic.
type Subscription struct {
	sub     *pubsub.Subscription
	release func()
}

// Subscribe subscribes to topic and makes it ours while the subscription lasts.
// All subscriptions to one topic share the AcceptFunc that came last. Where no more
// topics can be opened, the error is a [TopicLimitError].
func (r *Router) Subscribe(topic string, accept AcceptFunc) (*Subscription, error) {
	release, err := r.open(topic, accept)
	if err != nil {
		return nil, fmt.Errorf("subscribe to topic %q: %w", topic, err)
	}
	// Join allows one handle per topic, which `ipfs pubsub` would then be refused
	sub, err := r.pubsub.Subscribe(topic, pubsub.WithBufferSize(queueSize)) //nolint:staticcheck
	if err != nil {
		release()
		return nil, fmt.Errorf("subscribe to topic %q: %w", topic, err)
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

// TakeFunc takes a message of another peer, and tells whether it is to be passed
// on to others. It may wait; the context is done when the router stops.
type TakeFunc = func(context.Context, *pubsub.Message) bool

// Follow subscribes to topic until stop is called. Each message of another peer
// is given to take, in a goroutine of its own, 1024 at a time; messages beyond that
// are lost. Where no more topics can be opened, the error is a [TopicLimitError].
func (r *Router) Follow(topic string, take TakeFunc) (stop func(), err error) {
	release, err := r.open(topic, nil)
	if err != nil {
		return nil, fmt.Errorf("follow topic %q: %w", topic, err)
	}
	r.setFollowed(topic, true)
	defer func() {
		if err != nil {
			r.setFollowed(topic, false)
			release()
		}
	}()
	err = r.pubsub.RegisterTopicValidator(topic, func(ctx context.Context, _ peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if m.ReceivedFrom == r.self || take(ctx, m) {
			return pubsub.ValidationAccept
		}
		return pubsub.ValidationIgnore
	})
	if err != nil {
		return nil, fmt.Errorf("follow topic %q: %w", topic, err)
	}
	sub, err := r.pubsub.Subscribe(topic) //nolint:staticcheck // as in Subscribe
	if err != nil {
		r.pubsub.UnregisterTopicValidator(topic)
		return nil, fmt.Errorf("follow topic %q: %w", topic, err)
	}
	go func() { // what was taken is done with
		for {
			if _, err := sub.Next(context.Background()); err != nil {
				return
			}
		}
	}()
	return func() {
		sub.Cancel()
		r.pubsub.UnregisterTopicValidator(topic)
		r.setFollowed(topic, false)
		release()
	}, nil
}

func (r *Router) setFollowed(topic string, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on {
		r.followed[topic] = true
	} else {
		delete(r.followed, topic)
	}
}

func (r *Router) follows(topic string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.followed[topic]
}

// OnSubscription has f called when a connected peer subscribes to a topic or ends
// that, also when it connects. f must be quick: the router waits for it. A peer
// that disconnects is not told of.
func (r *Router) OnSubscription(f func(p peer.ID, topic string, on bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscribed = f
}

func (r *Router) inspect(from peer.ID, rpc *pubsub.RPC) error {
	r.mu.RLock()
	f := r.subscribed
	r.mu.RUnlock()
	if f != nil {
		for _, s := range rpc.GetSubscriptions() {
			f(from, s.GetTopicid(), s.GetSubscribe())
		}
	}
	rpc.Subscriptions = r.in.told(from, rpc.GetSubscriptions())
	var dropped int
	rpc.Publish, dropped = r.waiting.admit(from, rpc.GetPublish())
	r.tracer.dropValidation(dropped)
	return nil
}

// Publish hands data to the peers that are subscribed to topic now. Publishing is
// serialised, since concurrent publishes of one author overtake each other, and paced
// where a subscriber is not patient. A nil error does not mean that anybody got the
// message.
func (r *Router) Publish(ctx context.Context, topic string, data []byte) error {
	defer r.use(topic, nil)()
	for _, p := range r.pubsub.ListPeers(topic) {
		if r.patient == nil || !r.patient(p) {
			if err := r.pace.Wait(ctx); err != nil {
				return fmt.Errorf("publish to topic %q: %w", topic, err)
			}
			break
		}
	}
	return r.Announce(ctx, topic, data)
}

// Announce is Publish without pacing, for messages that may be lost because they are
// published again at another time.
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
	// as in Subscribe
	if err := r.pubsub.Publish(topic, data); err != nil { //nolint:staticcheck
		return fmt.Errorf("publish to topic %q: %w", topic, err)
	}
	return nil
}

// GetTopics are the topics that this peer is subscribed to.
func (r *Router) GetTopics() []string { return r.pubsub.GetTopics() }

// ListPeers are the connected peers that are subscribed to topic.
func (r *Router) ListPeers(topic string) []peer.ID { return r.pubsub.ListPeers(topic) }

// Unmeshed returns the connected subscribers to topic to which messages of others are
// not passed on now: gossipsub takes a moment until it does so for a new peer, and
// passes them on to some of many peers alone.
func (r *Router) Unmeshed(topic string) []peer.ID {
	if r.floods {
		return nil
	}
	return slices.DeleteFunc(r.pubsub.ListPeers(topic), func(p peer.ID) bool { return r.tracer.meshed(topic, p) })
}

// Drops returns the counts of what was lost until now.
func (r *Router) Drops() Drops { return r.tracer.counts() }
