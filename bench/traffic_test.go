package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/newpieceplease/npp/test/ipfs"
)

func TestArrivalsCountsEachMessageOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v0/pubsub/sub" {
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		for _, m := range [][2]string{{"a", "1"}, {"a", "1"}, {"a", "2"}, {"b", "1"}} {
			fmt.Fprintf(w, `{"from":%q,"seqno":%q,"data":"x"}`+"\n", m[0], m[1])
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	a := newArrivals(t.Context(), &node{rpc: &ipfs.RPC{Base: server.URL + "/", Client: server.Client()}}, request{path: "pubsub/sub"})
	defer a.cancel()
	count, _, err := a.settle(t.Context(), 3)
	if err != nil || count != 3 {
		t.Errorf("%d messages arrived (%v), want 3", count, err)
	}
}

func TestSettleFailsWhenTheStreamEnds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	a := newArrivals(t.Context(), &node{rpc: &ipfs.RPC{Base: server.URL + "/", Client: server.Client()}}, request{path: "pubsub/sub"})
	defer a.cancel()
	if _, _, err := a.settle(t.Context(), 1); err == nil {
		t.Error("a stream that ended counts as quiet")
	}
}

func TestLoadMakesEveryCallAndCountsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		took, all, failed := load(100, 4, func() error {
			time.Sleep(time.Second) // of the bubble's clock
			if calls.Add(1)%10 == 0 {
				return errors.New("no")
			}
			return nil
		})
		if calls.Load() != 100 || failed != 10 {
			t.Errorf("%d calls of which %d failed, want 100 and 10", calls.Load(), failed)
		}
		if all != 25*time.Second {
			t.Errorf("100 calls of a second, four at once, took %v", all)
		}
		if len(took) != 100 || slices.ContainsFunc(took, func(d time.Duration) bool { return d != time.Second }) {
			t.Errorf("not every call took a second: %v", took)
		}
	})
}
