package version

import (
	"runtime/debug"
	"testing"
)

func TestVersionComesFromTheBuild(t *testing.T) {
	for name, test := range map[string]struct {
		info *debug.BuildInfo
		want string
	}{
		"no build information": {nil, "(devel)"},
		"work tree":            {&debug.BuildInfo{Main: debug.Module{Path: module, Version: "(devel)"}}, "(devel)"},
		"test binary":          {&debug.BuildInfo{Main: debug.Module{Path: module}}, "(devel)"},
		"go install":           {&debug.BuildInfo{Main: debug.Module{Path: module, Version: "v0.2.0"}}, "v0.2.0"},
		"imported": {&debug.BuildInfo{
			Main: debug.Module{Path: "example.org/app", Version: "v9.0.0"},
			Deps: []*debug.Module{{Path: "example.org/a", Version: "v1.0.0"}, {Path: module, Version: "v0.3.0"}},
		}, "v0.3.0"},
	} {
		if got := ofModule(test.info); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestLinkerSetsTheVersion(t *testing.T) {
	linked = "v0.2.0-3-gabcdef0"
	defer func() { linked = "" }()
	if got := String(); got != linked {
		t.Errorf("%s, want %s", got, linked)
	}
}
