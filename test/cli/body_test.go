package cli

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// partsOf is a multipart body of parts.
func partsOf(t *testing.T, parts ...string) (contentType string, body io.Reader) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, text := range parts {
		part, err := w.CreateFormFile("file", "file")
		if err == nil {
			_, err = io.WriteString(part, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), &b
}

// A body that a command does not read, or reads a part of, is not passed over in
// silence.
func TestBodyThatIsNotOnePartIsRefused(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.MustRun("npp", "db", "create", "log")
	car := a.MustRun("npp", "db", "export", "pieces")
	post := func(command string, query url.Values, contentType string, body io.Reader) (status int, answer string) {
		t.Helper()
		client := http.Client{Timeout: harness.Patience}
		resp, err := client.Post(a.APIURL()+"npp/"+command+"?"+query.Encode(), contentType, body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	refuses := func(command string, query url.Values, contentType string, body io.Reader, why string) {
		t.Helper()
		if status, answer := post(command, query, contentType, body); status == http.StatusOK || !strings.Contains(answer, why) {
			t.Errorf("%s?%s of %s: %d %s", command, query.Encode(), contentType, status, answer)
		}
	}
	const notMultipart, manyParts = "the body is not multipart/form-data", "the body has more than one part"
	for command, query := range map[string]url.Values{
		"send":       {"arg": {b.PeerID(), "hello"}},
		"db/put":     {"arg": {"log", "1"}},
		"db/import":  {},
		"pieces/add": {"arg": {"QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"}},
	} {
		for contentType, body := range map[string]string{
			"application/json": `{"page":3}`, "application/x-www-form-urlencoded": "page=3", "": "3",
		} {
			refuses(command, query, contentType, strings.NewReader(body), notMultipart)
		}
	}
	contentType, body := partsOf(t, "1", "2")
	refuses("send", url.Values{"arg": {b.PeerID()}}, contentType, body, manyParts)
	contentType, body = partsOf(t, "1", "2")
	refuses("db/put", url.Values{"arg": {"log"}}, contentType, body, manyParts)
	contentType, body = partsOf(t, car, car)
	refuses("db/import", nil, contentType, body, manyParts)
	contentType, body = partsOf(t, "hello")
	refuses("send", url.Values{"arg": {"hello"}, "topic": {"band"}}, contentType, body, "--topic takes no peer")
	if got := stored(t, b); len(got) != 0 {
		t.Errorf("%d messages of refused requests came", len(got))
	}
	if out := a.MustRun("npp", "db", "all", "log") + a.MustRun("npp", "pieces", "ls"); out != "" {
		t.Errorf("refused requests put %s", out)
	}
	// Many values are put as they are read.
	contentType, body = partsOf(t, "1\n2\n", "3\n")
	refuses("db/put", url.Values{"arg": {"log"}, "many": {"true"}}, contentType, body, "2 put, and then: line 3: "+manyParts)
	if out := a.MustRun("npp", "db", "all", "log"); strings.Count(out, "\n") != 2 {
		t.Errorf("put: %s", out)
	}
	contentType, body = partsOf(t, "hello")
	if status, answer := post("send", url.Values{"arg": {b.PeerID()}}, contentType, body); status != http.StatusOK {
		t.Errorf("one part: %d %s", status, answer)
	}
}
