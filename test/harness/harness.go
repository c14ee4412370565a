// Package harness runs real ipfs daemons for the tests under test/.
//
// A [Node] is a repo in a temporary directory and a binary to run on it: the
// ipfs of cmd/ipfs, or the stock kubo of test/stock for comparison. Both are
// built once for each test binary, or taken from the files that the environment
// variables NPP_IPFS and NPP_STOCK name.
//
// Nodes listen on free ports of 127.0.0.1 alone, know no bootstrap peers, and
// are killed and removed when their test ends. They are killed and removed as well
// when the test binary ends before that: by its time limit, a panic or a signal, see
// package children. Nothing here sleeps: a test that needs a state waits for the
// line or the exit that announces it. A wait that takes longer than [Patience] fails
// the test and shows what the process wrote.
//
// A test package that uses the harness hands its TestMain to [Main].
package harness

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
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
)

// Patience bounds every wait. On a machine that is five times slower than an idle
// one of two cores, nothing takes half of it, so only what hangs runs into it.
const Patience = 4 * time.Minute

// began is when the test binary began.
var began = time.Now()

// Soaking reports whether a test that repeats something random is to do so once more,
// beyond the repetitions that it always makes: if it has not failed, and the test
// binary has not run for as long as the environment variable NPP_SOAK says, such as
// 5m. Without NPP_SOAK it is not.
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

// Repeat runs a test once, or, while [Soaking], again and again as subtests.
func Repeat(t *testing.T, test func(*testing.T)) {
	if !Soaking(t) {
		test(t)
		return
	}
	for again := true; again; again = Soaking(t) {
		t.Run("again", test)
	}
}

// group is what the processes of all tests run in.
var group *children.Group

// Main runs the tests of a package and exits. All temporary files of the tests are
// in one directory. It is removed, and all processes that were started are killed,
// whether the tests end or the test binary is killed.
func Main(m *testing.M) {
	var err error
	if group, err = children.New("npp-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("TMPDIR", group.Dir) // what [testing.T.TempDir] uses
	runMoreInParallel()
	code := m.Run()
	group.End()
	os.Exit(code)
}

// maxParallel bounds how many parallel tests run at the same time: each has some
// daemons, of 100 MB each.
const maxParallel = 12

// runMoreInParallel has twice as many parallel tests run at the same time as there
// are processors, unless the flag -parallel says how many: they wait for processes
// and disks half of their time.
func runMoreInParallel() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", strconv.Itoa(min(maxParallel, 2*runtime.GOMAXPROCS(0))))
	}
}

// Adopt has a command that is not started yet end with the test binary, at the
// latest. It returns cmd.
func Adopt(cmd *exec.Cmd) *exec.Cmd {
	group.Add(cmd)
	return cmd
}

var (
	npp   = sync.OnceValues(func() (string, error) { return build("NPP_IPFS", "cmd/ipfs") })
	stock = sync.OnceValues(func() (string, error) { return build("NPP_STOCK", "test/stock") })
)

