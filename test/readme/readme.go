// Package readme lets tests compare README.md with the code.
package readme

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Root returns the root directory of the module. The working directory must be
// below it.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			t.Fatal("there is no go.mod above the working directory")
		}
		dir = above
	}
}

// Text returns README.md.
func Text(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Says fails the test unless README.md has the text, with any line breaks.
func Says(t testing.TB, format string, args ...any) {
	t.Helper()
	want := fmt.Sprintf(format, args...)
	if !strings.Contains(strings.Join(strings.Fields(Text(t)), " "), want) {
		t.Errorf("README.md lacks: %s", want)
	}
}
