package commands

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFileName bounds the names that npp gives to files, in bytes.
const maxFileName = 200

// saveFile writes a file, which appears when it is complete. It replaces an
// existing file only with force. It writes into a device, such as a pipe.
func saveFile(path string, r io.Reader, force bool) (n int64, err error) {
	if isDevice(path) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return 0, fmt.Errorf("write the file: %w", err)
		}
		n, err := io.Copy(f, r)
		return n, errors.Join(err, f.Close())
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(path), fmt.Sprintf(".npp-%016x", rand.Uint64())), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return 0, fmt.Errorf("write the file: %w", err)
	}
	defer os.Remove(f.Name()) // of a file that was not renamed
	n, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return n, err
	}
	if force {
		return n, os.Rename(f.Name(), path)
	}
	// Unlike a rename, a link does not replace a file that appeared meanwhile.
	switch err := os.Link(f.Name(), path); {
	case err == nil:
		return n, nil
	case errors.Is(err, fs.ErrExist):
		return n, errExists(path)
	}
	if _, err := os.Lstat(path); err == nil {
		return n, errExists(path)
	}
	return n, os.Rename(f.Name(), path)
}

// isDevice reports whether a path is neither a regular file nor a folder, but a
// pipe, say.
func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.Mode().IsRegular() && !info.IsDir()
}

func errExists(path string) error {
	return fmt.Errorf("the file %s exists; hint: --%s replaces it, and -o <file> writes another one", printable(path), forceOption)
}

// safeName returns a text as the name of a regular file, on any system, with an
// extension, or "" if no character remains.
func safeName(text, extension string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return -1
		case strings.ContainsRune(`/\:*?"<>|`, r):
			return '-'
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = strings.TrimLeft(text, " .-")
	if extension == "" {
		extension = filepath.Ext(text)
		if len(extension) > 20 {
			extension = ""
		}
		text = strings.TrimSuffix(text, extension)
	}
	for len(text)+len(extension) > maxFileName {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	if text = strings.TrimRight(text, " ."); text == "" {
		return ""
	}
	return text + strings.TrimRight(extension, " .")
}
