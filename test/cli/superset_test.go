package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// isUpdate reports whether a line of `ipfs commands` belongs to `ipfs update`,
// the one command of kubo that npp removes.
func isUpdate(line string) bool {
	return line == "ipfs update" || strings.HasPrefix(line, "ipfs update ")
}

// isNPP reports whether a line of `ipfs commands` belongs to `ipfs npp`.
func isNPP(line string) bool {
	return line == "ipfs npp" || strings.HasPrefix(line, "ipfs npp ")
}

func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }

func TestCommandsAndFlagsAreStockLessUpdatePlusNPP(t *testing.T) {
	t.Parallel()
	ours := harness.Bare(t, harness.NPP(t)).MustRun("commands", "--flags")
	stock := harness.Bare(t, harness.Stock(t)).MustRun("commands", "--flags")
	want := slices.DeleteFunc(lines(stock), isUpdate)
	if len(want) == len(lines(stock)) {
		t.Fatal("stock has no update command: has kubo dropped it?")
	}
	got := lines(ours)
	if slices.ContainsFunc(got, isUpdate) {
		t.Error("ipfs update is still there: it would replace this binary with a stock one")
	}
	if !slices.Contains(got, "ipfs npp") {
		t.Error("ipfs npp is missing")
	}
	got = slices.DeleteFunc(got, isNPP)
	diff(t, got, want)
}

func TestHelpOfStockCommandsIsStocks(t *testing.T) {
	t.Parallel()
	ours, stock := harness.Bare(t, harness.NPP(t)), harness.Bare(t, harness.Stock(t))
	for _, command := range lines(stock.MustRun("commands")) {
		if isUpdate(command) || command == "ipfs" {
			continue
		}
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			args := append(strings.Fields(command)[1:], "--help")
			got, want := ours.Run(args...), stock.Run(args...)
			if got != want {
				t.Errorf("ours %v\nstock %v", got, want)
			}
		})
	}
}

func TestRootHelpDiffersInTheNamedCommandsOnly(t *testing.T) {
	t.Parallel()
	ours, stock := harness.Bare(t, harness.NPP(t)), harness.Bare(t, harness.Stock(t))
	update := regexp.MustCompile(`^ +update +`)
	npp := regexp.MustCompile(`^ +npp +`)
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}} {
		want := slices.DeleteFunc(lines(stock.MustRun(args...)), update.MatchString)
		got := lines(ours.MustRun(args...))
		if slices.ContainsFunc(got, update.MatchString) {
			t.Errorf("ipfs %s still lists update", args)
		}
		diff(t, slices.DeleteFunc(got, npp.MatchString), want)
	}
}

func TestUpdateIsNoCommand(t *testing.T) {
	t.Parallel()
	r := harness.New(t).Run("update", "install")
	if r.Code != 1 || !strings.Contains(r.Stderr, `"update"`) {
		t.Errorf("ipfs update install: %v", r)
	}
}

// diff reports the lines that only one of the texts has.
func diff(t *testing.T, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	same := true
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
			same = false
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("new: %s", line)
			same = false
		}
	}
	if same {
		t.Errorf("same lines in another order or number\ngot:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDaemonSaysWhatStockSays(t *testing.T) {
	t.Parallel()
	ours, stock := harness.New(t).Start(), harness.NewStock(t).Start()
	differing := regexp.MustCompile(`12D3KooW\w+|(127\.0\.0\.1:|/tcp/)\d+|127\.0\.0\.1/\w+/\d+`)
	normal := func(n *harness.Node) []string {
		r := n.Stop()
		if r.Code != 0 {
			t.Errorf("daemon: %v", r)
		}
		return lines(differing.ReplaceAllString(r.Stdout, "$1*"))
	}
	diff(t, normal(ours), normal(stock))
}

func TestRPCAndGatewayWork(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	status, answer := n.RPC("id", nil, nil)
	if status != http.StatusOK || !strings.Contains(answer, n.PeerID()) {
		t.Fatalf("id: %d: %s", status, answer)
	}
	const cid = "bafkreiaywv5d5ic2tiqkkmyha5xpflyrwggwyvraa5u4625hz5iwik34ty"
	status, answer = n.RPC("add", url.Values{"cid-version": {"1"}, "raw-leaves": {"true"}}, strings.NewReader("a piece\n"))
	if status != http.StatusOK || !strings.Contains(answer, `"Hash":"`+cid+`"`) {
		t.Fatalf("add: %d: %s", status, answer)
	}
	status, answer = n.RPC("cat", url.Values{"arg": {cid}}, nil)
	if status != http.StatusOK || answer != "a piece\n" {
		t.Errorf("cat: %d: %q", status, answer)
	}
	resp, err := http.Get(n.GatewayURL() + "ipfs/" + cid)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || string(body) != "a piece\n" {
		t.Errorf("gateway: %s: %q", resp.Status, body)
	}
}

func TestAgentVersionNamesNPP(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	if agent := n.MustRun("id", "--format=<aver>"); !strings.HasPrefix(agent, "kubo/0.43.1/") || !strings.Contains(agent, "npp") {
		t.Errorf("agent version is %q", agent)
	}
}

func TestConfigFileIsLeftAlone(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Set("Unknown.Section", map[string]any{"kept": true})
	before, err := os.ReadFile(n.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	other := harness.New(t).Start()
	for range 2 {
		n.Start()
		n.Run("npp", "peers")
		n.Run("npp", "connect", "--keep", other.Addrs()[0])
		n.Run("npp", "send", other.PeerID(), "a message")
		n.Run("npp", "messages", "ls")
		n.Run("npp", "connect", "--forget", other.PeerID())
		n.Stop()
		n.Run("npp", "peers")
	}
	after, err := os.ReadFile(n.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	if string(after) != string(before) {
		t.Errorf("config changed\nbefore:\n%s\nafter:\n%s", before, after)
	}
}

func TestStockOpensTheRepoAndBack(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	ours, stock := n.Bin, harness.Stock(t)
	added := map[string]string{} // content by CID
	for _, bin := range []string{ours, stock, ours, stock} {
		n.Bin = bin
		n.Start()
		for cid, content := range added {
			if got := n.MustRun("cat", cid); got != content {
				t.Errorf("%s: cat %s is %q, want %q", bin, cid, got, content)
			}
			if pins := n.MustRun("pin", "ls", "--type=recursive", "--quiet"); !strings.Contains(pins, cid) {
				t.Errorf("%s: pin of %s is gone: %s", bin, cid, pins)
			}
		}
		content := fmt.Sprintf("piece %d of %s", len(added), bin)
		r := n.RunStdin(content, "add", "--quieter")
		if r.Code != 0 {
			t.Fatalf("add: %v", r)
		}
		added[strings.TrimSpace(r.Stdout)] = content
		if r := n.Stop(); r.Code != 0 {
			t.Errorf("%s daemon: %v", bin, r)
		}
		n.MustRun("repo", "verify")
	}
}
