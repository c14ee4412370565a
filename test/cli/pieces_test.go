package cli

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"

	"github.com/newpieceplease/npp/test/harness"
)

// someCID is a CID whose block no peer has. The others are the same CID in
// other forms.
const (
	someCID   = "QmNR2n4zywCV61MeMLB6JwPueAPqheqpfiA4fLPMxouEmQ"
	otherCID  = "QmZ4tDuvesekSs4qM5ZBKpXiZGun7S2CYtEZRB3DYXkjGx"
	absentCID = "QmTudJSaoKxtbEnTddJ9vh8hbN84ZLVvD5pNpUaSbxwGoa"
	noText    = "not a known kind of sheet music; hint: --all-files adds it anyway"
	noPiece   = "no piece has the hash"
	notesText = "practise more\n"
)

func init() {
	for command, args := range map[string][]string{
		"add":    {someCID},
		"ls":     nil,
		"show":   {someCID},
		"get":    {someCID},
		"update": {someCID, "--title=x"},
		"rm":     {someCID},
		"random": nil,
		"search": {"prelude"},
	} {
		calls["ipfs npp pieces "+command] = append([]string{"npp", "pieces", command}, args...)
	}
	calls["ipfs npp practice"] = []string{"npp", "practice", someCID}
}

// spelled returns a CID of version 1 in a base.
func spelled(t *testing.T, hash string, base multibase.Encoding) string {
	t.Helper()
	c, err := cid.Decode(hash)
	if err != nil {
		t.Fatal(err)
	}
	s, err := cid.NewCidV1(c.Type(), c.Hash()).StringOfBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addRow is a line of `npp pieces add`.
type addRow struct {
	Outcome, File, Hash, Title, Composer, Instrument, Type, Name, Reason, Error string
	Size                                                                        uint64
	Progress                                                                    *struct{ Bytes, Blocks *uint64 }
	Summary                                                                     *struct{ Added, Updated, Unchanged, Skipped, Failed int }
}

// short returns a summary of the row.
func (r addRow) short() string {
	switch {
	case r.Summary != nil:
		return fmt.Sprint(*r.Summary)
	case r.Reason != "":
		return r.Outcome + " " + r.File + ": " + r.Reason
	case r.Error != "":
		return r.Outcome + " " + r.File + r.Hash + ": " + r.Error
	}
	return strings.Join([]string{r.Outcome, r.File, r.Title, r.Composer, r.Instrument, r.Type, r.Name}, " ")
}

func shorts(rows []addRow) []string {
	var s []string
	for _, r := range rows {
		s = append(s, r.short())
	}
	return s
}

// add adds pieces at the command line.
func add(t *testing.T, n *harness.Node, args ...string) []addRow {
	t.Helper()
	return decodeLines[addRow](t, n.MustRun(append([]string{"npp", "pieces", "add", "--enc=json"}, args...)...))
}

// expectRows compares the summaries of rows with the wanted ones.
func expectRows(t *testing.T, what string, got []addRow, want ...string) {
	t.Helper()
	if short := shorts(got); !slices.Equal(short, want) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(short, "\n"), strings.Join(want, "\n"))
	}
}

