package plugin

import (
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/readme"
)

// The README shows each key of the configuration with its default, and explains
// it.
func TestReadmeHasTheConfiguration(t *testing.T) {
	_, section, ok := strings.Cut(readme.Text(t), "\n## Configuration\n")
	if !ok {
		t.Fatal("there is no section Configuration")
	}
	section, _, _ = strings.Cut(section, "\n## ")

	var shown struct {
		Disabled *bool
		Config   map[string]any
	}
	begin, end := strings.Index(section, "\n    {\n"), strings.Index(section, "\n    }\n")
	if begin < 0 || end < begin {
		t.Fatal("there is no object of the defaults")
	}
	d := json.NewDecoder(strings.NewReader(section[begin : end+len("\n    }\n")]))
	d.DisallowUnknownFields()
	if err := d.Decode(&shown); err != nil {
		t.Fatal(err)
	}
	if shown.Disabled == nil || *shown.Disabled {
		t.Error("Disabled is not shown, or shown as true")
	}
	defaults, err := parseConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := parseConfig(shown.Config); err != nil || c != defaults {
		t.Errorf("the README shows %+v as defaults, they are %+v, %v", c, defaults, err)
	}
	var have map[string]any
	b, err := json.Marshal(defaults)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &have); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(shown.Config, have) {
		t.Errorf("the README shows %v, the defaults are %v", shown.Config, have)
	}

	keys := make(map[string]bool)
	for _, group := range have {
		for key := range group.(map[string]any) {
			keys[key] = true
		}
	}
	explained := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(section, -1) {
		explained[row[1]] = true
	}
	if !maps.Equal(keys, explained) {
		t.Errorf("the README explains %v, the keys are %v", slices.Sorted(maps.Keys(explained)), slices.Sorted(maps.Keys(keys)))
	}
}
