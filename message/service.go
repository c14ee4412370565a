package message

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"

	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

var log = logging.Logger("npp/message")

// times are the patience of a Service; tests have less of it.
type times struct {
	sweep    time.Duration // between two applications of the rules of retention
	idle     time.Duration // how long a stream that a peer opened stays open between messages
	frame    time.Duration // for the rest of a message once its length has come, and for a receipt to leave
	lane     time.Duration // how long an unused stream of ours is kept: less than the recipient's idle
	exchange time.Duration // for a message to leave and its receipt to come: more than the recipient's frame
	retry    time.Duration // before a message whose receipt was lost is sent again
	pacing   time.Duration // how much waiting a recipient may ask for per message
}

var defaultTimes = times{
	sweep:    time.Hour,
	idle:     time.Minute,
	frame:    30 * time.Second,
	lane:     20 * time.Second,
	exchange: time.Minute,
	retry:    100 * time.Millisecond,
	pacing:   time.Minute,
}

// ErrClosed is returned by what is called after Close.
var ErrClosed = errors.New("the message service is closed")

// Connector finds a way to a peer; *swarm.Swarm is one.
type Connector interface {
	Connect(context.Context, peer.AddrInfo) (swarm.Route, error)
}

// Config is what a Service works on.
type Config struct {
	Host   host.Host
	Swarm  Connector
	Store  *store.Store
	Router *router.Router // nil: no pubsub
	Limits Limits
	Disk   *space.Disk      // of Store; nil: it always has room
	Now    func() time.Time // nil: time.Now
}

// Service sends and receives messages. It is safe for concurrent use.
type Service struct {
	host   host.Host
	swarm  Connector
	router *router.Router
	limits Limits
	now    func() time.Time
	times  times
	box    *mailbox
	guests *guests
	lanes  *outbox
	topics topics
	intake *semaphore.Weighted // bytes that came by pubsub and are not stored yet

	// since the start
	refused atomic.Uint64 // direct messages that were refused
	lost    atomic.Uint64 // pubsub messages that came faster than they could be stored

	ctx     context.Context // done when the service closes
	cancel  context.CancelFunc
	closing sync.Once
	mu      sync.Mutex // orders begin and Close
	running sync.WaitGroup
}

// New starts a service: when it returns, messages are being received, from
// streams and from the topic of our own peer ID. The caller closes it, before
// the host and the store.
func New(c Config) (*Service, error) { return start(c, defaultTimes) }

func start(c Config, t times) (*Service, error) {
	if err := c.Limits.Check(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{
		host:   c.Host,
		swarm:  c.Swarm,
		router: c.Router,
		limits: c.Limits,
		now:    c.Now,
		times:  t,
		box:    newMailbox(c.Store, c.Limits, c.Now),
		guests: newGuests(c.Limits, c.Now),
		lanes:  newOutbox(c.Host, t.lane),
		intake: semaphore.NewWeighted(intakeBytes),
		ctx:    ctx,
		cancel: cancel,
	}
	s.box.disk = c.Disk
	if s.router != nil {
		if _, err := s.subscribe(s.host.ID().String()); err != nil {
			cancel()
			return nil, err
		}
	}
	s.host.SetStreamHandler(Protocol, s.handle)
	s.running.Add(1)
	go s.sweepAlways()
	return s, nil
}

// Close ends every stream, subscription and listener. It waits for all but the
// listeners, which may hang in what they yield to.
func (s *Service) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.cancel()
		s.mu.Unlock()
		s.host.RemoveStreamHandler(Protocol)
		s.lanes.close()
		s.running.Wait()
	})
	return nil
}

// begin counts a task that Close waits for, unless the service is closed.
func (s *Service) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.running.Add(1)
	return true
}

func (s *Service) sweepAlways() {
	defer s.running.Done()
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

// Since says where in the log a listener starts.
type Since struct {
	at  time.Time
	id  string
	all bool
}

// The places to start from.
var (
	SinceNow = Since{}          // only what arrives from now on
	SinceAll = Since{all: true} // everything that is stored
)

// SinceTime starts with what was received at t.
func SinceTime(t time.Time) Since { return Since{at: t} }

// SinceID starts after the message with that ID.
func SinceID(id string) Since { return Since{id: id} }

// ParseSince reads "all", a duration before now ("15m"), a time (RFC 3339), or
// a message ID; empty is now.
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
	return Since{}, fmt.Errorf("%.80q is no duration (15m), time (2006-01-02T15:04:05Z), message ID, or all", text)
}

// start is the number to read from.
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

// Filter chooses messages. Its zero value is all of them.
type Filter struct {
	Since Since
	From  peer.ID // only from this peer
	Topic string  // only of this topic
	// Ready, if not nil, is called by Listen once it misses nothing that
	// arrives from then on.
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

// Listen yields what is stored from f.Since on, and then what arrives, each
// message once and in the order of arrival. It ends without an error when the
// service closes, and with ctx's when ctx is done. While it runs, it is
// subscribed to f.Topic.
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
			more := s.box.more()
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

// List yields what is stored from f.Since on, oldest first.
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

// Remove removes the message with that ID, or returns [ErrNotFound].
func (s *Service) Remove(ctx context.Context, id string) error {
	n, err := s.box.find(ctx, id)
	if err != nil {
		return err
	}
	removed, err := s.box.remove(ctx, []uint64{n}, false)
	if err == nil && removed == 0 {
		err = fmt.Errorf("%w: %s", ErrNotFound, id) // it was removed meanwhile
	}
	return err
}

// RemoveAll removes the stored messages that f matches and that were received
// before the given time, and returns how many it removed. Beside an error, that
// is how many were certainly removed.
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

// Stats are figures about the store and what did not get into it.
type Stats struct {
	DirectBytes   uint64 // in use
	PubsubBytes   uint64
	Expired       uint64       // removed by the rules of retention, ever
	Refused       uint64       // direct messages refused, their senders told, since the start
	RefusedPubsub uint64       // pubsub messages that fitted no share, ever
	Dropped       router.Drops // pubsub messages that were lost on the way, since the start
	Limits        Limits
}

// Stats are the figures as of now.
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

// Limits are the limits in force.
func (s *Service) Limits() Limits { return s.limits }
