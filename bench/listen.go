package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/newpieceplease/npp/message"
)

// benchListen measures how soon a replay begins.
func benchListen(ctx context.Context, b *bench) (*section, error) {
	n, err := newNode(ctx, b, b.npp, nil)
	if err != nil {
		return nil, err
	}
	count := b.pick(100_000, 20_000)
	seeded, err := seed(ctx, b, n, count)
	if err != nil {
		return nil, err
	}
	if err := n.start(ctx); err != nil {
		return nil, err
	}
	defer n.stop()

	starts := []struct{ name, since string }{
		{"the first", "all"},
		{"a message ID in the middle", seeded.middle},
		{"a time in the middle", seeded.received.Format(time.RFC3339Nano)},
		{"the message before the last", seeded.last},
	}
	rounds := b.pick(100, 30)
	took := make([][]time.Duration, len(starts))
	for range rounds {
		for i, start := range starts {
			d, err := n.firstMessage(ctx, url.Values{"since": {start.since}})
			if err != nil {
				return nil, fmt.Errorf("listen --since %s: %w", start.since, err)
			}
			took[i] = append(took[i], d)
		}
	}
	s := &section{
		title: fmt.Sprintf("`listen --since` with %d stored messages", count),
		how: fmt.Sprintf("`message.Service` filled the store of one daemon before it started. By RPC, the time is from the request to the first message on the stream; %d requests of each kind in turns.",
			rounds),
	}
	s.row("since", "p50", "p90", "ratio to the first")
	for i, start := range starts {
		s.row(start.name, ms(median(took[i])), ms(percentile(took[i], 90)), ratio(ratios(took[i], took[0])))
	}
	first, middle := median(took[0]), median(took[1])
	// two calls with the same work may differ by a millisecond
	s.verdict(middle <= first+time.Millisecond, "a page from the middle costs as much as the first; it takes %s, the first %s.", ms(middle), ms(first))
	return s, nil
}

// seeded holds places in a seeded store from which a replay starts.
type seeded struct {
	middle, last string    // IDs
	received     time.Time // time of the message in the middle
}

// seed fills the repo's message store. No daemon may run on the repo.
func seed(ctx context.Context, b *bench, n *node, count int) (_ seeded, err error) {
	limits := message.DefaultLimits()
	limits.MaxPerSecond, limits.PeerBytes = 1e6, limits.StoreBytes
	path, err := os.MkdirTemp(b.Dir, "datastore-")
	if err != nil {
		return seeded{}, err
	}
	from, err := newEnd(ctx, path, false, limits)
	if err != nil {
		return seeded{}, err
	}
	defer from.stop()
	// a default repo mounts leveldb at the root of its datastore
	to, err := newEnd(ctx, filepath.Join(n.Repo, "datastore"), false, limits)
	if err != nil {
		return seeded{}, err
	}
	defer to.stop()

	data := payload()
	var once sync.Once
	_, _, failed := load(count, atOnce, func() error {
		_, sendErr := from.deliver(ctx, to, data)
		if sendErr != nil {
			once.Do(func() { err = sendErr })
		}
		return sendErr
	})
	if failed > 0 {
		return seeded{}, fmt.Errorf("%d of %d messages were not stored: %w", failed, count, err)
	}
	var s seeded
	i := 0
	for m, err := range to.service.List(ctx, message.Filter{Since: message.SinceAll}) {
		if err != nil {
			return s, err
		}
		switch i++; i {
		case count / 2:
			s.middle, s.received = m.ID, m.Received
		case count - 1:
			s.last = m.ID
		}
	}
	if i != count {
		return s, fmt.Errorf("%d messages are stored, want %d", i, count)
	}
	return s, nil
}

// firstMessage listens until a message arrives and returns the duration.
func (n *node) firstMessage(ctx context.Context, query url.Values) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	resp, err := n.rpc.Stream(ctx, "npp/listen", query, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var m struct{ ID string }
	if err := json.NewDecoder(bufio.NewReader(resp.Body)).Decode(&m); err != nil {
		return 0, err
	}
	if m.ID == "" {
		return 0, errors.New("the first line is not a message")
	}
	return time.Since(began), nil
}
