package card

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func TestJS(t *testing.T) {
	for i := 0; i < 6; i++ {
		cmd := exec.Command("/work/main/test/interop/node_modules/.bin/node", "/work/main/test/interop/zzcard.mjs")
		if _, err := os.Stat(cmd.Path); err != nil {
			cmd = exec.Command("node", "/tmp/jscard/card.mjs")
		}
		cmd.Args[1] = "/tmp/jscard/card.mjs"
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(out)
		var hello struct{ ID, Addr string }
		line, _ := r.ReadBytes('\n')
		json.Unmarshal(line, &hello)
		a := newDaemon(t, newHost(t), "alice")
		a.book.own.User = address
		n := a.counting()
		info, err := peer.AddrInfoFromP2pAddr(ma.StringCast(hello.Addr))
		if err != nil {
			t.Fatal(err, string(line))
		}
		begin := time.Now()
		if i%2 == 0 {
			if err := a.host.Connect(t.Context(), *info); err != nil {
				t.Fatal(err)
			}
		} else {
			in.Write([]byte("dial " + a.host.Addrs()[0].String() + "/p2p/" + a.host.ID().String() + "\n"))
		}
		eventually(t, "card", func() bool { return len(a.Cards()) == 1 })
		t.Logf("smaller %v, card %+v after %s", a.host.ID() < info.ID, a.Cards()[info.ID], time.Since(begin))
		time.Sleep(300 * time.Millisecond)
		in.Write([]byte("ask " + a.host.ID().String() + "\n"))
		eventually(t, "asked", func() bool { return n.Load() >= 1 })
		time.Sleep(500 * time.Millisecond)
		a.Exchanger.mu.Lock()
		t.Logf("shown %d, streams %d", a.peers[info.ID].shown, n.Load())
		a.peers[info.ID].shown = 0
		a.Exchanger.mu.Unlock()
		in.Write([]byte("ask " + a.host.ID().String() + "\n"))
		time.Sleep(500 * time.Millisecond)
		a.Exchanger.mu.Lock()
		t.Logf("shown %d, streams %d", a.peers[info.ID].shown, n.Load())
		a.Exchanger.mu.Unlock()
		in.Close()
		go func() {
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				t.Log(l)
			}
		}()
		cmd.Wait()
		time.Sleep(100 * time.Millisecond)
	}
}
