package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// partsOf returns a multipart body of parts.
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

// post posts a body to a command below `npp`, on a new connection. It returns
// the output and the message of the error, which replaces or follows the
// output.
func post(t *testing.T, n *harness.Node, command string, query url.Values, contentType string, body io.Reader) (status int, out, failure string) {
	t.Helper()
	client := http.Client{Timeout: harness.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(n.APIURL()+"npp/"+command+"?"+query.Encode(), contentType, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.StatusCode, string(text), resp.Trailer.Get("X-Stream-Error")
	}
	var e struct{ Message string }
	if json.Unmarshal(text, &e) != nil {
		e.Message = string(text)
	}
	return resp.StatusCode, "", e.Message
}