// runIn runs ipfs in a folder.
func runIn(t *testing.T, n *harness.Node, dir string, args ...string) harness.Result {
	t.Helper()
	cmd := n.Command(args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return harness.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// pdf returns a document with one empty page.
func pdf(title, author string) string { return longPDF(title, author, "") }

// longPDF returns the same with a text in it that is not shown.
func longPDF(title, author, text string) string {
	var b strings.Builder
	b.WriteString("%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + text)
	var at []int
	for i, o := range []string{
		"<</Type/Catalog/Pages 2 0 R>>",
		"<</Type/Pages/Kids[3 0 R]/Count 1>>",
		"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<<>>>>",
		"<</Title(" + title + ")/Author(" + author + ")>>",
	} {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", i+1, o)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(at)+1)
	for _, o := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&b, "trailer\n<</Size %d/Root 1 0 R/Info 4 0 R>>\nstartxref\n%d\n%%%%EOF\n", len(at)+1, xref)
	return b.String()
}

func musicXML(title, composer string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<score-partwise version="4.0"><work><work-title>` + title + `</work-title></work>
<identification><creator type="composer">` + composer + `</creator></identification>
<part-list><score-part id="P1"><part-name>Violin</part-name></score-part></part-list>
<part id="P1"><measure number="1"/></part></score-partwise>`
}

func abc(title, composer string) string {
	return "X:1\nT:" + title + "\nC:" + composer + "\nK:C\nCDEC|\n"
}

// mxl returns a compressed MusicXML file of more than size bytes.
func mxl(t *testing.T, score string, size int) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range []struct{ name, content string }{
		{"META-INF/container.xml", `<?xml version="1.0"?><container><rootfiles><rootfile full-path="score.musicxml"/></rootfiles></container>`},
		{"picture.png", strings.Repeat("x", size)},
		{"score.musicxml", score},
	} {
		out, err := w.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Store})
		if err == nil {
			_, err = io.WriteString(out, f.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// folder creates a folder with files, given by path.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "scores")
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, content)
	}
	return dir
}

// pins returns the recursive pins with their names, except for those of every
// new repo.
func pins(t *testing.T, n *harness.Node) map[string]string {
	t.Helper()
	names := make(map[string]string)
	for line := range strings.Lines(n.MustRun("pin", "ls", "--type=recursive", "--names")) {
		fields := strings.Fields(line)
		names[fields[0]] = strings.Join(fields[2:], " ")
	}
	delete(names, "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn") // an empty folder
	return names
}

// The title and composer of a file are taken from its content. In a folder,
// sheet music is added and every other file is reported.
func TestPiecesAreAddedFromFilesAndFolders(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	temporary := t.TempDir()
	n.Env = append(n.Env, "TMPDIR="+temporary)
	n.Start()
	large := mxl(t, musicXML("Large", "Anon"), 9<<20)
	dir := folder(t, map[string]string{
		"air.pdf":          pdf("Air", "J. S. Bach"),
		"humoresque.xml":   musicXML("Humoresque No. 7", "Antonín Dvořák"),
		"folk/frere.abc":   abc("Frère Jacques", "trad."),
		"folk/again.abc":   abc("Frère Jacques", "trad."),
		"folk/.hidden/x":   abc("Hidden", ""),
		"large.mxl":        large,
		".air.pdf.swp":     pdf("Hidden", ""),
		"notes.txt":        notesText,
		"zipped.zip":       strings.Replace(large, "container.xml", "contained.xml", 2),
		"recording.wav":    "RIFF" + strings.Repeat("\x00", 9<<20),
		"empty.pdf":        "",
		"100% (a+b) ü.abc": abc("Percent", ""),
	})
	if err := os.Symlink("air.pdf", filepath.Join(dir, "link.pdf")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.pdf"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := func(outcome string) []string {
		return []string{
			"skipped scores/.air.pdf.swp: it is hidden",
			outcome + " scores/100% (a+b) ü.abc Percent  Piano text/vnd.abc 100% (a+b) ü.abc",
			outcome + " scores/air.pdf Air J. S. Bach Piano application/pdf air.pdf",
			"skipped scores/empty.pdf: " + noText,
			"skipped scores/folk/.hidden: it is hidden",
			outcome + " scores/folk/again.abc Frère Jacques trad. Piano text/vnd.abc again.abc",
			"unchanged scores/folk/frere.abc Frère Jacques trad. Piano text/vnd.abc again.abc",
			outcome + " scores/humoresque.xml Humoresque No. 7 Antonín Dvořák Piano application/vnd.recordare.musicxml+xml humoresque.xml",
			outcome + " scores/large.mxl Large Anon Piano application/vnd.recordare.musicxml large.mxl",
			"skipped scores/link.pdf: it is a link",
			"skipped scores/notes.txt: " + noText,
			"skipped scores/pipe.pdf: it is not a regular file",
			"skipped scores/recording.wav: " + noText,
			"skipped scores/zipped.zip: " + noText,
		}
	}
	expectRows(t, "folder", add(t, n, dir), append(all("added"), "{5 0 1 8 0}")...)
	if got := len(decodeLines[pieceRow](t, n.MustRun("npp", "pieces", "ls", "--enc=json"))); got != 5 {
		t.Errorf("%d pieces", got)
	}
	expectRows(t, "again", add(t, n, dir), append(all("unchanged"), "{0 0 6 8 0}")...)

	// `ipfs add` gives the same CID for the same bytes.
	path := filepath.Join(dir, "large.mxl")
	hash := strings.TrimSpace(n.MustRun("add", "-Q", path))
	if row := add(t, n, path)[0]; row.Hash != hash || row.Size != uint64(len(large)) {
		t.Errorf("CID %+v, want %s", row, hash)
	}
	// A file that is named itself is added in any case: hidden, a link, or not
	// music.
	expectRows(t, "named", add(t, n, filepath.Join(dir, "notes.txt"), filepath.Join(dir, ".air.pdf.swp"), filepath.Join(dir, "link.pdf"), "--instrument=Organ"),
		"added notes.txt   Organ text/plain; charset=utf-8 notes.txt",
		"added .air.pdf.swp Hidden  Organ application/pdf .air.pdf.swp",
		"updated link.pdf Air J. S. Bach Organ application/pdf air.pdf")
	expectRows(t, "with details", add(t, n, filepath.Join(dir, "notes.txt"), "--title=Notes", "--composer=me"),
		"updated notes.txt Notes me Organ text/plain; charset=utf-8 notes.txt")
	rows := add(t, n, filepath.Join(dir, "folk"), "--all-files", "--composer=trad.", "--instrument=Voice")
	expectRows(t, "details of a folder", rows,
		"skipped folk/.hidden: it is hidden",
		"updated folk/again.abc Frère Jacques trad. Voice text/vnd.abc again.abc",
		"unchanged folk/frere.abc Frère Jacques trad. Voice text/vnd.abc again.abc", "{0 1 1 1 0}")
	if got := add(t, n, dir, "--all-files"); len(got) != 15 || got[14].Summary.Added != 3 || got[14].Summary.Skipped != 4 {
		t.Errorf("all files: %q", shorts(got))
	}

	// Text output.
	r := runIn(t, n, filepath.Join(dir, "folk"), "npp", "pieces", "add", ".")
	if want := "skipped    folk/.hidden: it is hidden\n" +
		"unchanged  " + rows[1].Hash + "  Frère Jacques  (trad., Voice, ABC)\n" +
		"unchanged  " + rows[1].Hash + "  Frère Jacques  (trad., Voice, ABC)\n" +
		"0 added, 0 updated, 2 unchanged, 1 skipped\n"; r.Stdout != want || r.Code != 0 || r.Stderr != "" {
		t.Errorf("text: %v, want %s", r, want)
	}
	for hash, name := range pins(t, n) {
		if name != "npp" && hash != strings.TrimSpace(n.MustRun("add", "-Q", path)) {
			t.Errorf("%s is pinned as %q", hash, name)
		}
	}
	if entries, err := os.ReadDir(temporary); err != nil || len(entries) > 0 {
		t.Errorf("temporary files are left: %v, %v", entries, err)
	}
}

// part is a file of a multipart body.
type part struct {
	name, kind, content string
	mode                os.FileMode
}

// upload posts files to `npp pieces add`.
func upload(t *testing.T, n *harness.Node, query url.Values, parts ...part) (rows []addRow, failure string) {
	t.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	for _, p := range parts {
		header := textproto.MIMEHeader{}
		name := "file"
		if p.mode != 0 {
			name += "?mode=0" + strconv.FormatUint(uint64(p.mode), 8)
		}
		header.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename="%s"`, name, url.QueryEscape(p.name)))
		header.Set("Content-Type", p.kind)
		out, err := w.CreatePart(header)
		if err == nil {
			_, err = io.WriteString(out, p.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	_, out, failure := post(t, n, "pieces/add", query, w.FormDataContentType(), &form)
	return decodeLines[addRow](t, out), failure
}

func TestPiecesAreAddedOverTheRPC(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	rows, failure := upload(t, n, url.Values{"arg": {someCID}, "composer": {"Anon"}},
		part{name: "a.abc", content: abc("A", "")},
		part{name: "b.txt", content: notesText},
		part{name: "deep/in/c.abc", content: abc("C", "")},
		part{name: "deep/in/notes.txt", content: notesText},
		part{name: "deep/.git/config", content: "[core]"},
		part{name: "deep/.git/objects/x.abc", content: abc("never", "")},
		part{name: "link", kind: "application/symlink", content: "/etc/passwd"},
		part{name: "scores", kind: "application/x-directory"},
		part{name: "scores/gone.pdf", content: "open gone.pdf: no such file", mode: os.ModeIrregular},
		part{name: "scores/socket", mode: os.ModeSocket},
		part{name: "scores/d.abc", content: abc("D", "Dee")},
		part{name: "scores", kind: "application/x-directory"},
		part{name: "scores/e.abc", content: abc("E", "")},
	)
	expectRows(t, "files", rows,
		"added a.abc A Anon Piano text/vnd.abc a.abc",
		"added b.txt  Anon Piano text/plain; charset=utf-8 b.txt",
		"added deep/in/c.abc C Anon Piano text/vnd.abc c.abc",
		"skipped deep/in/notes.txt: "+noText,
		"skipped deep/.git: it is hidden",
		"skipped link: it is a link",
		"failed scores/gone.pdf: open gone.pdf: no such file",
		"skipped scores/socket: it is not a regular file",
		"added scores/d.abc D Anon Piano text/vnd.abc d.abc",
		"added scores/e.abc E Anon Piano text/vnd.abc e.abc",
		"added   Anon Piano  ",
		"{6 0 0 4 1}")
	if failure != "1 of 7 failed" {
		t.Errorf("failure %q", failure)
	}
	if rows, failure := upload(t, n, nil, part{name: "gone.pdf", content: "it is gone", mode: os.ModeIrregular}); rows != nil || failure != "it is gone" {
		t.Errorf("one alone: %q, %q", shorts(rows), failure)
	}
	rows, failure = upload(t, n, nil, part{name: "gone.pdf", content: "it is gone", mode: os.ModeIrregular}, part{name: "a.abc", content: abc("A", "")})
	expectRows(t, "one of two", rows, "failed gone.pdf: it is gone", "unchanged a.abc A Anon Piano text/vnd.abc a.abc")
	if failure != "1 of 2 failed" {
		t.Errorf("one of two: %q", failure)
	}
	before := n.MustRun("npp", "pieces", "ls", "--enc=json")
	one := part{name: "f.abc", content: abc("F", "")}
	for _, test := range []struct {
		query url.Values
		parts []part
		want  string
	}{
		{url.Values{"title": {"T"}}, []part{one, one}, "--title is for a single piece; hint: "},
		{url.Values{"title": {"T"}, "arg": {otherCID}}, []part{one}, "--title is for a single piece; hint: "},
		{url.Values{"title": {"T"}}, []part{{name: "in/f.abc", content: one.content}}, "--title is for a single piece; hint: "},
		{url.Values{"arg": {otherCID, "/etc/passwd"}}, []part{one}, `"/etc/passwd" is not a CID; hint: `},
		{url.Values{"instrument": {""}}, []part{one, one}, "invalid: the instrument is empty; hint: "},
		{url.Values{"composer": {"a\nb"}}, []part{one}, "invalid: the composer has more than one line; hint: "},
	} {
		if rows, failure := upload(t, n, test.query, test.parts...); rows != nil || !strings.HasPrefix(failure, test.want) {
			t.Errorf("%v: %q, %q", test.query, shorts(rows), failure)
		}
	}
	if after := n.MustRun("npp", "pieces", "ls", "--enc=json"); after != before {
		t.Errorf("a refused command changed something: %s", after)
	}
	rows, failure = upload(t, n, url.Values{"title": {"The F"}}, one)
	expectRows(t, "title", rows, "added f.abc The F  Piano text/vnd.abc f.abc")
	if failure != "" {
		t.Error(failure)
	}
}

// A command that sends a file prints its progress, and does not delay the end
// of the daemon.
func TestProgressOfAddingIsTold(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	body, w := io.Pipe()
	form := multipart.NewWriter(w)
	ended := make(chan struct{})
	go func() {
		out, err := form.CreateFormFile("file", "slow.pdf")
		if err != nil {
			return
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := out.Write([]byte("%PDF")); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-ended:
				return
			}
		}
	}()
	defer w.Close()
	defer close(ended)
	resp, err := http.Post(n.APIURL()+"npp/pieces/add?progress=true", form.FormDataContentType(), body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var l addRow
	if err := json.NewDecoder(resp.Body).Decode(&l); err != nil || l.File != "slow.pdf" || l.Progress == nil || *l.Progress.Bytes == 0 {
		t.Errorf("%+v, %v", l, err)
	}

	// On a terminal, one line shows the progress of pinning and is then erased.
	terminal, user := openTerminal(t)
	cmd := n.Command("npp", "pieces", "add", "--pin", absentCID)
	cmd.Stderr = terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitShown(t, user, "\r\x1b[K"+absentCID+": 0 blocks are here")
	cmd.Process.Signal(os.Interrupt)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("interrupted: %v", cmd.ProcessState)
	}

	begin := time.Now()
	n.Stop()
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the daemon took %v to stop", took)
	}
}

// awaitShown waits until a terminal shows a text.
func awaitShown(t *testing.T, terminal *os.File, text string) {
	t.Helper()
	var all []byte
	for b := make([]byte, 1); !strings.Contains(string(all), text); all = append(all, b...) {
		if _, err := terminal.Read(b); err != nil {
			t.Fatalf("%q, %v", all, err)
		}
	}
}

// A CID is stored as it is written. In any other form, it identifies the same
// piece.
func TestPieceOfACIDStaysAsItIsWritten(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	v1 := spelled(t, someCID, multibase.Base58BTC)
	rows := add(t, n, v1, "/ipfs/"+otherCID)
	if len(rows) != 2 || rows[0].Hash != v1 || rows[1].Hash != otherCID || rows[0].Outcome != "added" || rows[0].Instrument != "Piano" || rows[0].Title != "" {
		t.Errorf("%+v", rows)
	}
	for _, other := range []string{someCID, spelled(t, someCID, multibase.Base32), spelled(t, someCID, multibase.Base36), v1} {
		if rows := add(t, n, other); rows[0].Outcome != "unchanged" || rows[0].Hash != v1 {
			t.Errorf("%s: %+v", other, rows)
		}
	}
	if got := n.MustRun("npp", "pieces", "add", someCID, "--title=Air"); got != "updated    "+v1+"  Air  (Piano)\n" {
		t.Errorf("text: %s", got)
	}
	if len(pins(t, n)) != 0 {
		t.Errorf("pinned: %v", pins(t, n))
	}
	if got := n.MustRun("npp", "db", "get", "pieces", v1); got != `{"hash":"`+v1+`","title":"Air","instrument":"Piano"}`+"\n" {
		t.Errorf("document: %s", got)
	}

	dir := t.TempDir()
	write(t, filepath.Join(dir, absentCID), abc("A file", ""))
	r := runIn(t, n, dir, "npp", "pieces", "add", absentCID)
	if want := "Error: " + absentCID + " is a CID, and a file has the same name; hint: ./" + absentCID + " is the file, /ipfs/" + absentCID + " is the CID\n"; r.Code != 1 || r.Stdout != "" || r.Stderr != want {
		t.Errorf("both: %v", r)
	}
	r = runIn(t, n, dir, "npp", "pieces", "add", "./"+absentCID, "/ipfs/"+absentCID)
	if want := "  A file  (Piano, ABC)\nadded      " + absentCID + "  (no title)  (Piano)\n"; r.Code != 0 || !strings.HasSuffix(r.Stdout, want) {
		t.Errorf("one and the other: %v", r)
	}
}

// With --pin, the file is fetched from a peer that has it, parsed and kept.
func TestPinnedPieceComesFromAnotherDaemon(t *testing.T) {
	t.Parallel()
	a, b := quiet(t).Start(), quiet(t).Start()
	content := longPDF("Air", "J. S. Bach", strings.Repeat("%\n", 300<<10))
	dir := folder(t, map[string]string{"air.pdf": content, "in/x": "x"})
	file := strings.TrimSpace(a.MustRun("add", "-Q", filepath.Join(dir, "air.pdf")))
	tree := strings.TrimSpace(a.MustRun("add", "-Qr", dir))
	b.Connect(a)
	row := add(t, b, file, "--pin")[0]
	if row.Title != "Air" || row.Composer != "J. S. Bach" || row.Type != "application/pdf" || row.Size == 0 || row.Name != "" {
		t.Errorf("%+v", row)
	}
	if row := add(t, b, tree, "--pin", "--title=All")[0]; row.Title != "All" || row.Type != "" || row.Outcome != "added" {
		t.Errorf("a folder: %+v", row)
	}
	if got := pins(t, b); len(got) != 2 || got[file] != "npp" || got[tree] != "npp" {
		t.Errorf("pins: %v", got)
	}
	a.Stop()
	b.MustRun("repo", "gc")
	out := filepath.Join(t.TempDir(), "x.pdf")
	b.MustRun("npp", "pieces", "get", file, "-o", out)
	if got, err := os.ReadFile(out); err != nil || string(got) != content {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	refused(t, b, []string{"pieces", "get", tree}, "not a file", "; hint: ipfs get "+tree)
	r := b.Run("npp", "pieces", "add", "--pin", absentCID, "--timeout=1s")
	if r.Code != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("a piece that no peer has: %v", r)
	}
	if rows := decodeLines[pieceRow](t, b.MustRun("npp", "pieces", "ls", "--enc=json")); len(rows) != 2 {
		t.Errorf("%+v", rows)
	}
}

// titlesOf returns the titles of pieces, in order.
func titlesOf(rows []pieceRow) string {
	var titles []string
	for _, r := range rows {
		titles = append(titles, r.Title)
	}
	return strings.Join(titles, ", ")
}

// piecesBy calls a command that lists pieces at the command line or over the
// RPC.
func piecesBy(t *testing.T, way string, n *harness.Node, command string, options url.Values, args ...string) []pieceRow {
	t.Helper()
	out, err := ways[way](t, n, call{command, args, options, nil})
	if err != "" {
		t.Fatalf("%s: %s %q %v: %s", way, command, args, options, err)
	}
	return decodeLines[pieceRow](t, out)
}

func TestPiecesAreListedAndSearched(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	lines := `{"hash":"Qm1","title":"Humoresque No. 7","composer":"Antonín Dvořák","instrument":"Violin","type":"application/pdf","name":"op101.pdf","size":12,"year":1894}
{"hash":"Qm2","title":"Air","composer":"J. S. Bach","instrument":"Violin","type":"error"}
{"hash":"Qm3","title":"Prelude in C","composer":"J. S. Bach","instrument":"piano"}
{"hash":"Qm4","title":"Écossaise","instrument":"Piano","composer":5}
{"hash":"Qm5","instrument":"Double bass"}
{"hash":5,"title":"no piece"}
`
	if r := n.RunStdin(lines, "npp", "db", "put", "pieces", "--many"); r.Code != 0 {
		t.Fatal(r)
	}
	n.MustRun("npp", "practice", "Qm3", "+2")
	n.MustRun("npp", "practice", "Qm4")
	for way := range ways {
		for _, test := range []struct {
			command string
			args    []string
			options url.Values
			want    string
		}{
			{"pieces/ls", nil, nil, ", Écossaise, Prelude in C, Air, Humoresque No. 7"},
			{"pieces/ls", nil, url.Values{"amount": {"2"}}, ", Écossaise"},
			{"pieces/ls", nil, url.Values{"all": {"true"}}, ", Écossaise, Prelude in C, Air, Humoresque No. 7"},
			{"pieces/ls", nil, url.Values{"instrument": {"PIANO"}}, "Écossaise, Prelude in C"},
			{"pieces/ls", nil, url.Values{"instrument": {"pian"}}, ""},
			{"pieces/ls", nil, url.Values{"title": {"e"}, "sort": {"title"}}, "Écossaise, Humoresque No. 7, Prelude in C"},
			{"pieces/ls", nil, url.Values{"composer": {"dvorak"}}, "Humoresque No. 7"},
			{"pieces/ls", nil, url.Values{"text": {"bach air"}}, "Air"},
			{"pieces/ls", nil, url.Values{"composer": {"bach"}, "instrument": {"violin"}}, "Air"},
			{"pieces/ls", nil, url.Values{"sort": {"title"}}, "Air, Écossaise, Humoresque No. 7, Prelude in C, "},
			{"pieces/ls", nil, url.Values{"sort": {"composer"}}, "Humoresque No. 7, Air, Prelude in C, Écossaise, "},
			{"pieces/ls", nil, url.Values{"sort": {"instrument"}, "amount": {"2"}}, ", Écossaise"},
			{"pieces/ls", nil, url.Values{"sort": {"practice"}, "amount": {"2"}}, "Prelude in C, Écossaise"},
			{"pieces/search", []string{"DVORAK", "humor"}, nil, "Humoresque No. 7"},
			{"pieces/search", []string{"op101"}, nil, "Humoresque No. 7"},
			{"pieces/search", []string{"ecossaise"}, url.Values{"own": {"true"}}, "Écossaise"},
			{"pieces/search", []string{"bach"}, url.Values{"sort": {"title"}, "amount": {"1"}}, "Air"},
			{"pieces/search", []string{"nothing", "of", "it"}, nil, ""},
			{"pieces/random", nil, url.Values{"composer": {"dvořák"}}, "Humoresque No. 7"},
		} {
			if got := titlesOf(piecesBy(t, way, n, test.command, test.options, test.args...)); got != test.want {
				t.Errorf("%s: %s %q %v: %s, want %s", way, test.command, test.args, test.options, got, test.want)
			}
		}
		rows := piecesBy(t, way, n, "pieces/search", nil, "humoresque")
		r := rows[0]
		if r.Hash != "Qm1" || r.Composer != "Antonín Dvořák" || r.Instrument != "Violin" || r.Type != "application/pdf" || r.Name != "op101.pdf" || r.Size != 12 ||
			r.Practice != 0 || r.Fields["year"] != 1894.0 || len(r.Owners) != 1 || !r.Owners[0].Self || r.Owners[0].Peer != n.PeerID() {
			t.Errorf("%s: %+v", way, r)
		}
		// The content of a piece cannot turn its line into an error.
		if r := piecesBy(t, way, n, "pieces/show", nil, "Qm2")[0]; r.Type != "unknown" || r.Fields["type"] != "error" {
			t.Errorf("%s: %+v", way, r)
		}
		seen := make(map[string]bool)
		for range 200 {
			seen[piecesBy(t, "RPC", n, "pieces/random", nil)[0].Hash] = true
		}
		if len(seen) != 5 {
			t.Errorf("by chance: %v", seen)
		}
	}
	if got, want := n.MustRun("npp", "pieces", "ls", "--sort=practice", "--amount=1"), "Qm3  Prelude in C                      J. S. Bach            piano       -         2\n"; got != want {
		t.Errorf("text: %q, want %q", got, want)
	}
	if got, want := n.MustRun("npp", "pieces", "search", "op101"), "Qm1  Humoresque No. 7                  Antonín Dvořák        Violin      PDF       0      you\n"; got != want {
		t.Errorf("text: %q, want %q", got, want)
	}
	if got, want := n.MustRun("npp", "pieces", "show", "Qm1"), `hash        Qm1
title       Humoresque No. 7
composer    Antonín Dvořák
instrument  Violin
type        application/pdf
name        op101.pdf
size        12 bytes
practised   0 times
owner       you
year        1894
`; got != want {
		t.Errorf("show: %s", got)
	}
	if got := n.MustRun("npp", "pieces", "show", "Qm4"); !strings.Contains(got, "\ncomposer    5\n") {
		t.Errorf("a composer that is none: %s", got)
	}
	for _, args := range [][]string{{"search", "nothing"}, {"ls", "--title=nothing"}} {
		if r := n.Run(append([]string{"npp", "pieces"}, args...)...); r.Code != 0 || r.Stdout != "" || !strings.HasSuffix(r.Stderr, " match\n") && r.Stderr != "no piece matches\n" {
			t.Errorf("%q: %v", args, r)
		}
	}
}

// A piece is identified by any form of its hash, or by a prefix that no other
// hash has.
func TestPieceIsNamedByAnySpellingOfItsHash(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	v1 := spelled(t, otherCID, multibase.Base32)
	add(t, n, someCID, "--title=One")
	add(t, n, v1, "--title=Two")
	add(t, n, "QmNTUPZjm1LmbZYRpqcR9grefwCBfRcwqZeSYGNUJ1GuV1", "--title=Three\t")
	for called, want := range map[string]string{
		someCID:                                   "One",
		"/ipfs/" + someCID:                        "One",
		spelled(t, someCID, multibase.Base32):     "One",
		spelled(t, someCID, multibase.Base36):     "One",
		spelled(t, someCID, multibase.Base16):     "One",
		someCID[:4]:                               "One",
		otherCID:                                  "Two",
		spelled(t, otherCID, multibase.Base64url): "Two",
		"b":    "Two",
		"QmNT": "Three\t",
	} {
		for way := range ways {
			if got := titlesOf(piecesBy(t, way, n, "pieces/show", nil, called)); got != want {
				t.Errorf("%s: %s: %q, want %q", way, called, got, want)
			}
		}
	}
	for way, f := range ways {
		_, err := f(t, n, call{"pieces/show", []string{"QmN"}, nil, nil})
		if !strings.HasPrefix(err, `the hashes of several pieces begin with "QmN": `+someCID+` (One), QmNTUPZjm1LmbZYRpqcR9grefwCBfRcwqZeSYGNUJ1GuV1 (Three\t); hint: type more`) {
			t.Errorf("%s: %s", way, err)
		}
	}
	if got := n.MustRun("npp", "practice", spelled(t, otherCID, multibase.Base36)); got != "practised 1 time  Two\n" {
		t.Errorf("practice: %s", got)
	}
	// A removal for one argument does not change the meaning of another
	// argument.
	r := n.Run("npp", "pieces", "rm", "QmNT", "QmN")
	if r.Code != 1 || strings.Count(r.Stdout, "\n") != 2 || !strings.HasPrefix(r.Stdout, "removed  QmNTUPZ") || !strings.Contains(r.Stdout, `failed   QmN: the hashes of several pieces begin with "QmN"`) || r.Stderr != "Error: 1 of 2 failed\n" {
		t.Errorf("rm: %v", r)
	}
	if got := titlesOf(piecesBy(t, "RPC", n, "pieces/ls", nil)); got != "Two, One" {
		t.Errorf("left: %s", got)
	}
}

// The file is written unchanged and atomically, and never replaces another.
func TestFileOfAPieceIsWrittenWhole(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	content := pdf("Air", "") + strings.Repeat("\x00\xffabc", 200<<10)
	dir := folder(t, map[string]string{"air.pdf": content, "out/keep.txt": "keep"})
	hash := add(t, n, filepath.Join(dir, "air.pdf"))[0].Hash
	out := filepath.Join(dir, "out")
	check := func(name string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != content {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		os.Remove(filepath.Join(out, name))
		if entries, _ := os.ReadDir(out); len(entries) != 1 {
			t.Errorf("%s: there is more: %v", name, entries)
		}
	}
	if r := runIn(t, n, out, "npp", "pieces", "get", hash); r.Code != 0 || r.Stdout != fmt.Sprintf("got %d bytes: air.pdf\n", len(content)) || r.Stderr != "" {
		t.Errorf("get: %v", r)
	}
	if r := runIn(t, n, out, "npp", "pieces", "get", hash); r.Code != 1 || r.Stdout != "" || r.Stderr != "Error: the file air.pdf exists; hint: --force replaces it, and -o <file> writes another one\n" {
		t.Errorf("again: %v", r)
	}
	check("air.pdf")
	write(t, filepath.Join(out, "air.pdf"), "old")
	if r := runIn(t, n, out, "npp", "pieces", "get", hash, "--force", "--enc=json"); r.Code != 0 || r.Stdout != fmt.Sprintf(`{"file":"air.pdf","bytes":%d,"hash":"%s"}`+"\n", len(content), hash) {
		t.Errorf("--force: %v", r)
	}
	check("air.pdf")
	if r := runIn(t, n, dir, "npp", "pieces", "get", spelled(t, hash, multibase.Base36), "-o", "out"); r.Code != 0 {
		t.Errorf("to a folder: %v", r)
	}
	check("air.pdf")
	if r := runIn(t, n, dir, "npp", "pieces", "get", hash[:20], "-o", "out/x.pdf"); r.Code != 0 {
		t.Errorf("to a file: %v", r)
	}
	check("x.pdf")
	if r := runIn(t, n, out, "npp", "pieces", "get", hash, "-o", "-"); r.Code != 0 || r.Stdout != content || r.Stderr != "" {
		t.Errorf("to standard output: %d bytes", len(r.Stdout))
	}
	if r := runIn(t, n, out, "npp", "pieces", "get", hash, "-o", "keep.txt"); r.Code != 1 {
		t.Errorf("over another: %v", r)
	}
	if got, _ := os.ReadFile(filepath.Join(out, "keep.txt")); string(got) != "keep" {
		t.Error("a file was replaced")
	}
	if r := runIn(t, n, out, "npp", "pieces", "get", hash, "-o", "nowhere/x.pdf"); r.Code != 1 || !strings.HasPrefix(r.Stderr, "Error: stat nowhere: ") {
		t.Errorf("to nowhere: %v", r)
	}
	if got := rpc(t, n, "npp/pieces/get", url.Values{"arg": {hash}}); got != content {
		t.Errorf("RPC: %d bytes", len(got))
	}
	if status, answer := n.RPC("npp/pieces/get", url.Values{"arg": {hash}, "output": {"/tmp/x"}}, nil); status != http.StatusInternalServerError || !strings.Contains(answer, "--output works only at the command line") {
		t.Errorf("a file of the daemon's: %d: %s", status, answer)
	}
	empty := add(t, n, filepath.Join(folder(t, map[string]string{"empty": ""}), "empty"))[0].Hash
	if r := runIn(t, n, out, "npp", "pieces", "get", empty); r.Code != 0 || r.Stdout != "got 0 bytes: empty\n" {
		t.Errorf("an empty file: %v", r)
	}
	os.Remove(filepath.Join(out, "empty"))
	// The name was chosen by the writer of the document.
	for name, want := range map[string]string{
		"../../etc/passwd":                "passwd",
		`..\..\evil.pdf`:                  "evil.pdf",
		".bashrc":                         "bashrc",
		"-rf":                             "rf",
		"a\x1b[31m\nb\u202e.x":            "a[31mb.x",
		"..":                              hash + ".pdf",
		"":                                hash + ".pdf",
		strings.Repeat("ü", 300) + ".pdf": strings.Repeat("ü", 98) + ".pdf",
	} {
		doc, err := json.Marshal(map[string]string{"hash": hash, "name": name, "type": "application/pdf"})
		if err != nil {
			t.Fatal(err)
		}
		put(t, n, "pieces", string(doc))
		if r := runIn(t, n, out, "npp", "pieces", "get", hash); r.Code != 0 {
			t.Errorf("%q: %v", name, r)
		}
		check(want)
	}
	put(t, n, "pieces", `{"hash":"`+hash+`","type":"image/png","title":"Air: on a/the G string"}`)
	if r := runIn(t, n, out, "npp", "pieces", "get", hash); r.Code != 0 || !strings.HasSuffix(r.Stdout, ": Air- on a-the G string.png\n") {
		t.Errorf("by title: %v", r)
	}
	check("Air- on a-the G string.png")
	put(t, n, "pieces", `{"hash":"no CID"}`)
	refused(t, n, []string{"pieces", "get", "no CID"}, `the hash "no CID" of the piece is not a CID`)
}

// A file is fetched from a companion. A failed fetch leaves nothing, and the
// error names the owners.
func TestFileOfACompanionsPieceIsFetched(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "Alice"), musician(t, "bob")
	content := strings.Repeat("%PDF-1.4 ", 100_000)
	dir := folder(t, map[string]string{"air.pdf": content, "half.bin": strings.Repeat("half", 150_000), "out/x": "x"})
	hash := add(t, alice, filepath.Join(dir, "air.pdf"), "--title=Air")[0].Hash
	add(t, alice, absentCID, "--title=Lost")
	// For one file, all blocks but the last are there.
	half := strings.TrimSpace(alice.MustRun("add", "-Q", "--pin=false", filepath.Join(dir, "half.bin")))
	blocks := strings.Fields(alice.MustRun("refs", half))
	alice.MustRun("block", "rm", blocks[len(blocks)-1])
	add(t, alice, half, "--title=Half")
	bob.Connect(alice)
	follow(t, bob, alice)
	eventually(t, "Alice's pieces", func() bool { return piecesOf(t, bob, alice) == 3 })

	out := filepath.Join(dir, "out")
	get := func(args ...string) harness.Result {
		t.Helper()
		return runIn(t, bob, out, append([]string{"npp", "pieces", "get", "--stall-timeout=2s"}, args...)...)
	}
	nothing := func() {
		t.Helper()
		if entries, _ := os.ReadDir(out); len(entries) != 1 {
			t.Errorf("there is something: %v", entries)
		}
	}
	for _, lost := range []string{absentCID, half} {
		r := get(lost)
		if want := "Error: nothing of the file " + lost + " arrived for 2s, and the piece belongs to Alice, which is connected; hint: try again, or ask"; r.Code != 1 || r.Stdout != "" || !strings.HasPrefix(r.Stderr, want) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %v", lost, r)
		}
		nothing()
	}
	if r := get(hash); r.Code != 0 {
		t.Errorf("get: %v", r)
	}
	if got, err := os.ReadFile(filepath.Join(out, "air.pdf")); err != nil || string(got) != content {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	os.Remove(filepath.Join(out, "air.pdf"))
	alice.Stop()
	eventually(t, "Alice is gone", func() bool { return !companions(t, bob)[alice.PeerID()].Connected })
	r := get(absentCID)
	if want := "the piece belongs to Alice, which is not connected; hint: ipfs npp connect " + alice.PeerID() + ", and try again\n"; r.Code != 1 || !strings.HasSuffix(r.Stderr, want) {
		t.Errorf("Alice is away: %v", r)
	}
	add(t, bob, otherCID)
	if r := get(otherCID); r.Code != 1 || !strings.Contains(r.Stderr, ", and no companion has the piece; hint: connect to a peer that has the file: ipfs npp connect <peer>") {
		t.Errorf("one's own: %v", r)
	}
	status, answer := bob.RPC("npp/pieces/get", url.Values{"arg": {otherCID}, "stall-timeout": {"1s"}}, nil)
	if status != http.StatusInternalServerError || !strings.Contains(answer, "arrived for 1s") {
		t.Errorf("RPC: %d: %s", status, answer)
	}
	nothing()
	// An interrupted fetch leaves nothing, either.
	cmd := bob.Command("npp", "pieces", "get", half)
	cmd.Dir = out
	terminal, user := openTerminal(t)
	cmd.Stderr = terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitShown(t, user, "\r524288 of 600000 bytes")
	cmd.Process.Signal(os.Interrupt)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("interrupted: %v", cmd.ProcessState)
	}
	nothing()
}

