package replicate

import (
	"reflect"
	"testing"

	"github.com/newpieceplease/npp/orbit"
)

func TestWhatAWantedDatabaseIsOpenedWithIsKept(t *testing.T) {
	for _, opts := range []orbit.OpenOptions{
		{}, {IndexBy: "hash"}, {Type: "documents"}, {Type: "documents", IndexBy: "hash"},
		{IndexBy: "\x00"}, {IndexBy: `{"type":"events"}`}, {IndexBy: "\x00" + `{"type":"events"}`}, {IndexBy: "\x00documents\x00hash"}, {Type: "keyvalue", IndexBy: "\x00\""},
	} {
		record := encodeWanted(opts)
		if got := decodeWanted(record); !reflect.DeepEqual(got, opts) {
			t.Errorf("%+v became %q and %+v", opts, record, got)
		}
	}
	// The records of before have the index field alone.
	for _, record := range []string{"", "hash", `{"type":"events"}`, "\x00{", "\x00"} {
		if got := decodeWanted([]byte(record)); !reflect.DeepEqual(got, orbit.OpenOptions{IndexBy: record}) {
			t.Errorf("%q became %+v", record, got)
		}
	}
}

func FuzzDecodeWanted(f *testing.F) {
	f.Add([]byte("hash"))
	f.Add([]byte("\x00documents\x00hash"))
	f.Fuzz(func(t *testing.T, record []byte) {
		opts := decodeWanted(record)
		if got := decodeWanted(encodeWanted(opts)); !reflect.DeepEqual(got, opts) {
			t.Errorf("%q became %+v, then %+v", record, opts, got)
		}
	})
}
