package commands

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ipfs/boxo/files"
	cmds "github.com/ipfs/go-ipfs-cmds"

	"github.com/newpieceplease/npp/library"
)

func TestPieceTextOfAHostileCompanionIsHarmless(t *testing.T) {
	facts := pieceFacts{Hash: hostile, Title: hostile, Composer: hostile, Instrument: hostile, Type: hostile, Name: hostile}
	piece := pieceLine{pieceFacts: facts, Owners: []ownerLine{{Peer: "12D3KooW", Name: hostile}}}
	var err error
	if piece.Fields, err = json.Marshal(map[string]string{hostile: hostile}); err != nil {
		t.Fatal(err)
	}
	all := cmds.OptMap{allOption: true}
	for name, got := range map[string]string{
		"ls":       text(t, piecesLsCmd, all, &piece),
		"search":   text(t, piecesSearchCmd, nil, &piece),
		"random":   text(t, piecesRandomCmd, all, &piece),
		"show":     text(t, piecesShowCmd, nil, &piece),
		"warning":  text(t, piecesLsCmd, nil, &pieceLine{Warning: hostile}),
		"add":      text(t, piecesAddCmd, nil, &addLine{Outcome: "added", pieceFacts: facts}),
		"skipped":  text(t, piecesAddCmd, nil, &addLine{Outcome: "skipped", File: hostile, Reason: hostile}),
		"failed":   text(t, piecesAddCmd, nil, &addLine{Outcome: "failed", File: hostile, Error: hostile}),
		"progress": (&addLine{File: hostile, Progress: &addProgress{}}).progress(),
		"rm":       text(t, piecesRmCmd, nil, &rmLine{Hash: hostile, Title: hostile}),
		"rm fails": text(t, piecesRmCmd, nil, &rmLine{Piece: hostile, Error: hostile}),
		"get":      text(t, piecesGetCmd, nil, &getLine{File: hostile}),
		"practice": text(t, practiceCmd, nil, &practiceLine{Title: hostile}),
		"profile":  text(t, profileLsCmd, nil, &fieldLine{Key: valueJSON(valueOf(hostile)), Value: valueJSON(valueOf(hostile))}),
		"field":    text(t, profileGetCmd, nil, &fieldLine{Value: valueJSON(valueOf(hostile))}),
	} {
		if strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) || !strings.Contains(got, escaped[:20]) {
			t.Errorf("%s: %q", name, got)
		}
		if lines := strings.Count(got, "\n"); name != "show" && name != "progress" && lines != 1 {
			t.Errorf("%s: %d lines: %q", name, lines, got)
		}
	}
}

func TestPieceTextOfLittleKnownPiece(t *testing.T) {
	if got := strings.Fields(text(t, piecesLsCmd, nil, &pieceLine{pieceFacts: pieceFacts{Hash: "Qm"}})); strings.Join(got, " ") != "Qm (no title) - - - 0" {
		t.Errorf("ls: %q", got)
	}
	long := pieceLine{pieceFacts: pieceFacts{Hash: "Qm", Title: strings.Repeat("ü", 100), Composer: "Bach"}}
	if got := text(t, piecesLsCmd, nil, &long); !strings.HasPrefix(got, "Qm  "+strings.Repeat("ü", 31)+"…  Bach  ") {
		t.Errorf("long: %s", got)
	}
	if got := text(t, piecesAddCmd, nil, &addLine{Outcome: "added", pieceFacts: pieceFacts{Hash: "Qm"}}); got != "added      Qm  (no title)\n" {
		t.Errorf("add: %q", got)
	}
}

func TestFileNamesAreSafe(t *testing.T) {
	const pdf = "application/pdf"
	for _, test := range []struct {
		facts pieceFacts
		want  string
	}{
		{pieceFacts{Name: "Prélude in C.pdf", Title: "no"}, "Prélude in C.pdf"},
		{pieceFacts{Name: "/etc/cron.d/x"}, "x"},
		{pieceFacts{Name: `C:\Windows\x.exe`}, "x.exe"},
		{pieceFacts{Name: "C:x"}, "C-x"},
		{pieceFacts{Name: "--force"}, "force"},
		{pieceFacts{Name: " ..hidden. "}, "hidden"},
		{pieceFacts{Name: "a\x00b\nc\u202e\xff.pdf"}, "abc.pdf"},
		{pieceFacts{Name: "a/", Title: "Air", Type: pdf}, "Air.pdf"},
		{pieceFacts{Name: "...", Title: "../Air", Type: pdf}, "Air.pdf"},
		{pieceFacts{Title: "No. 7", Type: pdf}, "No. 7.pdf"},
		{pieceFacts{Title: "Air", Type: "image/png"}, "Air.png"},
		{pieceFacts{Title: "Air", Type: "application/vnd.recordare.musicxml"}, "Air.mxl"},
		{pieceFacts{Title: "Air", Type: "no/such type"}, "Air"},
		{pieceFacts{Hash: "QmA"}, "QmA"},
		{pieceFacts{Hash: "../../QmA", Type: pdf}, "QmA.pdf"},
		{pieceFacts{Hash: "/"}, "piece"},
		{pieceFacts{Name: strings.Repeat("音", 100) + ".pdf"}, strings.Repeat("音", 65) + ".pdf"},
		{pieceFacts{Name: "x." + strings.Repeat("e", 300)}, "x." + strings.Repeat("e", 198)},
	} {
		if got := test.facts.fileName(); got != test.want {
			t.Errorf("%+v: got %q, want %q", test.facts, got, test.want)
		}
	}
}

