package sheet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gabriel-vasile/mimetype"

	"github.com/newpieceplease/npp/library/sheet"
)

func read(t testing.TB, content string) sheet.Sheet {
	t.Helper()
	s, err := sheet.Read(context.Background(), strings.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type example struct{ name, content, title, composer string }

func check(t *testing.T, kind sheet.Kind, media, extension string, examples []example) {
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			want := sheet.Sheet{Kind: kind, MediaType: media, Extension: extension, Title: e.title, Composer: e.composer}
			if got := read(t, e.content); got != want {
				t.Errorf("got  %+q\nwant %+q", got, want)
			}
		})
	}
}

func pdfs() []example {
	stream, extra := objects(air)
	utf16 := func(s string) string { return "<FEFF" + hex.EncodeToString([]byte(wide(binary.BigEndian, s))) + ">" }
	return []example{
		{"table", pdf(air, ""), "Air", "J. S. Bach"},
		{"nothing", pdf("<<>>", ""), "", ""},
		{"only its beginning", "%PDF-1.7\n", "", ""},
		{"byte order mark before", "\ufeff\n" + pdf(air, ""), "Air", "J. S. Bach"},
		{"mail before", "Content-Type: application/pdf\r\n\r\n" + pdf(air, ""), "Air", "J. S. Bach"},
		{"after it more", pdf(air, "") + strings.Repeat("\n", 500), "Air", "J. S. Bach"},
		{"saved", saved(pdf(air, ""), "<</Title(Badinerie)>>"), "Badinerie", ""},
		{"saved, but not this", strings.Replace(saved(pdf(air, ""), air), "4 1\n", "9 1\n", 1), "Air", "J. S. Bach"},
		{"streams", packed(stream, extra, 2), "Air", "J. S. Bach"},
		{"all predictors", packed(stream, extra, 0, 1, 2, 3, 4), "Air", "J. S. Bach"},
		{"gaps", strings.Replace(packed(stream, extra, 2), "[0 2 2 6]", "[3 1 9 3 4 4]", 1), "Air", "J. S. Bach"},
		{"broken object stream", packed(stream[:9], extra, 2), "", ""},
		{"references", pdf("<</Title 5 0 R/Author 6 0 R>>", "", "(Air)", "(J. S. Bach)"), "Air", "J. S. Bach"},
		{"reference to itself", pdf("<</Title 4 0 R/Author 5 0 R>>", "", "5 0 R"), "", ""},
		{"UTF-16", pdf("<</Title "+utf16("Dvořák: Rusalka 𝄞")+"/Author "+utf16("Antonín\nDvořák")+">>", ""), "Dvořák: Rusalka 𝄞", "Antonín Dvořák"},
		{"UTF-8", pdf("<</Title(\\357\\273\\277Pr\u00e9lude)/Author(\xef\xbb\xbfChopin)>>", ""), "Prélude", "Chopin"},
		{"UTF-8 unmarked", pdf("<</Title(Prélude)>>", ""), "Prélude", ""},
		{"UTF-16, half a rune", pdf("<</Title<FEFFD8000041>>>", ""), "A", ""},
		{"PDFDocEncoding", pdf("<</Title(Pr\\351lude \\204 \x8dAir\x8e)/Author(\x97ulek)>>", ""), "Prélude — “Air”", "Šulek"},
		{"escapes", pdf("<</T#69tle % of it\n(a \\(b\\) (c) \\\\ d\\\r\ne\\53)/Author<4A2E 205>>>", ""), `a (b) (c) \ de+`, "J. P"},
		{"no titles", pdf("<</Title(Microsoft Word - air.doc)/Author(MuseScore Version: 3.6)/Creator(x)>>", ""), "", ""},
		{"untitled", pdf("<</Title(Untitled)/Author(unknown)>>", ""), "", ""},
		{"author is the program", pdf("<</Title(Air)/Author(Engraver 7)/Creator(Engraver 7)>>", ""), "Air", ""},
		{"author is a program", pdf("<</Title(Air)/Author(Sibelius 7.5)>>", ""), "Air", ""},
		{"author is no program", pdf("<</Title(Finale)/Author(Sibelius)>>", ""), "Finale", "Sibelius"},
		{"encrypted", pdf(air, "/Encrypt 5 0 R", "<</Filter/Standard>>"), "", ""},
		{"wrong elsewhere", strings.Replace(pdf(air, ""), "/Resources<<>>", "/Resources[7 ]", 1), "Air", "J. S. Bach"},
		{"no cross references", strings.Replace(pdf(air, ""), "xref", "xxxx", 1), "", ""},
		{"other object", strings.Replace(pdf(air, ""), "4 0 obj", "5 0 obj", 1), "", ""},
	}
}

