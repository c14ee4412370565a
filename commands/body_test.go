package commands

import (
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"
	"time"

	cmds "github.com/ipfs/go-ipfs-cmds"
	cmdshttp "github.com/ipfs/go-ipfs-cmds/http"
)

// form returns a multipart body. Each part is a file name and its content.
func form(t *testing.T, parts ...[2]string) (contentType, body string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		h := make(textproto.MIMEHeader)
		h.Set("Content-Disposition", `form-data; name="file"; filename="`+p[0]+`"`)
		part, err := w.CreatePart(h)
		if err == nil {
			_, err = io.WriteString(part, p[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.String()
}

// Over HTTP, a command gets the only part of a multipart body. Any other body
// is refused, not ignored.
func TestBodyIsOnePartOrRefused(t *testing.T) {
	root := &cmds.Command{Subcommands: map[string]*cmds.Command{"take": {
		Run: func(req *cmds.Request, res cmds.ResponseEmitter, _ cmds.Environment) error {
			r, err := body(req, res, "body", errEmptyBody)
			if err != nil || r == nil {
				return err
			}
			got, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			return res.Emit("got " + string(got))
		},
		Type: "",
	}}}
	c := cmdshttp.NewServerConfig()
	c.APIPath = "/api/v0"
	server := httptest.NewServer(cmdshttp.NewHandler(nil, root, c))
	defer server.Close()
	post := func(contentType string, body io.Reader) string {
		t.Helper()
		resp, err := http.Post(server.URL+"/api/v0/take", contentType, body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer)
	}
	const text = `{"page":3}`
	formType, cut := form(t, [2]string{"a", text})
	cut = cut[:len(cut)-len("--\r\n")]
	for name, test := range map[string]struct {
		contentType string
		body        io.Reader
		want        string
	}{
		"none":                      {"", nil, ""},
		"none, of a type":           {"application/json", strings.NewReader(""), ""},
		"JSON":                      {"application/json", strings.NewReader(text), errNotMultipart.Error()},
		"JSON of unknown length":    {"application/json", io.MultiReader(strings.NewReader(text)), errNotMultipart.Error()},
		"form":                      {"application/x-www-form-urlencoded", strings.NewReader("arg=a"), errNotMultipart.Error()},
		"without a type":            {"", strings.NewReader(text), errNotMultipart.Error()},
		"multipart of another kind": {"multipart/mixed; boundary=x", strings.NewReader("--x--\r\n"), errNotMultipart.Error()},
		"cut":                       {formType, strings.NewReader(cut), "EOF"},
	} {
		got := post(test.contentType, test.body)
		if !strings.Contains(got, test.want) || test.want == "" && got != "" || strings.Contains(got, "got ") {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	for name, test := range map[string]struct {
		parts [][2]string
		want  string
	}{
		"a part":                        {[][2]string{{"a", text}}, `"got {\"page\":3}"`},
		"a part without a name":         {[][2]string{{"", text}}, `"got {\"page\":3}"`},
		"no part":                       {nil, errEmptyBody.Error()},
		"two parts":                     {[][2]string{{"a", text}, {"b", "2"}}, errManyParts.Error()},
		"two parts without a name":      {[][2]string{{"", text}, {"", "2"}}, errManyParts.Error()},
		"a part and one below its name": {[][2]string{{"a", text}, {"a/b", "2"}}, errManyParts.Error()},
		"a part in a folder":            {[][2]string{{"a/b", text}}, "the body is not a file"},
	} {
		contentType, body := form(t, test.parts...)
		got := post(contentType, strings.NewReader(body))
		if !strings.Contains(got, test.want) || strings.HasPrefix(test.want, `"got`) != strings.Contains(got, "got ") {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// A client that still sends its body gets the answer of a command that failed,
// not the end of the connection.
func TestClientThatStillSendsGetsTheAnswer(t *testing.T) {
	errRefused := errors.New("refused")
	root := &cmds.Command{Subcommands: map[string]*cmds.Command{
		"one": {Run: func(req *cmds.Request, res cmds.ResponseEmitter, _ cmds.Environment) error {
			r, err := body(req, res, "body", errEmptyBody)
			if err != nil {
				return err
			}
			_, end := bodyReader(req.Context, r)
			defer end()
			return errRefused
		}},
		"all": {Run: func(req *cmds.Request, _ cmds.ResponseEmitter, _ cmds.Environment) error {
			req.Files.Entries().Next()
			drain(&allParts{parts: req.Files.Entries()})
			return errRefused
		}},
	}}
	c := cmdshttp.NewServerConfig()
	c.APIPath = "/api/v0"
	server := httptest.NewServer(cmdshttp.NewHandler(nil, root, c))
	defer server.Close()
	large := strings.Repeat("x", 16<<20)
	for command, parts := range map[string][][2]string{
		"one": {{"a", large}, {"b", large}},
		"all": {{"a", large}, {"b", large}, {"c/d", large}},
	} {
		contentType, sent := form(t, parts...)
		resp, err := http.Post(server.URL+"/api/v0/"+command, contentType, io.MultiReader(strings.NewReader(sent)))
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(answer), errRefused.Error()) {
			t.Errorf("%s: %q, %v", command, answer, err)
		}
	}
}

// A client that sends nothing holds up no answer.
func TestDrainEndsWithoutBytes(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ended := make(chan struct{})
	go func() {
		drain(r)
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it waits still")
	}
}