// build returns the path of the binary that env names, or else of a new one
// built from the package.
func build(env, pkg string) (string, error) {
	if path := os.Getenv(env); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(group.Dir, filepath.Base(pkg))
	pkg = "github.com/newpieceplease/npp/" + pkg
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

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

// Node is a repo and the binary to run on it. Its methods fail the test where
// they cannot do what they say.
type Node struct {
	Bin  string   // path of the binary; may be changed while no daemon runs
	Repo string   // IPFS_PATH
	Env  []string // further variables for the processes, as in os.Environ

	t      testing.TB
	home   string
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
	home := t.TempDir()
	return &Node{Bin: bin, Repo: filepath.Join(home, "repo"), t: t, home: home}
}

// Init makes the repo, with kubo's test profile.
func (n *Node) Init() *Node {
	n.t.Helper()
	n.MustRun("init", "--profile=test")
	return n
}

// ConfigFile returns the path of the repo's config.
func (n *Node) ConfigFile() string { return filepath.Join(n.Repo, "config") }

// Set changes the key of the config file, whose parts are separated by dots, as
// an operator's editor would, running no ipfs. It returns n, for chaining.
func (n *Node) Set(key string, value any) *Node {
	n.t.Helper()
	config := n.config()
	parts := strings.Split(key, ".")
	section := config
	for _, part := range parts[:len(parts)-1] {
		sub, ok := section[part].(map[string]any)
		if !ok {
			sub = map[string]any{}
			section[part] = sub
		}
		section = sub
	}
	section[parts[len(parts)-1]] = value
	b, err := json.MarshalIndent(config, "", "  ")
	n.check(err)
	n.check(os.WriteFile(n.ConfigFile(), append(b, '\n'), 0o600))
	return n
}

func (n *Node) config() (config map[string]any) {
	n.t.Helper()
	b, err := os.ReadFile(n.ConfigFile())
	n.check(err)
	n.check(json.Unmarshal(b, &config))
	return config
}

// PeerID returns the node's peer ID as the config has it.
func (n *Node) PeerID() string {
	n.t.Helper()
	return n.config()["Identity"].(map[string]any)["PeerID"].(string)
}

// Start starts the daemon and returns when it is ready.
func (n *Node) Start(args ...string) *Node {
	n.t.Helper()
	n.daemon = n.Spawn(append([]string{"daemon"}, args...)...)
	n.daemon.Expect("Daemon is ready")
	return n
}

// Daemon returns the daemon started last, running or not; nil before the first.
func (n *Node) Daemon() *Process { return n.daemon }

// Stop asks the daemon to end with SIGTERM and returns when it did.
func (n *Node) Stop() Result {
	n.t.Helper()
	n.daemon.Signal(syscall.SIGTERM)
	return n.daemon.Wait()
}

// Kill ends the daemon with SIGKILL.
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

// MustRun is Run for what has to succeed. It returns stdout.
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

// Command returns ipfs with the arguments, not yet started, in an environment
// that holds nothing of the caller's own ipfs.
func (n *Node) Command(args ...string) *exec.Cmd {
	cmd := Adopt(exec.Command(n.Bin, args...))
	cmd.Dir = n.home
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + n.home,
		"IPFS_PATH=" + n.Repo,
		"IPFS_TELEMETRY=off",
	}, n.Env...)
	return cmd
}

// APIURL returns the base of the running daemon's RPC, with a closing slash.
func (n *Node) APIURL() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.Repo, "api"))
	n.check(err)
	addr := strings.Split(string(b), "/") // "", ip4, host, tcp, port
	if len(addr) != 5 {
		n.t.Fatalf("api file: want /ip4/<host>/tcp/<port>, got %q", b)
	}
	return "http://" + addr[2] + ":" + addr[4] + "/api/v0/"
}

// GatewayURL returns the base of the running daemon's gateway, with a closing
// slash.
func (n *Node) GatewayURL() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.Repo, "gateway"))
	n.check(err)
	return string(b) + "/"
}

// RPC posts to a path below /api/v0/, for example "swarm/connect". A body that
// is not nil goes along as a multipart file. It returns the status and the whole
// answer.
func (n *Node) RPC(path string, query url.Values, body io.Reader) (status int, answer string) {
	n.t.Helper()
	u := n.APIURL() + path + "?" + query.Encode()
	contentType := ""
	if body != nil {
		var form strings.Builder
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("file", "file")
		n.check(err)
		_, err = io.Copy(part, body)
		n.check(err)
		n.check(w.Close())
		body, contentType = strings.NewReader(form.String()), w.FormDataContentType()
	}
	client := http.Client{Timeout: Patience}
	resp, err := client.Post(u, contentType, body)
	n.check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	n.check(err)
	return resp.StatusCode, string(b)
}

// Addrs returns the running daemon's addresses, each with its peer ID.
func (n *Node) Addrs() []string {
	n.t.Helper()
	status, answer := n.RPC("id", nil, nil)
	if status != http.StatusOK {
		n.t.Fatalf("rpc id: %d: %s", status, answer)
	}
	var id struct{ Addresses []string }
	n.check(json.Unmarshal([]byte(answer), &id))
	return id.Addresses
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