func FuzzFileNamesAreSafe(f *testing.F) {
	f.Add("Air.pdf", "Air", "application/pdf")
	f.Add("..", "../x", "image/png")
	f.Fuzz(func(t *testing.T, name, title, mediaType string) {
		facts := pieceFacts{Hash: "QmA", Name: name, Title: title, Type: mediaType}
		got := facts.fileName()
		if got == "" || len(got) > maxFileName+20 || !utf8.ValidString(got) || strings.ContainsAny(got, `/\:`) || strings.ContainsAny(got[:1], ".- ") ||
			strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			t.Errorf("%q", got)
		}
	})
}

// sent returns the names of the files that a client sends, with their contents.
func sent(t *testing.T, dir files.Directory, below string) (all []string) {
	t.Helper()
	it := dir.Entries()
	for it.Next() {
		name := below + it.Name()
		switch node := it.Node().(type) {
		case *files.Symlink:
			all = append(all, name+" -> "+node.Target)
		case files.Directory:
			all = append(all, sent(t, node, name+"/")...)
		case files.File:
			b, err := io.ReadAll(node)
			if err != nil {
				t.Fatal(err)
			}
			if err := node.Close(); err != nil {
				t.Fatal(err)
			}
			all = append(all, strings.TrimSpace(name+" "+strings.TrimLeft(node.Mode().Type().String(), "-")+string(b)))
		}
	}
	return all
}

// An unreadable file is sent as a placeholder. Hidden files are not read.
func TestFilesAreReadOneAtATimeWhereTheyCanBe(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a.pdf": "A", "b/c.pdf": "C", "b/.git/x": "never", "b/.x": "never"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("c.pdf", filepath.Join(dir, "b/link")), os.Symlink("a.pdf", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	given, hashes, err := sourcesOf([]string{filepath.Join(dir, "a.pdf"), filepath.Join(dir, "b") + "/", "QmNR2n4zywCV61MeMLB6JwPueAPqheqpfiA4fLPMxouEmQ", filepath.Join(dir, "link")})
	if err != nil || len(hashes) != 1 || !given.folders {
		t.Fatalf("%v, %q, %+v", err, hashes, given)
	}
	want := []string{"a.pdf A", "b/.git", "b/.x", "b/c.pdf C", "b/link ->", "link A"}
	got := sent(t, given, "")
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	below := &sources{paths: []string{filepath.Join(dir, "gone.pdf")}, names: []string{"gone.pdf"}, inFolder: true}
	it := below.Entries()
	if !it.Next() || it.Node().Mode().Type() != fs.ModeIrregular {
		t.Fatal("what is gone is sent as if it were there")
	}
	if b, _ := io.ReadAll(it.Node().(files.File)); !strings.Contains(string(b), "gone.pdf: no such file") {
		t.Errorf("why: %q", b)
	}
}

func TestPieceFileIsThereWhenItIsWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.pdf")
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("broken off")))
	for _, force := range []bool{false, true} {
		if _, err := saveFile(path, broken, force); err == nil {
			t.Error("what broke off is written")
		}
	}
	if n, err := saveFile(path, strings.NewReader("old"), false); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	// A file that appeared while the other one was read is not replaced either.
	if _, err := saveFile(path, strings.NewReader("new"), false); err == nil || !strings.Contains(err.Error(), "; hint: --force") {
		t.Errorf("over another: %v", err)
	}
	if _, err := saveFile(path, broken, true); err == nil {
		t.Error("what broke off replaces a file")
	}
	if b, err := os.ReadFile(path); string(b) != "old" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := saveFile(path, strings.NewReader("new"), true); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); string(b) != "new" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := saveFile(os.DevNull, strings.NewReader("x"), true); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Fatalf("%v, %v", info, err)
	}
}

// slowFile returns a byte for each value of give, until its context is done.
type slowFile struct {
	library.File
	ctx  context.Context
	give chan struct{}
}

func (f slowFile) Close() error { return nil }

func (f slowFile) Read(b []byte) (int, error) {
	select {
	case <-f.give:
		b[0] = 'x'
		return 1, nil
	case <-f.ctx.Done():
		return 0, f.ctx.Err()
	}
}

// The timeout bounds the time between two bytes, not the time of the file.
func TestFetchEndsIfNoBlockArrives(t *testing.T) {
	const timeout = 200 * time.Millisecond
	give := make(chan struct{})
	f, err := openStallReader(t.Context(), timeout, func(ctx context.Context) (library.File, error) { return slowFile{ctx: ctx, give: give}, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	begin, n := time.Now(), 0
	for b := make([]byte, 1); time.Since(begin) < 2*timeout; n++ {
		go func() { give <- struct{}{} }()
		if _, err := f.Read(b); err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, errStalled) {
		t.Errorf("nothing comes: %v", err)
	}
	_, err = openStallReader(t.Context(), timeout, func(ctx context.Context) (library.File, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if !errors.Is(err, errStalled) {
		t.Errorf("it does not open: %v", err)
	}
	failed := errors.New("failed")
	if _, err = openStallReader(t.Context(), time.Hour, func(context.Context) (library.File, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("it cannot be opened: %v", err)
	}
}

func TestTimesAreCounted(t *testing.T) {
	for arg, want := range map[string]uint64{"1": 1, "+1": 1, " 3": 3, "1000000": 1000000} {
		if got, err := timesOf(arg); got != want || err != nil {
			t.Errorf("%q: %d, %v", arg, got, err)
		}
	}
	for _, arg := range []string{"", "+", "0", "-1", "++1", "+ 1", "1.5", "0x10", "1_000", "1000001", "99999999999999999999999"} {
		if got, err := timesOf(arg); err == nil || got != 0 {
			t.Errorf("%q: %d", arg, got)
		}
	}
}