// Two companions have the same piece: it is listed once, in whatever form its
// hash is written.
func TestPiecesOfCompanionsAreListedWithOnesOwn(t *testing.T) {
	t.Parallel()
	alice, bob := musician(t, "Alice"), musician(t, "bob")
	add(t, alice, someCID, "--title=Air of Alice")
	add(t, alice, otherCID, "--title=Alone", "--instrument=Violin")
	add(t, bob, spelled(t, someCID, multibase.Base32), "--title=Air")
	alice.MustRun("npp", "practice", someCID, "2")
	bob.Connect(alice)
	follow(t, bob, alice)
	count := func() string { return bob.MustRun("npp", "pieces", "ls", "--title=air") }
	eventually(t, "Alice's counts", func() bool { return strings.HasSuffix(count(), "  0/2\n") })
	if got := bob.MustRun("npp", "practice", someCID, "+3"); got != "practised 3 times (5 with companions)  Air\n" {
		t.Errorf("practice: %s", got)
	}
	for way := range ways {
		pieces := piecesBy(t, way, bob, "pieces/ls", url.Values{"all": {"true"}, "sort": {"title"}})
		if titlesOf(pieces) != "Air, Alone" {
			t.Fatalf("%s: %+v", way, pieces)
		}
		if p := pieces[0]; p.Practice != 3 || p.PracticeAll != 5 || len(p.Owners) != 2 || !p.Owners[0].Self || p.Owners[1].Name != "Alice" || p.Owners[1].Peer != alice.PeerID() {
			t.Errorf("%s: %+v", way, p)
		}
		if p := pieces[1]; len(p.Owners) != 1 || p.Owners[0].Self {
			t.Errorf("%s: %+v", way, p)
		}
		if got := titlesOf(piecesBy(t, way, bob, "pieces/search", nil, "alone")); got != "Alone" {
			t.Errorf("%s: search: %s", way, got)
		}
		if got := titlesOf(piecesBy(t, way, bob, "pieces/search", url.Values{"own": {"true"}}, "alone")); got != "" {
			t.Errorf("%s: search --own: %s", way, got)
		}
		if got := titlesOf(piecesBy(t, way, bob, "pieces/random", url.Values{"all": {"true"}, "instrument": {"violin"}})); got != "Alone" {
			t.Errorf("%s: random: %s", way, got)
		}
	}
	if got := bob.MustRun("npp", "pieces", "ls", "--all", "--title=a", "--sort=title"); !strings.Contains(got, "  3/5    you, Alice\n") || !strings.HasSuffix(got, "  0      Alice\n") {
		t.Errorf("text: %s", got)
	}
	if got := bob.MustRun("npp", "pieces", "show", otherCID[:5]); !strings.Contains(got, "\nowner       Alice, "+alice.PeerID()+"\n") {
		t.Errorf("show: %s", got)
	}
	for _, command := range [][]string{{"pieces", "update", otherCID, "--title=Mine"}, {"pieces", "rm", otherCID}} {
		refused(t, bob, command, "the piece "+otherCID+" belongs to Alice, not to you; hint: ipfs npp pieces add "+otherCID+" adds it to your pieces")
	}
	if got := bob.MustRun("npp", "practice", otherCID); got != "practised 1 time  Alone\n" {
		t.Errorf("practice: %s", got)
	}
	refused(t, bob, []string{"practice", absentCID}, noPiece)
	// Companions whose pieces have not arrived are reported, and do not prevent
	// the list.
	put(t, alice, "user", "pieces", `"`+nowhere+`"`)
	eventually(t, "a warning", func() bool {
		_, notes := catalog(t, bob)
		return len(notes) == 1 && strings.HasPrefix(notes[0], "the pieces of Alice are not listed: ")
	})
	r := bob.Run("npp", "pieces", "search", "air")
	if r.Code != 0 || r.Stderr != "" || !strings.HasPrefix(r.Stdout, "note: the pieces of Alice are not listed: not here yet\n") || !strings.HasSuffix(r.Stdout, "  3/5    you\n") && !strings.HasSuffix(r.Stdout, "  3      you\n") {
		t.Errorf("search: %v", r)
	}
}

