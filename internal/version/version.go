// Package version names the version of npp that a binary was built from.
package version

import "runtime/debug"

// module is the path of npp's module.
const module = "github.com/newpieceplease/npp"

// devel is the version of a build from a work tree without version control, as
// the go command names it.
const devel = "(devel)"

// linked is set by the linker:
//
//	go build -ldflags "-X github.com/newpieceplease/npp/internal/version.linked=v0.2.0"
var linked string

// String returns the version that the linker set. Without it, String returns
// the version of npp's module in the build information: "v0.2.0" after `go
// install …@v0.2.0`, and the version in go.mod where another module imports
// npp. A build without either has the version "(devel)".
func String() string {
	if linked != "" {
		return linked
	}
	info, _ := debug.ReadBuildInfo()
	return ofModule(info)
}

func ofModule(info *debug.BuildInfo) string {
	if info == nil {
		return devel
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module && m.Version != "" {
			return m.Version
		}
	}
	return devel
}