func TestPDF(t *testing.T) {
	check(t, sheet.PDF, "application/pdf", ".pdf", pdfs())
}

const identified = `<work><work-title>Orchestral Suite No. 3</work-title></work>
<movement-title>Air</movement-title>
<identification><creator type="lyricist">nobody</creator><creator type="composer">Johann Sebastian Bach</creator></identification>`

const credits = `<credit page="1"><credit-type>title</credit-type><credit-words>Two-Part</credit-words><credit-words>
 Inventions</credit-words></credit>
<credit><credit-type>subtitle</credit-type><credit-words>not this</credit-words></credit>
<credit><credit-words>nor this</credit-words></credit>
<credit><credit-type>composer</credit-type><credit-words>J. S. Bach
(1685–1750)</credit-words></credit>`

func musicXMLs() []example {
	suite, bach := "Orchestral Suite No. 3: Air", "Johann Sebastian Bach"
	both := func(work, movement string) string {
		return partwise("<work><work-title>" + work + "</work-title></work><movement-title>" + movement + "</movement-title>")
	}
	in := func(encoding, s string) string { return strings.Replace(s, "UTF-8", encoding, 1) }
	return []example{
		{"partwise", partwise(identified), suite, bach},
		{"timewise", strings.ReplaceAll(partwise(identified), "partwise", "timewise"), suite, bach},
		{"bare", "\n<score-partwise><movement-title>Air</movement-title></score-partwise>", "Air", ""},
		{"comments", "<!-- " + strings.Repeat("x", 10000) + " --><?pi?>\n<!-- y -->" + strings.SplitN(partwise(identified), "\n", 3)[2], suite, bach},
		{"byte order mark", "\ufeff" + partwise(identified), suite, bach},
		{"UTF-16, little end first", wide(binary.LittleEndian, "\ufeff"+in("UTF-16", partwise(identified))), suite, bach},
		{"UTF-16, big end first", wide(binary.BigEndian, "\ufeff"+in("UTF-16", partwise(identified))), suite, bach},
		{"UTF-16 unmarked", wide(binary.LittleEndian, in("UTF-16", partwise(identified))), suite, bach},
		{"recoded", in("UTF-16", partwise(identified)), suite, bach},
		{"Latin-1", in("ISO-8859-1", partwise("<movement-title>Pr\xe9lude</movement-title>")), "Prélude", ""},
		{"other encoding", in("KOI8-R", partwise("<movement-title>\xf0\xf2</movement-title>")), "", ""},
		{"work only", partwise("<work><work-number>BWV 1068</work-number><work-title>Suite</work-title></work>"), "Suite", ""},
		{"movement only", partwise("<movement-number>2</movement-number><movement-title>Air</movement-title>"), "Air", ""},
		{"both the same", both("Air", "AIR"), "Air", ""},
		{"movement says it all", both("Suite No. 3", "Suite no. 3 - Air"), "Suite no. 3 - Air", ""},
		{"work says it all", both("Air, from Suite No. 3", "Air"), "Air, from Suite No. 3", ""},
		{"part of a word", both("Sinfonia", "I"), "Sinfonia: I", ""},
		{"credits", partwise(credits), "Two-Part Inventions", "J. S. Bach (1685–1750)"},
		{"credits do not win", partwise(identified + credits), suite, bach},
		{"several composers", partwise(`<identification><creator type="composer">Bach</creator><creator type="composer"> </creator>` +
			`<creator type="composer">Gounod</creator><creator type="composer">Bach</creator></identification>`), "", "Bach, Gounod"},
		{"placeholders", partwise(`<work><work-title>Untitled score</work-title></work><identification><creator type="composer">Composer / arranger</creator></identification>`), "", ""},
		{"entities", partwise("<movement-title>Bach &amp; Sons &#233;</movement-title>"), "Bach & Sons é", ""},
		{"own entities", strings.Replace(partwise("<work><work-title>Air</work-title></work><movement-title>&a;</movement-title>"), ".dtd\">",
			".dtd\" [<!ENTITY a \"expanded\">]>", 1), "Air", ""},
		{"cut off", partwise(identified)[:strings.Index(partwise(identified), "Bach")], suite, ""},
		{"music only", partwise(""), "", ""},
	}
}