func TestPieceIsUpdated(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	add(t, n, someCID, "--title=Air", "--composer=Bach")
	document := func() string { return n.MustRun("npp", "db", "get", "pieces", someCID) }
	for way, f := range ways {
		for _, test := range []struct {
			options url.Values
			outcome string
			want    string
		}{
			{url.Values{"title": {"Gigue"}}, "updated", `{"hash":"` + someCID + `","title":"Gigue","composer":"Bach","instrument":"Piano"}`},
			{url.Values{"title": {"Gigue"}}, "unchanged", `{"hash":"` + someCID + `","title":"Gigue","composer":"Bach","instrument":"Piano"}`},
			{url.Values{"set": {"year=1720", `tags=["a",{"b":null}]`, "note=for sunday = fun", "key=\"C\""}}, "updated",
				`{"key":"C","hash":"` + someCID + `","note":"for sunday = fun","tags":["a",{"b":null}],"year":1720,"title":"Gigue","composer":"Bach","instrument":"Piano"}`},
			{url.Values{"set": {"year=null", "tags=null", "note=null", "key=null"}, "composer": {""}, "instrument": {"Flute"}}, "updated",
				`{"hash":"` + someCID + `","title":"Gigue","instrument":"Flute"}`},
			{url.Values{"title": {"Air"}, "composer": {"Bach"}, "instrument": {"Piano"}}, "updated", `{"hash":"` + someCID + `","title":"Air","composer":"Bach","instrument":"Piano"}`},
		} {
			out, err := f(t, n, call{"pieces/update", []string{spelled(t, someCID, multibase.Base36)}, test.options, nil})
			if err != "" {
				t.Errorf("%s: %v: %s", way, test.options, err)
				continue
			}
			if row := decodeLines[addRow](t, out)[0]; row.Outcome != test.outcome || row.Hash != someCID {
				t.Errorf("%s: %v: %+v", way, test.options, row)
			}
			if got := document(); got != test.want+"\n" {
				t.Errorf("%s: %v: %s, want %s", way, test.options, got, test.want)
			}
		}
	}
	if got := n.MustRun("npp", "pieces", "update", someCID[:8], "--title=Air\u202e"); got != "updated    "+someCID+`  Air\u202e  (Bach, Piano)`+"\n" {
		t.Errorf("text: %s", got)
	}
}

