package message

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"

	"github.com/newpieceplease/npp/internal/task"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

var log = logging.Logger("npp/message")

// times are the timeouts of a Service. Tests shorten them.
type times struct {
	sweep      time.Duration // between two applications of the retention rules
	idle       time.Duration // how long an inbound stream stays open between messages
	frame      time.Duration // for the rest of a message after its length, and for writing a receipt
	streamIdle time.Duration // how long an unused outbound stream stays open; less than the recipient's idle
	exchange   time.Duration // for sending a message and reading its receipt; more than the recipient's frame
	retry      time.Duration // before a message whose receipt was lost is sent again
	pacing     time.Duration // the total delay that a recipient may ask for per message
}

var defaultTimes = times{
	sweep:      time.Hour,
	idle:       time.Minute,
	frame:      30 * time.Second,
	streamIdle: 20 * time.Second,
	exchange:   time.Minute,
	retry:      100 * time.Millisecond,
	pacing:     time.Minute,
}

// ErrClosed is returned by methods that are called after Close.
var ErrClosed = errors.New("the message service is closed")

// Connector connects to a peer; *swarm.Swarm is one.
type Connector interface {
	Connect(context.Context, peer.AddrInfo) (swarm.Route, error)
}

// Config configures a Service.
type Config struct {
	Host   host.Host
	Swarm  Connector
	Store  *store.Store
	Router *router.Router // nil: no pubsub
	Limits Limits
	Disk   *space.Disk      // the disk of Store; nil: it always has space
	Now    func() time.Time // nil: time.Now
}

// Service sends and receives messages. It is safe for concurrent use.
type Service struct {
	host         host.Host
	swarm        Connector
	router       *router.Router
	limits       Limits
	now          func() time.Time
	times        times
	box          *mailbox
	inbound      inbound
	streams      *streamPool
	topics       topics
	pubsubBudget *semaphore.Weighted // bytes of pubsub messages that are not stored yet

	// Counters since the start.
	refused atomic.Uint64 // direct messages that were refused
	lost    atomic.Uint64 // pubsub messages that arrived faster than they could be stored

	tasks *task.Group
	ctx   context.Context // of tasks: done when the service closes
}

// New starts a service. When it returns, the service receives messages from
// streams and from the topic of the host's peer ID. The caller closes the
// service before the host and the store.
func New(c Config) (*Service, error) { return start(c, defaultTimes) }