func TestMusicXML(t *testing.T) {
	check(t, sheet.MusicXML, "application/vnd.recordare.musicxml+xml", ".musicxml", musicXMLs())
}

func compressed(t testing.TB) []example {
	suite, bach := "Orchestral Suite No. 3: Air", "Johann Sebastian Bach"
	score := file{"score.xml", partwise(identified)}
	return []example{
		{"container first", archive(t, container("score.xml"), score), suite, bach},
		{"mimetype first", archive(t, file{"mimetype", "application/vnd.recordare.musicxml"}, container("score.xml"), score), suite, bach},
		{"folder first", archive(t, file{"META-INF/", ""}, container("score.xml"), score), suite, bach},
		{"score first", archive(t, score, container("score.xml")), suite, bach},
		{"not by name", archive(t, container("music/x"), file{"score.xml", "<a/>"}, file{"music/x", partwise("")}), "", ""},
		{"UTF-16", archive(t, container("score.xml"), file{"score.xml", wide(binary.BigEndian, "\ufeff"+partwise(identified))}), suite, bach},
	}
}

func TestCompressedMusicXML(t *testing.T) {
	check(t, sheet.MusicXML, "application/vnd.recordare.musicxml", ".mxl", compressed(t))
}

const tune = "X:1\nT:Menuet in G\nT:from the Notebook\nC:Christian Petzold\nC:trad.\nM:3/4\nL:1/8\nK:G\nd2GABc|d2G2G2|\n"

func abcs() []example {
	key := func(k string) string { return "X: 12\nT:Air\nK:" + k + "\nABC|\n" }
	return []example{
		{"tune", tune, "Menuet in G", "Christian Petzold"},
		{"marked", "%abc-2.1\n% of mine\n\n" + tune, "Menuet in G", "Christian Petzold"},
		{"marked, with text", "%abc\nTunes of mine:\n\n" + tune, "Menuet in G", "Christian Petzold"},
		{"byte order mark", "\ufeff" + tune, "Menuet in G", "Christian Petzold"},
		{"carriage returns", strings.ReplaceAll(tune, "\n", "\r\n"), "Menuet in G", "Christian Petzold"},
		{"file header", "M:C\nC:J. S. Bach\nO:Leipzig\n\n" + strings.ReplaceAll(tune, "C:", "N:"), "Menuet in G", "J. S. Bach"},
		{"header does not win", "C:J. S. Bach\n\n" + tune, "Menuet in G", "Christian Petzold"},
		{"first tune", tune + "\nX:2\nT:Other\nC:Other\nK:C\n", "Menuet in G", "Christian Petzold"},
		{"directives and comments", "X:1 % one\n%%scale 0.7\nT:Air 100\\% % mine\n%\nK:D % sharp\n", "Air 100%", ""},
		{"history", "X:1\nT:Air\nH:It was\nlong ago.\nC:Bach\nK:C\n", "Air", "Bach"},
		{"Latin-1", "X:1\nT:Pr\xe9lude\nK:C\n", "Prélude", ""},
		{"mnemonics", "X:1\nT:Pr\\'elude f\\\"ur gar\\cc&oacute;n \\u00e9\nC:Anton\\'in Dvo\\vr\\'ak, M\\oe\\ss\nK:C\n", "Prélude für garçón é", "Antonín Dvořák, Mœß"},
		{"minor", key("F#min"), "Air", ""},
		{"mixolydian", key(" Dmix clef=alto"), "Air", ""},
		{"no key", key(""), "Air", ""},
		{"none", key("none"), "Air", ""},
		{"pipes", key("HP"), "Air", ""},
		{"accidentals", key("D^f_b"), "Air", ""},
		{"not empty at its end", tune + "\x1a", "Menuet in G", "Christian Petzold"},
	}
}

func TestABC(t *testing.T) {
	check(t, sheet.ABC, "text/vnd.abc", ".abc", abcs())
}