// A removal unpins exactly what adding has pinned; until then it stays pinned.
func TestRemovingAPieceUnpinsWhatAddingPinned(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	dir := folder(t, map[string]string{"a.abc": abc("A", ""), "b.abc": abc("B", ""), "c.abc": abc("C", "")})
	own := strings.TrimSpace(n.MustRun("add", "-Q", filepath.Join(dir, "b.abc")))
	var hashes []string
	for _, r := range add(t, n, dir)[:3] {
		hashes = append(hashes, r.Hash)
	}
	if hashes[1] != own {
		t.Fatalf("%v, want %s", hashes, own)
	}
	add(t, n, absentCID)
	if got := pins(t, n); len(got) != 3 || got[hashes[0]] != "npp" || got[own] != "" || got[hashes[2]] != "npp" {
		t.Errorf("pins: %v", got)
	}
	n.MustRun("repo", "gc")
	for _, hash := range hashes {
		n.MustRun("cat", "--offline", hash)
	}
	out, err := ways["RPC"](t, n, call{"pieces/rm", []string{hashes[0], own, absentCID}, nil, nil})
	rows := decodeLines[struct {
		Piece, Hash, Title, Error string
		Removed, Unpinned         bool
	}](t, out)
	if err != "" || len(rows) != 3 || !rows[0].Removed || !rows[0].Unpinned || rows[0].Title != "A" || !rows[1].Removed || rows[1].Unpinned || !rows[2].Removed || rows[2].Unpinned {
		t.Errorf("rm: %+v, %s", rows, err)
	}
	if got := n.MustRun("npp", "pieces", "rm", hashes[2][:10]); got != "removed  "+hashes[2]+"  C, and unpinned its file\n" {
		t.Errorf("text: %s", got)
	}
	if got := pins(t, n); len(got) != 1 || got[own] != "" {
		t.Errorf("pins: %v", got)
	}
	n.MustRun("repo", "gc")
	n.MustRun("cat", "--offline", own)
	if r := n.Run("cat", "--offline", hashes[0]); r.Code != 1 {
		t.Errorf("the file still exists: %v", r)
	}
	if got := n.MustRun("npp", "pieces", "ls", "--enc=json"); got != "" {
		t.Errorf("left: %s", got)
	}
	refused(t, n, []string{"pieces", "rm", hashes[0]}, noPiece)
	r := n.Run("npp", "pieces", "ls")
	if r.Code != 0 || r.Stdout != "" || r.Stderr != "no piece matches\n" {
		t.Errorf("ls: %v", r)
	}
}

