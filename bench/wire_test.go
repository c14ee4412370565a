package main

import (
	"io"
	"net"
	"strings"
	"testing"
)

const wireTestPeer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

func TestWireCountsWhatCrossesIt(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // echoes the bytes that it reads, twice
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := make([]byte, 3)
		for {
			if _, err := io.ReadFull(conn, b); err != nil {
				return
			}
			conn.Write(append(b, b...))
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	w, err := newWire("/ip4/127.0.0.1/tcp/" + port + "/p2p/" + wireTestPeer)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if w.addr != w.at+"/p2p/"+wireTestPeer {
		t.Errorf("the address %s lacks the peer ID", w.addr)
	}
	conn, err := net.Dial("tcp", "127.0.0.1:"+strings.TrimPrefix(w.at, "/ip4/127.0.0.1/tcp/"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "abc"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "abcabc" {
		t.Errorf("%q came back (%v), want abcabc", b, err)
	}
	if w.to.Load() != 3 || w.from.Load() != 6 || w.crossed() != 9 {
		t.Errorf("%d bytes went and %d came, want 3 and 6", w.to.Load(), w.from.Load())
	}
	w.close()
	if _, err := conn.Read(b); err == nil {
		t.Error("a connection outlives its wire")
	}
}
