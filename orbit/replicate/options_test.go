package replicate

import (
	"reflect"
	"testing"

	"github.com/newpieceplease/npp/orbit"
)

func TestOptionsOfAMissingDatabaseSurviveEncoding(t *testing.T) {
	for _, opts := range []orbit.OpenOptions{
		{}, {IndexBy: "hash"}, {Type: "documents"}, {Type: "documents", IndexBy: "hash"},
		{IndexBy: "\x00"}, {IndexBy: `{"type":"events"}`}, {IndexBy: "\x00" + `{"type":"events"}`}, {IndexBy: "\x00documents\x00hash"}, {Type: "keyvalue", IndexBy: "\x00\""},
	} {
		record := encodeOptions(opts)
		if got := decodeOptions(record); !reflect.DeepEqual(got, opts) {
			t.Errorf("%+v became %q and %+v", opts, record, got)
		}
	}
	// Records of earlier versions contain the index field alone.
	for _, record := range []string{"", "hash", `{"type":"events"}`, "\x00{", "\x00"} {
		if got := decodeOptions([]byte(record)); !reflect.DeepEqual(got, orbit.OpenOptions{IndexBy: record}) {
			t.Errorf("%q became %+v", record, got)
		}
	}
}

func FuzzDecodeOptions(f *testing.F) {
	f.Add([]byte("hash"))
	f.Add([]byte("\x00documents\x00hash"))
	f.Fuzz(func(t *testing.T, record []byte) {
		opts := decodeOptions(record)
		if got := decodeOptions(encodeOptions(opts)); !reflect.DeepEqual(got, opts) {
			t.Errorf("%q became %+v, then %+v", record, opts, got)
		}
	})
}