// Counting needs no other peer, and counts for the piece in whatever form its
// hash is written.
func TestPracticeIsCounted(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	add(t, n, someCID, "--title=Air")
	want := uint64(0)
	for way, f := range ways {
		for _, test := range []struct {
			args []string
			more uint64
		}{
			{[]string{someCID}, 1},
			{[]string{someCID[:8], "3"}, 3},
			{[]string{spelled(t, someCID, multibase.Base16), "+4"}, 4},
			{[]string{someCID, "1000000"}, 1000000},
		} {
			out, err := f(t, n, call{"practice", test.args, nil, nil})
			if err != "" {
				t.Fatalf("%s: %q: %s", way, test.args, err)
			}
			want += test.more
			if r := decodeLines[pieceRow](t, out)[0]; r.Practice != want || r.PracticeAll != want || r.Hash != someCID || r.Title != "Air" {
				t.Errorf("%s: %q: %+v, want %d", way, test.args, r, want)
			}
		}
		if r := piecesBy(t, way, n, "pieces/ls", nil)[0]; r.Practice != want || r.PracticeAll != want {
			t.Errorf("%s: %+v", way, r)
		}
	}
	// In a URL, a plus sign is a space.
	resp, err := http.Post(n.APIURL()+"npp/practice?arg="+someCID+"&arg=+2", "", nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	n.Stop()
	n.Start()
	if got := n.MustRun("npp", "pieces", "show", someCID); !strings.Contains(got, fmt.Sprintf("\npractised   %d times\n", want+2)) {
		t.Errorf("after a restart: %s", got)
	}
}

// A refused command states the reason and a remedy, and changes nothing.
func TestPieceCommandsRefuseBadInput(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	add(t, n, someCID, "--title=Air")
	put(t, n, "pieces", `{"hash":"no CID","title":"x"}`)
	state := func() string {
		return n.MustRun("npp", "pieces", "ls", "--enc=json") + fmt.Sprint(pins(t, n)) + n.MustRun("npp", "db", "all", "practice")
	}
	before := state()
	long := strings.Repeat("Q", 300)
	option := func(name, value string) url.Values { return url.Values{name: {value}} }
	for _, test := range []struct {
		call
		want []string
	}{
		{call{"pieces/ls", nil, option("sort", "size"), nil}, []string{`--sort is "size", but must be newest, title, composer, instrument or practice`}},
		{call{"pieces/ls", nil, option("sort", ""), nil}, []string{`--sort is ""`}},
		{call{"pieces/ls", nil, option("amount", "0"), nil}, []string{"--amount is 0, but must be 1 or more"}},
		{call{"pieces/search", []string{"x"}, option("amount", "-1"), nil}, []string{"--amount is -1"}},
		{call{"pieces/search", []string{"x"}, option("sort", "\x1b[31m"), nil}, []string{`--sort is "\x1b[31m"`}},
		{call{"pieces/search", []string{" "}, nil, nil}, []string{"there is nothing to search for; hint: "}},
		{call{"pieces/random", nil, option("instrument", "Kazoo"), nil}, []string{"no piece matches; hint: ipfs npp pieces ls"}},
		{call{"pieces/show", []string{absentCID}, nil, nil}, []string{noPiece + ` "` + absentCID + `" or a hash that begins with it; hint: find the piece with ipfs npp pieces ls --all, or ipfs npp pieces search`}},
		{call{"pieces/show", []string{"../\x1b[31m"}, nil, nil}, []string{noPiece + ` "../\x1b[31m"`}},
		{call{"pieces/show", []string{long}, nil, nil}, []string{"invalid: a hash has 1 to 256 bytes"}},
		{call{"pieces/show", []string{" "}, nil, nil}, []string{"invalid: a hash has 1 to 256 bytes"}},
		{call{"pieces/show", []string{"/ipfs/"}, nil, nil}, []string{"invalid: a hash has 1 to 256 bytes"}},
		{call{"pieces/get", []string{absentCID}, nil, nil}, []string{noPiece}},
		{call{"pieces/get", []string{someCID}, option("stall-timeout", "soon"), nil}, []string{`--stall-timeout is "soon", but must be a duration`}},
		{call{"pieces/get", []string{"no CID"}, nil, nil}, []string{`the hash "no CID" of the piece is not a CID`}},
		{call{"pieces/update", []string{someCID}, nil, nil}, []string{"there is nothing to update; hint: use --title"}},
		{call{"pieces/update", []string{absentCID}, option("title", "x"), nil}, []string{noPiece}},
		{call{"pieces/update", []string{someCID}, option("instrument", " "), nil}, []string{"the instrument is empty; hint: "}},
		{call{"pieces/update", []string{someCID}, option("title", "a\nb"), nil}, []string{"title has more than one line; hint: "}},
		{call{"pieces/update", []string{someCID}, option("title", strings.Repeat("x", 1025)), nil}, []string{"the title has 1025 bytes, at most 1024 are allowed; hint: "}},
		{call{"pieces/update", []string{someCID}, option("set", "year"), nil}, []string{`--set is "year", but must be key=value; hint: `}},
		{call{"pieces/update", []string{someCID}, option("set", "=1"), nil}, []string{`--set is "=1"`}},
		{call{"pieces/update", []string{someCID}, option("set", "hash=1"), nil}, []string{`field "hash" cannot be set as a further field; hint: `}},
		{call{"pieces/update", []string{someCID}, option("set", "size=1"), nil}, []string{`field "size"`}},
		{call{"pieces/update", []string{someCID}, option("set", "x="+strings.Repeat("x", 9000)+strings.Repeat("[", 3000)), nil}, nil}, // a text
		{call{"pieces/rm", []string{absentCID}, nil, nil}, []string{noPiece}},
		{call{"practice", []string{absentCID}, nil, nil}, []string{noPiece, "hint: "}},
		{call{"practice", []string{someCID, "0"}, nil, nil}, []string{`"0" is not a number of times from 1 to 1000000; hint: `}},
		{call{"practice", []string{someCID, "1000001"}, nil, nil}, []string{"is not a number of times"}},
		{call{"practice", []string{someCID, "-1"}, nil, nil}, []string{"is not a number of times"}},
		{call{"practice", []string{someCID, "++1"}, nil, nil}, []string{"is not a number of times"}},
		{call{"practice", []string{someCID, "1e3"}, nil, nil}, []string{"is not a number of times"}},
		{call{"practice", []string{someCID, strings.Repeat("9", 400)}, nil, nil}, []string{"is not a number of times"}},
	} {
		for name, way := range ways {
			if name == "CLI" && test.command == "pieces/get" {
				continue // this command writes files
			}
			out, err := way(t, n, test.call)
			if test.want == nil {
				if err != "" {
					t.Errorf("%s: %s: %s", name, test.command, err)
				}
				n.MustRun("npp", "pieces", "update", someCID, "--set=x=null")
				before = state()
				continue
			}
			if out != "" {
				t.Errorf("%s: %s %q: %s", name, test.command, test.args, out)
			}
			for _, want := range test.want {
				if !strings.Contains(err, want) || strings.Contains(err, "\n") || len(err) > 500 {
					t.Errorf("%s: %s %.80q %.80v: error is %q, want %q", name, test.command, test.args, test.options, err, want)
				}
			}
		}
	}
	dir := folder(t, map[string]string{"a.abc": abc("A", ""), "b/c.abc": abc("C", "")})
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	a := filepath.Join(dir, "a.abc")
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "there is nothing to add; hint: "},
		{[]string{a, "nothing"}, `"nothing" is neither a file nor a CID`},
		{[]string{someCID + "x"}, "is neither a file nor a CID"},
		{[]string{"/ipfs/" + someCID + "/air.pdf"}, "is neither a file nor a CID"},
		{[]string{a + "/x"}, "not a directory"},
		{[]string{fifo}, "is neither a file nor a folder"},
		{[]string{a, someCID, "--title=x"}, "--title is for a single piece"},
		{[]string{a, filepath.Join(dir, "b/c.abc"), "--title=x"}, "--title is for a single piece"},
		{[]string{dir, "--title=x"}, "--title is for a single piece"},
		{[]string{a, "--instrument="}, "the instrument is empty"},
		{[]string{dir, "--composer=a\nb"}, "composer has more than one line"},
		{[]string{absentCID, "--composer=" + strings.Repeat("x", 2000)}, "the composer has 2000 bytes"},
	} {
		refused(t, n, append([]string{"pieces", "add"}, test.args...), test.want)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{absentCID}, noPiece},
		{[]string{"no CID"}, "is not a CID"},
		{[]string{someCID, "--stall-timeout=0s"}, "--stall-timeout is "},
		{[]string{someCID, "-o", a}, "the file " + a + " exists; hint: --force"},
	} {
		refused(t, n, append([]string{"pieces", "get"}, test.args...), test.want)
	}
	if after := state(); after != before {
		t.Errorf("a refused command changed something: %s\nbefore: %s", after, before)
	}
}

