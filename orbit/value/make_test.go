package value_test

import (
	"testing"

	"github.com/newpieceplease/npp/orbit/value"
)

func TestMapIsTheSameAsOf(t *testing.T) {
	one, err := value.Of(1)
	if err != nil {
		t.Fatal(err)
	}
	got := value.Map(
		value.Member{Name: "value", Value: one},
		value.Member{Name: "op", Value: value.Text("PUT")},
		value.Member{Name: "key", Value: value.Null},
	)
	want, err := value.Of(map[string]any{"op": "PUT", "key": nil, "value": 1})
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(want) {
		t.Errorf("got %x, want %x", []byte(got), []byte(want))
	}
}

func TestTruthyIsJavaScripts(t *testing.T) {
	for text, want := range map[string]bool{
		"null": false, "false": false, "0": false, "-0.0": false, `""`: false,
		"true": true, "1": true, "-1": true, "0.5": true, `"0"`: true, "[]": true, "{}": true,
		`{"/":{"bytes":""}}`: true,
	} {
		v, err := value.FromJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if v.Truthy() != want {
			t.Errorf("%s is truthy: %v", text, !want)
		}
	}
	if value.Value(nil).Truthy() {
		t.Error("none is truthy")
	}
}
