package cli

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A request is refused if its body is not read, or only in part.
func TestBodyThatIsNotOnePartIsRefused(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.MustRun("npp", "db", "create", "log")
	car := a.MustRun("npp", "db", "export", "pieces")
	refuses := func(command string, query url.Values, contentType string, body io.Reader, why string) {
		t.Helper()
		if status, _, failure := post(t, a, command, query, contentType, body); status == http.StatusOK || !strings.Contains(failure, why) {
			t.Errorf("%s?%s of %s: %d %s", command, query.Encode(), contentType, status, failure)
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
		t.Errorf("%d messages of refused requests arrived", len(got))
	}
	if out := a.MustRun("npp", "db", "all", "log") + a.MustRun("npp", "pieces", "ls"); out != "" {
		t.Errorf("refused requests put %s", out)
	}
	// With --many, values are put as they are read.
	contentType, body = partsOf(t, "1\n2\n", "3\n")
	refuses("db/put", url.Values{"arg": {"log"}, "many": {"true"}}, contentType, body, "2 put, and then: line 3: "+manyParts)
	if out := a.MustRun("npp", "db", "all", "log"); strings.Count(out, "\n") != 2 {
		t.Errorf("put: %s", out)
	}
	contentType, body = partsOf(t, "hello")
	if status, _, failure := post(t, a, "send", url.Values{"arg": {b.PeerID()}}, contentType, body); status != http.StatusOK {
		t.Errorf("one part: %d %s", status, failure)
	}
}