// A damaged piece is reported with a remedy, and does not affect the others.
func TestDamagedPieceIsNamedAndNoOtherIsMissing(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	for _, hash := range []string{someCID, otherCID, absentCID} {
		add(t, n, hash)
	}
	address := storesOf(t, n)["pieces"]
	n.Stop()
	edit(t, n, fmt.Sprintf("log/%d/entry/0/2", numberOf(t, n, address)), func(record []byte) []byte {
		record[len(record)-1] ^= 1
		return record
	})
	n.Start()
	for way, f := range ways {
		out, err := f(t, n, call{"pieces/ls", nil, nil, nil})
		rows := decodeLines[pieceRow](t, out)
		if len(rows) != 3 || !strings.Contains(rows[1].Warning, "damaged block") || rows[0].Hash != absentCID || rows[2].Hash != someCID ||
			err != "1 piece is damaged; hint: ipfs npp db rebuild pieces" {
			t.Errorf("%s: %+v, %s", way, rows, err)
		}
	}
	r := n.Run("npp", "pieces", "ls")
	if r.Code != 1 || strings.Count(r.Stdout, "\n") != 3 || !strings.Contains(r.Stdout, "\nnote: damaged block: ") || r.Stderr != "Error: 1 piece is damaged; hint: ipfs npp db rebuild pieces\n" {
		t.Errorf("text: %v", r)
	}
	n.MustRun("npp", "db", "rebuild", "pieces")
	if got := len(piecesBy(t, "CLI", n, "pieces/ls", nil)); got != 2 {
		t.Errorf("rebuilt: %d pieces", got)
	}

	n.Stop()
	damage(t, n, address)
	n.Start()
	const want = "; hint: ipfs npp db rebuild pieces"
	dir := folder(t, map[string]string{"a.abc": abc("A", ""), "b.abc": abc("B", "")})
	for _, args := range [][]string{
		{"pieces", "ls"}, {"pieces", "random"}, {"pieces", "show", someCID}, {"pieces", "rm", someCID}, {"pieces", "update", someCID, "--title=x"},
		{"pieces", "add", someCID}, {"pieces", "add", dir}, {"practice", someCID},
	} {
		refused(t, n, args, "damaged log of "+address, want)
	}
	r = n.Run("npp", "pieces", "search", "a")
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "note: your own pieces are not listed: ") || !strings.HasSuffix(r.Stdout, want+"\n") {
		t.Errorf("search: %v", r)
	}
}

