// Package harness runs real ipfs daemons for the tests below test/.
//
// A [Node] is a repo in a temporary directory and a binary that runs on it: the
// ipfs of cmd/ipfs, or for comparison the stock kubo of test/stock. See package
// ipfs for its config and for the environment variables that name the binaries;
// otherwise each test binary builds them once.
//
// Processes are killed and repos removed when their test ends. If the test
// binary ends earlier, by its time limit, a panic or a signal, package children
// does the same.
//
// Nothing here sleeps: a test waits for the line or the exit that announces a
// state. A wait that exceeds [Patience] fails the test and shows the output of
// the process.
//
// A test package that uses the harness calls [Main] in its TestMain.
package harness

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/children"
	"github.com/newpieceplease/npp/test/ipfs"
)

// Patience bounds every wait. On a machine that is five times slower than an
// idle one with two cores, no wait takes half of it, so only a hang exceeds it.
const Patience = 4 * time.Minute

// began is the start time of the test binary.
var began = time.Now()

// Soaking reports whether a randomized test should repeat once more, beyond the
// repetitions that it always makes. It does so until the test has failed or the
// test binary has run for the duration in the environment variable NPP_SOAK,
// such as 5m. Without NPP_SOAK it reports false.
func Soaking(t testing.TB) bool {
	t.Helper()
	text := os.Getenv("NPP_SOAK")
	if text == "" {
		return false
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("NPP_SOAK: %v", err)
	}
	return !t.Failed() && time.Since(began) < d
}

// Repeat runs a test once or, while [Soaking], repeatedly as subtests.
func Repeat(t *testing.T, test func(*testing.T)) {
	if !Soaking(t) {
		test(t)
		return
	}
	for again := true; again; again = Soaking(t) {
		t.Run("again", test)
	}
}

// group has the processes of all tests.
var group *children.Group

// Main runs the tests of a package and exits. All temporary files of the tests
// are in one directory. When the tests have ended or the test binary has been
// killed, that directory is removed and all started processes are killed.
func Main(m *testing.M) {
	var err error
	if group, err = children.New("npp-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("TMPDIR", group.Dir) // [testing.T.TempDir] uses it
	runMoreInParallel()
	code := m.Run()
	group.End()
	os.Exit(code)
}

// maxParallel bounds the number of tests that run in parallel; each has several
// daemons of 100 MB.
const maxParallel = 12

// runMoreInParallel sets the number of parallel tests to twice the number of
// processors, unless the flag -parallel is given. Tests spend half of their
// time waiting for processes and disks.
func runMoreInParallel() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", strconv.Itoa(min(maxParallel, 2*runtime.GOMAXPROCS(0))))
	}
}

// Adopt makes a command that is not started yet end at the latest with the test
// binary. It returns cmd.
func Adopt(cmd *exec.Cmd) *exec.Cmd {
	group.Add(cmd)
	return cmd
}

var (
	npp   = sync.OnceValues(func() (string, error) { return ipfs.NPP(context.Background(), group.Dir) })
	stock = sync.OnceValues(func() (string, error) { return ipfs.Stock(context.Background(), group.Dir) })
)

// NPP returns the path of the ipfs binary with npp.
func NPP(t testing.TB) string { return binary(t, npp) }

// Stock returns the path of the stock kubo binary.
func Stock(t testing.TB) string { return binary(t, stock) }

func binary(t testing.TB, path func() (string, error)) string {
	t.Helper()
	p, err := path()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// patience is a context for one wait.
func patience() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), Patience, fmt.Errorf("%v have passed", Patience))
}

// Node is an [ipfs.Node] whose methods fail the test instead of returning an
// error.
type Node struct {
	*ipfs.Node

	t      testing.TB
	daemon *Process
}

// New returns a node with npp on a new repo.
func New(t testing.TB) *Node {
	t.Helper()
	return Bare(t, NPP(t)).Init()
}

// NewStock returns a node without npp on a new repo.
func NewStock(t testing.TB) *Node {
	t.Helper()
	return Bare(t, Stock(t)).Init()
}

// Bare returns a node whose repo does not exist yet.
func Bare(t testing.TB, bin string) *Node {
	t.Helper()
	return &Node{Node: ipfs.New(group, bin, t.TempDir()), t: t}
}

// Init creates the repo.
func (n *Node) Init() *Node {
	n.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	n.check(n.Node.Init(ctx))
	return n
}

// Set changes one key of the config file, whose parts are separated by dots.
func (n *Node) Set(key string, value any) *Node {
	n.t.Helper()
	n.check(n.Configure(ipfs.Config{key: value}))
	return n
}