func start(c Config, t times) (*Service, error) {
	if err := c.Limits.Check(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	tasks := task.NewGroup()
	s := &Service{
		host:         c.Host,
		swarm:        c.Swarm,
		router:       c.Router,
		limits:       c.Limits,
		now:          c.Now,
		times:        t,
		box:          newMailbox(c.Store, c.Limits, c.Now),
		inbound:      newInbound(c.Limits),
		streams:      newStreamPool(c.Host, t.streamIdle),
		pubsubBudget: semaphore.NewWeighted(pubsubBudgetBytes),
		tasks:        tasks,
		ctx:          tasks.Context(),
	}
	s.box.disk = c.Disk
	if s.router != nil {
		if _, err := s.subscribe(s.host.ID().String()); err != nil {
			tasks.Close()
			return nil, err
		}
	}
	s.host.SetStreamHandler(Protocol, s.handle)
	tasks.Go(s.sweepAlways)
	return s, nil
}

// Close ends all streams, subscriptions and listeners. It does not wait for
// listeners, which may block in their loop bodies.
func (s *Service) Close() error {
	s.tasks.Stop()
	s.host.RemoveStreamHandler(Protocol)
	s.streams.close()
	s.tasks.Wait()
	return nil
}

func (s *Service) sweepAlways() {
	tick := time.NewTicker(s.times.sweep)
	defer tick.Stop()
	for {
		if err := s.box.sweep(s.ctx); err != nil && s.ctx.Err() == nil {
			log.Errorw("removing old messages failed", "err", err)
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// Since is a position in the log at which a listener starts.
type Since struct {
	at  time.Time
	id  string
	all bool
}

// Common positions.
var (
	SinceNow = Since{}          // only new messages
	SinceAll = Since{all: true} // all stored messages
)

// SinceTime starts with the messages that were received at t or later.
func SinceTime(t time.Time) Since { return Since{at: t} }

// SinceID starts after the message with that ID.
func SinceID(id string) Since { return Since{id: id} }

// ParseSince parses "all", a duration before now ("15m"), a time (RFC 3339) or
// a message ID. The empty text means now.
func ParseSince(text string, now time.Time) (Since, error) {
	switch text {
	case "":
		return SinceNow, nil
	case "all":
		return SinceAll, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return SinceTime(now.Add(-d)), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return SinceTime(t), nil
	}
	if checkID(text) == nil {
		return SinceID(text), nil
	}
	return Since{}, fmt.Errorf("%.80q is not a duration (15m), time (2006-01-02T15:04:05Z), message ID, or all", text)
}

// start returns the number to read from.
func (s *Service) start(ctx context.Context, since Since) (uint64, error) {
	switch {
	case since.all:
		return 0, nil
	case since.id != "":
		n, err := s.box.find(ctx, since.id)
		return n + 1, err
	case !since.at.IsZero():
		return s.box.firstSince(ctx, since.at)
	}
	st, err := s.box.state(ctx)
	return st.GetNext(), err
}

// Filter selects messages. The zero Filter selects all.
type Filter struct {
	Since Since
	From  peer.ID // only from this peer
	Topic string  // only of this topic
	// Ready, if not nil, is called by Listen as soon as it cannot miss a new
	// message.
	Ready func()
}

func (f Filter) match(m *Message) bool {
	if f.From != "" && m.From != f.From {
		return false
	}
	if f.Topic == "" {
		return true
	}
	for _, t := range m.Topics {
		if t == f.Topic {
			return true
		}
	}
	return false
}

// Listen yields the stored messages from f.Since on, and then new ones, each
// message once and in the order of arrival. It ends without an error when the
// service closes, and with ctx's error when ctx is done. While it runs, the
// service is subscribed to f.Topic.
func (s *Service) Listen(ctx context.Context, f Filter) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		if s.ctx.Err() != nil {
			yield(nil, ErrClosed)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()

		next, err := s.start(ctx, f.Since)
		switch {
		case s.ctx.Err() != nil:
			return
		case err != nil:
			yield(nil, err)
			return
		}
		if f.Topic != "" && f.Topic != s.host.ID().String() {
			unsubscribe, err := s.subscribe(f.Topic)
			if err != nil {
				yield(nil, err)
				return
			}
			defer unsubscribe()
		}
		if f.Ready != nil {
			f.Ready()
		}
		for {
			more := s.box.arrivals.Next()
			for m, err := range s.box.read(ctx, next) {
				switch {
				case ctx.Err() != nil:
				case err != nil:
					yield(nil, err)
					return
				default:
					next = m.Number + 1
					if f.match(m) && !yield(m, nil) {
						return
					}
				}
			}
			select {
			case <-more:
			case <-ctx.Done():
				if s.ctx.Err() == nil {
					yield(nil, ctx.Err())
				}
				return
			}
		}
	}
}

// List yields the stored messages from f.Since on, oldest first.
func (s *Service) List(ctx context.Context, f Filter) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		from, err := s.start(ctx, f.Since)
		if err != nil {
			yield(nil, err)
			return
		}
		for m, err := range s.box.read(ctx, from) {
			if (err != nil || f.match(m)) && !yield(m, err) {
				return
			}
		}
	}
}

// Remove deletes the message with an ID, or returns [ErrNotFound].
func (s *Service) Remove(ctx context.Context, id string) error {
	n, err := s.box.find(ctx, id)
	if err != nil {
		return err
	}
	removed, err := s.box.remove(ctx, []uint64{n}, false)
	if err == nil && removed == 0 {
		err = fmt.Errorf("%w: %s", ErrNotFound, id) // removed concurrently
	}
	return err
}

// RemoveAll deletes the stored messages that f selects and that were received
// before the given time, and returns their number. On an error, at least that
// many were deleted.
func (s *Service) RemoveAll(ctx context.Context, f Filter, before time.Time) (int, error) {
	total := 0
	var batch []uint64
	flush := func() error {
		n, err := s.box.remove(ctx, batch, false)
		total += n
		batch = batch[:0]
		return err
	}
	for m, err := range s.List(ctx, f) {
		if err != nil {
			return total, err
		}
		if !m.Received.Before(before) {
			break
		}
		if batch = append(batch, m.Number); len(batch) == sweepBatch {
			if err := flush(); err != nil {
				return total, err
			}
		}
	}
	return total, flush()
}

// Stats are the figures of a Service.
type Stats struct {
	DirectBytes   uint64 // in use
	PubsubBytes   uint64
	Expired       uint64       // deleted by the retention rules, ever
	Refused       uint64       // direct messages refused since the start; their senders received the reason
	RefusedPubsub uint64       // pubsub messages that exceeded a quota, ever
	Dropped       router.Drops // pubsub messages that were lost before they were stored, since the start
	Limits        Limits
}

// Stats returns the current figures.
func (s *Service) Stats(ctx context.Context) (Stats, error) {
	st, err := s.box.state(ctx)
	if err != nil {
		return Stats{}, err
	}
	out := Stats{
		DirectBytes:   st.GetDirectBytes(),
		PubsubBytes:   st.GetPubsubBytes(),
		Expired:       st.GetExpired(),
		Refused:       s.refused.Load(),
		RefusedPubsub: st.GetRefusedPubsub(),
		Limits:        s.limits,
	}
	if s.router != nil {
		out.Dropped = s.router.Drops()
		out.Dropped.Subscriber += s.lost.Load()
	}
	return out, nil
}

// Limits returns the limits in effect.
func (s *Service) Limits() Limits { return s.limits }