// The first of many pieces is printed at once, and a reader that stops early
// ends the whole command.
func TestManyPiecesAreListedAsTheyAreRead(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	var many strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&many, `{"hash":"Qm%d","title":"Etude %d","instrument":"Piano","text":%q}`+"\n", i, i, strings.Repeat("x", 1000))
	}
	if r := n.RunStdin(many.String(), "npp", "db", "put", "pieces", "--many"); r.Code != 0 {
		t.Fatal(r)
	}
	resp, err := http.Post(n.APIURL()+"npp/pieces/ls", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var first pieceRow
	if err := json.NewDecoder(resp.Body).Decode(&first); err != nil || first.Hash != "Qm2999" {
		t.Errorf("%+v, %v", first, err)
	}
	resp.Body.Close()
	eventually(t, "the command has ended", func() bool {
		var active []struct {
			Command string
			Active  bool
		}
		if err := json.Unmarshal([]byte(rpc(t, n, "diag/cmds", nil)), &active); err != nil {
			t.Fatal(err)
		}
		for _, a := range active {
			if a.Active && strings.Contains(a.Command, "pieces/ls") {
				return false
			}
		}
		return true
	})
	cmd := n.Command("npp", "pieces", "ls")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "Qm2999 ") {
		t.Errorf("%q, %v", line, err)
	}
	out.Close() // as head -1 does
	var exit interface{ ExitCode() int }
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	if got := len(piecesBy(t, "CLI", n, "pieces/ls", nil)); got != 3000 {
		t.Errorf("%d pieces", got)
	}
}