// Hide applies [ipfs.Hidden]. It must be called while no daemon runs. Other
// nodes connect to the node by [Node.ListenAddr] or a [Link].
func (n *Node) Hide() *Node {
	n.t.Helper()
	n.check(n.Configure(ipfs.Hidden))
	return n
}

// FixPort makes the daemon listen on the same port whenever it runs, and on no
// other.
func (n *Node) FixPort() *Node {
	n.t.Helper()
	return n.Set("Addresses.Swarm", []string{FreeAddr(n.t)})
}

// FreeAddr is [ipfs.FreeAddr].
func FreeAddr(t testing.TB) string {
	t.Helper()
	addr, err := ipfs.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// PeerID returns the peer ID in the config.
func (n *Node) PeerID() string {
	n.t.Helper()
	id, err := n.Node.PeerID()
	n.check(err)
	return id
}

// Start starts the daemon and returns when it is ready.
func (n *Node) Start(args ...string) *Node {
	n.t.Helper()
	n.daemon = n.Spawn(append([]string{"daemon"}, args...)...)
	n.daemon.Expect(ipfs.Ready)
	return n
}

// Daemon returns the daemon that was started last, running or not; nil before
// the first.
func (n *Node) Daemon() *Process { return n.daemon }

// Stop ends the daemon with SIGTERM and waits for its end.
func (n *Node) Stop() Result {
	n.t.Helper()
	n.daemon.Signal(syscall.SIGTERM)
	return n.daemon.Wait()
}

// Kill ends the daemon with SIGKILL and waits for its end.
func (n *Node) Kill() {
	n.t.Helper()
	n.daemon.Signal(syscall.SIGKILL)
	n.daemon.Wait()
}

// Run runs ipfs with the arguments and an empty stdin.
func (n *Node) Run(args ...string) Result {
	n.t.Helper()
	return n.Spawn(args...).Wait()
}

// RunStdin runs ipfs with the arguments and stdin.
func (n *Node) RunStdin(stdin string, args ...string) Result {
	n.t.Helper()
	cmd := n.Command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	return start(n.t, cmd).Wait()
}

// MustRun is [Node.Run] that fails the test unless the exit status is 0. It
// returns stdout.
func (n *Node) MustRun(args ...string) string {
	n.t.Helper()
	r := n.Run(args...)
	if r.Code != 0 {
		n.t.Fatalf("ipfs %s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// Spawn starts ipfs with the arguments and an empty stdin.
func (n *Node) Spawn(args ...string) *Process {
	n.t.Helper()
	return start(n.t, n.Command(args...))
}

// Command returns an ipfs command that is not started yet. Its environment has
// nothing of the caller's own ipfs.
func (n *Node) Command(args ...string) *exec.Cmd {
	return n.Node.Command(context.Background(), args...)
}

func (n *Node) rpc() *ipfs.RPC {
	n.t.Helper()
	rpc, err := n.Node.RPC()
	n.check(err)
	return rpc
}

// APIURL returns the base of the running daemon's RPC, with a trailing slash.
func (n *Node) APIURL() string {
	n.t.Helper()
	return n.rpc().Base + "api/v0/"
}

// GatewayURL returns the base of the running daemon's gateway, with a trailing
// slash.
func (n *Node) GatewayURL() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.Repo, "gateway"))
	n.check(err)
	return string(b) + "/"
}

// RPC posts to a path below /api/v0/, for example "swarm/connect". A body that
// is not nil is sent as a multipart file. It returns the status and the whole
// answer.
func (n *Node) RPC(path string, query url.Values, body io.Reader) (status int, answer string) {
	n.t.Helper()
	var file []byte
	if body != nil {
		var err error
		file, err = io.ReadAll(body)
		n.check(err)
	}
	ctx, cancel := patience()
	defer cancel()
	resp, err := n.rpc().Post(ctx, path, query, file)
	n.check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	n.check(err)
	return resp.StatusCode, string(b)
}

// Addrs returns the multiaddrs that the running daemon announces, each with its
// peer ID.
func (n *Node) Addrs() []string {
	n.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	addrs, err := n.rpc().Addrs(ctx)
	n.check(err)
	return addrs
}

// ListenAddr returns the multiaddr that the running daemon listens on, with its
// peer ID.
func (n *Node) ListenAddr() string {
	n.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	addr, err := n.rpc().ListenAddr(ctx)
	n.check(err)
	return addr
}

// Connect connects the daemons of n and other with kubo's own command.
func (n *Node) Connect(other *Node) {
	n.t.Helper()
	n.MustRun("swarm", "connect", other.Addrs()[0])
}

func (n *Node) check(err error) {
	if err != nil {
		n.t.Helper()
		n.t.Fatal(err)
	}
}