func midis() []example {
	return []example{
		{"name", song("\x00\xff\x58\x04\x04\x02\x18\x08\x00\xff\x03\x07Aria\r\n."), "Aria .", ""},
		{"after others", song("\x00\xf0\x05\x7e\x7f\x09\x01\xf7\x00\xff\x02\x03abc\x00\xff\x03\x03Air"), "Air", ""},
		{"Latin-1", song("\x00\xff\x03\x07Pr\xe9lude"), "Prélude", ""},
		{"UTF-8", song("\x00\xff\x03\x08Prélude"), "Prélude", ""},
		{"untitled", song("\x00\xff\x03\x08untitled"), "", ""},
		{"notes first", song("\x00\x90\x40\x40\x00\xff\x03\x03Air"), "", ""},
		{"nothing", song(""), "", ""},
		{"longer than it is", song("\x00\xff\x03\x7fAir"), "", ""},
		{"only its beginning", song("")[:14], "", ""},
	}
}

func TestMIDI(t *testing.T) {
	check(t, sheet.MIDI, "audio/midi", ".mid", midis())
}

const aria = `% an aria
%{ \header { title = "not this" } %}
\version "2.24.0"
\header {
  dedication = \markup { title = "nor this" }
  title = "Aria \"Goldberg\""
  composer = #"Johann Sebastian Bach" % 1741
  tagline = ##f
}
{ g''4 }
`

func lilyPonds() []example {
	return []example{
		{"aria", aria, `Aria "Goldberg"`, "Johann Sebastian Bach"},
		{"version", "\\version \"2.18\"\n{ c'4 }\n", "", ""},
		{"late", strings.Repeat("% of mine\n", 10000) + aria, `Aria "Goldberg"`, "Johann Sebastian Bach"},
		{"byte order mark", "\ufeff" + aria, `Aria "Goldberg"`, "Johann Sebastian Bach"},
		{"Latin-1", "\\header { title = \"Pr\xe9lude\" }", "Prélude", ""},
		{"header only", "\\header { title = \"Air\" }\n", "Air", ""},
		{"of the score", "\\score {\n { \\time 4/4 c'4 }\n \\header { piece = \"I\" composer = \"Bach\" }\n \\layout { }\n}\n", "", "Bach"},
		{"score", "\\score {\n <<  \\music >>\n \\layout { }\n}\n", "", ""},
		{"relative", "\\relative c'' { c4 d e f }\n", "", ""},
		{"relative, without pitch", "melody = \\relative { bes'4 }\n", "", ""},
		{"staves", "<< \\new Staff { c'4 } \\new Staff { c4 } >>\n", "", ""},
		{"Scheme", "#(set-global-staff-size 16)\n\\relative fis' { g4 }\n", "", ""},
		{"markup", "\\header { title = \\markup { \\bold \"Air\" } composer = \"Bach\" }\n{ c }\n", "", "Bach"},
		{"section", "\\version \"2.24.0\"\n{ c'1 \\section d'1 }\n", "", ""},
	}
}

func TestLilyPond(t *testing.T) {
	check(t, sheet.LilyPond, "text/x-lilypond", ".ly", lilyPonds())
}

