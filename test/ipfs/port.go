package ipfs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
)

// The ports that [FreeAddr] returns. They are below the range from which
// systems choose ports for outgoing connections and for port 0, so no other
// process is given one while the daemon that uses it is stopped.
const (
	firstPort = 20000
	ports     = 12000
)

// nextPort counts ports modulo [ports]. It starts at a random port, so that
// processes that run at the same time use different ports.
var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(ports)) }

// FreeAddr returns a multiaddr of 127.0.0.1 with a TCP port on which nobody
// listens. No two calls return the same one, until all ports are used.
func FreeAddr() (string, error) {
	for range ports {
		port := firstPort + nextPort.Add(1)%ports
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port), nil
		}
	}
	return "", errors.New("no port is free")
}
