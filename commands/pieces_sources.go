package commands

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ipfs/boxo/files"

	"github.com/newpieceplease/npp/library/piece"
)

var (
	errNothingToAdd = errors.New("there is nothing to add; hint: ipfs npp pieces add <file, folder or CID>")
	errOneTitle     = errors.New("--title is for a single piece; hint: add the files one by one, or use ipfs npp pieces update <piece> --title")
)

// cidOf returns the CID that an argument contains, as it is written.
func cidOf(arg string) (hash string, ok bool) {
	hash = strings.TrimPrefix(arg, "/ipfs/")
	_, err := piece.Decode(hash)
	return hash, err == nil
}

// sources are the files and folders that the command line sends. They are a
// [files.Directory] that opens one file at a time.
type sources struct {
	paths, names []string
	folders      bool // there is a folder among them
	inFolder     bool // they are the content of a folder
}

// sourcesOf separates files and folders from CIDs, which it returns as they
// are.
func sourcesOf(args []string) (sent *sources, hashes []string, err error) {
	sent = &sources{}
	for _, arg := range args {
		info, statErr := os.Stat(arg)
		_, isCID := cidOf(arg)
		switch {
		case isCID && (statErr != nil || strings.HasPrefix(arg, "/ipfs/")):
			hashes = append(hashes, arg)
			continue
		case isCID:
			return nil, nil, fmt.Errorf("%s is a CID, and a file has the same name; hint: ./%s is the file, /ipfs/%s is the CID", arg, arg, arg)
		case errors.Is(statErr, fs.ErrNotExist):
			return nil, nil, fmt.Errorf("%.80q is neither a file nor a CID; hint: check the path", arg)
		case statErr != nil:
			return nil, nil, statErr
		}
		path, err := filepath.Abs(arg)
		if err != nil {
			return nil, nil, err
		}
		if err := readable(path, info); err != nil {
			return nil, nil, err
		}
		sent.folders = sent.folders || info.IsDir()
		sent.paths, sent.names = append(sent.paths, path), append(sent.names, filepath.Base(path))
	}
	if len(args) == 0 {
		return nil, nil, errNothingToAdd
	}
	return sent, hashes, nil
}

// readable returns an error if a file or folder cannot be read.
func readable(path string, info fs.FileInfo) error {
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("%q is neither a file nor a folder", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *sources) Mode() fs.FileMode { return fs.ModeDir }

func (s *sources) ModTime() time.Time { return time.Time{} }

func (s *sources) Size() (int64, error) { return 0, files.ErrNotSupported }

func (s *sources) Close() error { return nil }

func (s *sources) Entries() files.DirIterator { return &sourceIterator{of: s, at: -1} }

type sourceIterator struct {
	of   *sources
	at   int
	node files.Node
}

func (it *sourceIterator) Name() string { return it.of.names[it.at] }

func (it *sourceIterator) Node() files.Node { return it.node }

func (it *sourceIterator) Err() error { return nil }

func (it *sourceIterator) Next() bool {
	if it.at++; it.at >= len(it.of.paths) {
		return false
	}
	node, err := it.of.open(it.at)
	if err != nil {
		node = placeholder(fs.ModeIrregular, err.Error())
	}
	it.node = node
	return true
}

// open opens a file or folder. If it is not to be sent, open returns a
// placeholder.
func (s *sources) open(at int) (files.Node, error) {
	path := s.paths[at]
	stat := os.Stat
	if s.inFolder {
		stat = os.Lstat
	}
	info, err := stat(path)
	switch {
	case err != nil:
		return nil, err
	case s.inFolder && isHidden(s.names[at]):
		return placeholder(0, ""), nil
	case info.Mode()&fs.ModeSymlink != 0:
		return files.NewLinkFile("", nil), nil
	case info.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		return files.NewReaderFile(f), nil
	case !info.IsDir():
		return placeholder(info.Mode().Type(), ""), nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	below := &sources{inFolder: true}
	for _, e := range entries {
		below.paths, below.names = append(below.paths, filepath.Join(path, e.Name())), append(below.names, e.Name())
	}
	return below, nil
}

func isHidden(name string) bool { return strings.HasPrefix(name, ".") }

// placeholder returns an empty file whose mode says why it was not sent. The
// mode of a file that could not be read is irregular, and its content is the
// reason.
func placeholder(mode fs.FileMode, text string) files.Node {
	return files.NewReaderStatFile(strings.NewReader(text), placeholderInfo{mode})
}

type placeholderInfo struct{ mode fs.FileMode }

func (placeholderInfo) Name() string { return "" }

func (placeholderInfo) Size() int64 { return 0 }

func (i placeholderInfo) Mode() fs.FileMode { return i.mode }

func (placeholderInfo) ModTime() (t time.Time) { return t }

func (placeholderInfo) IsDir() bool { return false }

func (placeholderInfo) Sys() any { return nil }