func TestImage(t *testing.T) {
	for _, e := range []struct{ content, media, extension string }{
		{"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00", "image/png", ".png"},
		{"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "image/jpeg", ".jpg"},
		{"II*\x00\x08\x00\x00\x00", "image/tiff", ".tiff"},
		{"GIF89a\x01\x00\x01\x00", "image/gif", ".gif"},
		{`<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>`, "image/svg+xml", ".svg"},
	} {
		want := sheet.Sheet{Kind: sheet.Image, MediaType: e.media, Extension: e.extension}
		if got := read(t, e.content); got != want {
			t.Errorf("got %+q, want %+q", got, want)
		}
	}
}

type other struct{ name, content, media string }

func others(t testing.TB) []other {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		self = []byte("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 64))
	}
	self = self[:min(len(self), 1<<20)]
	tex := "\\documentclass{article}\n\\newcommand{\\version}[1]{#1}\n\\begin{document}\n" +
		"\\version \"2.24.0\"\n\\score { \\key a \\time 3 }\n\\header { title = \"x\" }\\relative c { }\n\\end{document}\n"
	return []other{
		{"empty", "", "text/plain"},
		{"text", "Dear Johann,\n\nhow are you?\nX: 5\nK: nothing\n", "text/plain; charset=utf-8"},
		{"text about PDF", "What begins with %PDF-1.7 is PDF.\n", ""},
		{"HTML", "<!DOCTYPE html><html><body>score-partwise <pre>\nX:1\nT:x\nK:G\n</pre></body></html>", "text/html; charset=utf-8"},
		{"HTML with a picture", "<!DOCTYPE html>\n<html><body><p>Air</p><svg></svg></body></html>", "text/html; charset=utf-8"},
		{"TeX", tex, ""},
		{"TeX, a chapter", "\\chapter{Scores}\n\\score{5} \\key \\time \\header{Air} \\version{2.0}\n", ""},
		{"TeX, plain", "\\def\\header#1{#1}\n\\header{title = 5}\n\\bye\n", ""},
		{"TeX, a macro", "\\header{Air} \\score{5}\n", ""},
		{"TeX with LilyPond", "\\documentclass{article}\n\\begin{lilypond}\n\\relative c' { c }\n\\end{lilypond}\n", ""},
		{"Markdown with LilyPond", "# Air\n\n```\n" + aria + "```\n", ""},
		{"Markdown with ABC", "# Air\n\n```\n" + tune + "```\n", ""},
		{"JSON", `{"version": "2.24.0", "title": "Air", "score": {"key": "c"}}`, "application/json"},
		{"points", "X:10\nY:20\nZ:30\nK:5\n", ""},
		{"fields", "X: 10\nT: hello\nK: Apple\n", ""},
		{"fields without a number", "X: a\nT: b\nK: C\n", ""},
		{"header only", "X:1\nT:Air\nM:C\n", ""},
		{"not together", "X:1\nT:Air\n\nK:C\n", ""},
		{"XML", `<?xml version="1.0"?><score><work><work-title>Air</work-title></work></score>`, "text/xml; charset=utf-8"},
		{"XML with a score in it", `<a><score-partwise><movement-title>Air</movement-title></score-partwise></a>`, ""},
		{"text, then XML", `Air <score-partwise version="4.0"></score-partwise>`, ""},
		{"comment, text, then XML", `<!-- --> Air <score-partwise version="4.0"></score-partwise>`, ""},
		{"XML twice", `<a/><score-partwise/>`, ""},
		{"MusicXML opus", `<?xml version="1.0"?><opus><title>Air</title></opus>`, "text/xml; charset=utf-8"},
		{"docx", archive(t, file{"[Content_Types].xml", "<Types/>"}, file{"_rels/.rels", "<a/>"}, file{"word/document.xml", partwise(identified)}),
			"application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
		{"zip", archive(t, file{"score.musicxml", partwise(identified)}), "application/zip"},
		{"zip, no document", archive(t, container("nowhere.xml")), ""},
		{"zip, other document", archive(t, container("score.xml"), file{"score.xml", "<a/>"}), ""},
		{"epub", archive(t, file{"mimetype", "application/epub+zip"}, container("book.opf"), file{"book.opf", `<package version="3.0"/>`}), "application/epub+zip"},
		{"executable", string(self), ""},
		{"gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "application/gzip"},
		{"audio", "RIFF\x24\x00\x00\x00WAVEfmt ", "audio/wav"},
		{"MIDI, almost", "MThd\x00\x00\x00\x02\x00\x01\x00\x01\x01\xe0", ""},
		{"MIDI, text", "MThd is how MIDI files begin.\n", ""},
		{"zeros", strings.Repeat("\x00", 1000), "application/octet-stream"},
	}
}

func TestOtherFilesAreNotSheetMusic(t *testing.T) {
	for _, o := range others(t) {
		t.Run(o.name, func(t *testing.T) {
			s := read(t, o.content)
			if s.Kind != "" || s.Title != "" || s.Composer != "" {
				t.Errorf("detected as %+q", s)
			}
			if s.MediaType == "" || o.media != "" && s.MediaType != o.media {
				t.Errorf("media type %q, want %q", s.MediaType, o.media)
			}
		})
	}
}

func TestTextsAreCleaned(t *testing.T) {
	title := func(s string) string { return read(t, "X:1\nT:"+s+"\nK:C\n").Title }
	for in, want := range map[string]string{
		" a \t b\u00a0\u2003c ":          "a b c",
		"a\x1bb\u0085c\u009fd\x7fe":      "ab cde",
		"\u202eevil\u2066\ufeff":         "evil",
		"שלום \u200fעולם":                "שלום עולם",
		strings.Repeat("é", 300):         strings.Repeat("é", 200),
		strings.Repeat("a", 199) + " bc": strings.Repeat("a", 199),
		strings.Repeat("a", 198) + " bc": strings.Repeat("a", 198) + " b",
		"UNTITLED":                       "",
		"Untitled Symphony":              "Untitled Symphony",
		"Microsoft Word - Air.doc":       "",
		"Microsoft Word":                 "Microsoft Word",
	} {
		if got := title(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// hostile returns files that would be expensive without limits.
func hostile(t testing.TB) []example {
	const n = 1 << 20
	stream := "\x78\x9c" + bomb("9 0 4 0 ", " ", 64, air)
	many := make([]string, 5000)
	for i := range many {
		many[i] = "null"
	}
	xref := strings.Index(pdf(air, ""), "xref\n")
	tables := strings.Repeat("0 0\n", 100000)
	attributes := strings.Repeat(` a=""`, n)
	return []example{
		{"PDF, deep array", pdf("<</Title "+strings.Repeat("[", n)+strings.Repeat("]", n)+">>", ""), "", ""},
		{"PDF, deep dictionary", pdf(strings.Repeat("<</A", n)+"1"+strings.Repeat(">>", n), ""), "", ""},
		{"PDF, open string", pdf("<</Title"+strings.Repeat("(", 4*n), ""), "", ""},
		{"PDF, comments", pdf(strings.Repeat("%\n", 4*n), ""), "", ""},
		{"PDF, huge object", pdf("["+strings.Repeat("1 ", 4*n)+"]", ""), "", ""},
		{"PDF, bomb", packed(stream, fmt.Sprintf("/N 2/First %d", 8+64<<20), 2), "", ""},
		{"PDF, bomb of numbers", packed("\x78\x9c"+bomb("", "1 ", 64, ""), "/N 900000000/First 900000000", 2), "", ""},
		{"PDF, huge numbers", strings.Replace(packed(stream, "/N 2/First 8", 2), "[0 2 2 6]", "[0 2147483648 0 2147483648]", 1), "", ""},
		{"PDF, huge widths", strings.Replace(packed(stream, "/N 2/First 8", 2), "[1 4 1]", "[8 8 9]", 1), "", ""},
		{"PDF, huge table", strings.Replace(pdf(air, ""), "0 5\n", "0 2000000000\n", 1), "", ""},
		{"PDF, huge offset", strings.Replace(pdf(air, ""), "startxref\n", "startxref\n9223372036854775807", 1), "", ""},
		{"PDF, many tables", strings.Replace(pdf(air, ""), "0 5\n", tables+"0 5\n", 1), "", ""},
		{"PDF, loop", pdf(air, fmt.Sprintf("/Prev %d/XRefStm %[1]d", xref)), "Air", "J. S. Bach"},
		{"PDF, many objects", pdf(air, "", many...), "Air", "J. S. Bach"},
		{"XML, deep", "<score-partwise>" + strings.Repeat("<a>", n), "", ""},
		{"XML, long", "<score-partwise>" + strings.Repeat("<a/>", 4*n), "", ""},
		{"XML, long text", "<score-partwise><movement-title>" + strings.Repeat("x ", 8*n), "", ""},
		{"XML, long comment", "<!--" + strings.Repeat(" ", 16*n) + "--><score-partwise/>", "", ""},
		{"XML, attributes", "<score-partwise" + attributes + ">", "", ""},
		{"XML, creators", "<score-partwise><identification>" + strings.Repeat(`<creator type="composer">x</creator>`, n/16), "", ""},
		{"mxl, bomb", explosive(t, "a", bomb("<score-partwise><movement-title>", " ", 200, ""), container("a")), "", ""},
		{"mxl, bomb of a container", explosive(t, "META-INF/container.xml", bomb("", " ", 200, "")), "", ""},
		{"ABC, long", "X:1\n" + strings.Repeat("T:\n", n), "", ""},
		{"ABC, no line ends", "X:1" + strings.Repeat("%", 4*n), "", ""},
		{"LilyPond, open", "\\version \"2.24\"\n\\header {" + strings.Repeat("title = {", n), "", ""},
		{"LilyPond, headers", "{" + strings.Repeat("\\header{a=", n), "", ""},
		{"LilyPond, quotes", "{" + strings.Repeat("\\a\"", n), "", ""},
	}
}

func TestHostileFilesAreBounded(t *testing.T) {
	for _, e := range hostile(t) {
		t.Run(e.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			s := read(t, e.content)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if s.Title != e.title {
				t.Errorf("title %q, want %q", s.Title, e.title)
			}
			if took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			if made := (after.TotalAlloc - before.TotalAlloc) >> 20; made > 160 {
				t.Errorf("allocated %d MiB", made)
			}
			t.Logf("%s, %d MiB", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>20)
		})
	}
}

// sparse is a large file with content at its start and end. It counts the bytes
// read.
type sparse struct {
	start, end string
	size, read int64
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), s.size-off)
	p = p[:max(0, n)]
	clear(p)
	if off < int64(len(s.start)) {
		copy(p, s.start[off:])
	}
	for i, at := 0, s.size-int64(len(s.end)); i < len(s.end); i++ {
		if j := at + int64(i) - off; j >= 0 && j < n {
			p[j] = s.end[i]
		}
	}
	s.read += int64(len(p))
	if n < 0 {
		return 0, io.EOF
	}
	return len(p), nil
}

func TestReadSkipsTheBodyOfAPDF(t *testing.T) {
	// A 1 GiB scan is between the header and the dictionary.
	const size, tail = 1 << 30, 400
	start := "%PDF-1.4\n"
	end := fmt.Sprintf("4 0 obj\n%s\nendobj\n", air)
	xref := size - tail + len(end)
	end += fmt.Sprintf("xref\n4 1\n%010d 00000 n \ntrailer\n<</Info 4 0 R>>\nstartxref\n%d\n%%%%EOF", size-tail, xref)
	end += strings.Repeat("\n", tail-len(end))
	f := &sparse{start: start, end: end, size: size}
	s, err := sheet.Read(context.Background(), f, size)
	if err != nil || s.Title != "Air" {
		t.Fatalf("got %+q, %v", s, err)
	}
	if f.read > 300<<10 {
		t.Errorf("read %d bytes", f.read)
	}
}

func TestReadStopsAtTheMusic(t *testing.T) {
	music := strings.Replace(partwise(identified), "not this", strings.Repeat("Air", 1<<20), 1)
	f := &sparse{start: music, size: int64(len(music))}
	if s, err := sheet.Read(context.Background(), f, f.size); err != nil || s.Title == "" {
		t.Fatalf("got %+q, %v", s, err)
	}
	if f.read > 300<<10 {
		t.Errorf("read %d bytes", f.read)
	}
}

func TestArchiveDirectoryIsBounded(t *testing.T) {
	// The directory claims as many files as fit into the archive, and an offset
	// of 0.
	le := binary.LittleEndian
	record := le.AppendUint64([]byte("PK\x06\x06"), 44)
	record = append(record, make([]byte, 12)...)
	for _, n := range []uint64{1 << 24, 1 << 24, 1, 0} {
		record = le.AppendUint64(record, n)
	}
	const size = 1 << 30
	ends := 22 + 20
	locator := le.AppendUint64([]byte("PK\x06\x07\x00\x00\x00\x00"), uint64(size-ends-len(record)))
	end := string(record) + string(locator) + "\x01\x00\x00\x00" +
		"PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00"
	f := &sparse{start: "PK\x03\x04", size: size, end: end}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s, err := sheet.Read(context.Background(), f, f.size)
	runtime.ReadMemStats(&after)
	if err != nil || s.Kind != "" {
		t.Fatalf("got %+q, %v", s, err)
	}
	if made := (after.TotalAlloc - before.TotalAlloc) >> 20; made > 16 {
		t.Errorf("allocated %d MiB", made)
	}
}

// failing is a file that fails, or cancels a context, from an offset on.
type failing struct {
	io.ReaderAt
	from   int64
	cancel func()
}

var errFailing = errors.New("read failed")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		if f.cancel == nil {
			return 0, errFailing
		}
		f.cancel()
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestReadReturnsErrorsOfTheReader(t *testing.T) {
	ctx := context.Background()
	blank := strings.Repeat(" ", 300<<10)
	files := map[string]string{
		"PDF":      pdf(air, "", blank),
		"MusicXML": partwise("<!--" + blank + "-->" + identified),
		"mxl":      archive(t, container("a"), file{"a", partwise(identified)}, file{"mimetype", blank}),
	}
	for name, content := range files {
		r, size := strings.NewReader(content), int64(len(content))
		if s, err := sheet.Read(ctx, failing{r, 0, nil}, size); !errors.Is(err, errFailing) || s != (sheet.Sheet{}) {
			t.Errorf("%s: got %+q, %v", name, s, err)
		}
		if s, err := sheet.Read(ctx, failing{r, 256 << 10, nil}, size); !errors.Is(err, errFailing) || s != (sheet.Sheet{}) {
			t.Errorf("%s, later: got %+q, %v", name, s, err)
		}
		if s, err := sheet.Read(ctx, r, size+1000); !errors.Is(err, io.ErrUnexpectedEOF) && name != "MusicXML" {
			t.Errorf("%s, too short: got %+q, %v", name, s, err)
		}
		over, cancel := context.WithCancel(ctx)
		if s, err := sheet.Read(over, failing{r, 256 << 10, cancel}, size); !errors.Is(err, context.Canceled) || s != (sheet.Sheet{}) {
			t.Errorf("%s, over: got %+q, %v", name, s, err)
		}
		if s, err := sheet.Read(over, r, 0); !errors.Is(err, context.Canceled) || s != (sheet.Sheet{}) {
			t.Errorf("%s, empty, over: got %+q, %v", name, s, err)
		}
	}
	if _, err := sheet.Read(ctx, strings.NewReader("X:1"), 10); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("too short: %v", err)
	}
}

// The gateway sets Content-Type by the same package.
func TestMimetypeIsNotExtended(t *testing.T) {
	for _, content := range []string{partwise(identified), tune, aria} {
		read(t, content)
		if m := mimetype.Detect([]byte(content)).String(); !strings.HasPrefix(m, "text/plain") && !strings.HasPrefix(m, "text/xml") {
			t.Errorf("mimetype returns %s", m)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, examples := range [][]example{pdfs(), musicXMLs(), compressed(f), abcs(), midis(), lilyPonds()} {
		for _, e := range examples {
			f.Add([]byte(e.content))
		}
	}
	for _, o := range others(f) {
		if len(o.content) < 10000 {
			f.Add([]byte(o.content))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		start := time.Now()
		s, err := sheet.Read(context.Background(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		if s.MediaType == "" {
			t.Error("no media type")
		}
		for _, text := range []string{s.Title, s.Composer} {
			if !utf8.ValidString(text) || utf8.RuneCountInString(text) > sheet.MaxText ||
				strings.ContainsFunc(text, unicode.IsControl) || strings.Join(strings.Fields(text), " ") != text {
				t.Errorf("text %q", text)
			}
		}
	})
}

// Peek detects the kind that Read detects, and its stream is complete.
func TestPeekLosesNothing(t *testing.T) {
	big := bytes.Repeat([]byte("%%%%\n"), 2<<20)
	for name, data := range map[string][]byte{
		"empty":     {},
		"small":     []byte("X:1\nT:Air\nK:C\nCDEC|\n"),
		"large":     append([]byte("X:1\nT:Air\nK:C\n"), big...),
		"large PDF": append([]byte("%PDF-1.7\n"), big...),
		"large zip": append([]byte("PK\x03\x04"), big...),
	} {
		s, r, err := sheet.Peek(t.Context(), bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		want, err := sheet.Read(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if s.Kind != want.Kind {
			t.Errorf("%s: kind %q, the complete file has %q", name, s.Kind, want.Kind)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(data), err)
		}
	}
	broken := errors.New("broken")
	if _, _, err := sheet.Peek(t.Context(), io.MultiReader(strings.NewReader("X:1\n"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
}

// A few bytes of a PDF can be a value that uses hundreds of bytes in memory.
func TestValuesOfAPDFAreBounded(t *testing.T) {
	for _, v := range []string{"[]", "<</a[]>>", "1 "} {
		var b bytes.Buffer
		b.WriteString("%PDF-1.7\n")
		section := -1
		for range 32 {
			at := b.Len()
			fmt.Fprintf(&b, "xref\n0 0\ntrailer\n<</A [%s]/Info 1 0 R/Prev %d>>\n", strings.Repeat(v, 250<<10/len(v)), section)
			section = at
		}
		fmt.Fprintf(&b, "startxref\n%d\n%%%%EOF\n", section)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, err := sheet.Read(t.Context(), bytes.NewReader(b.Bytes()), int64(b.Len()))
		runtime.ReadMemStats(&after)
		if err != nil || s.Kind != sheet.PDF {
			t.Errorf("%s: %+v, %v", v, s, err)
		}
		if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 64<<20 {
			t.Errorf("%s: %d bytes for a file of %d", v, bytes, b.Len())
		}
	}
}
