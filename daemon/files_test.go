package daemon

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/ipfs/boxo/files"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/space/spacetest"
)

// text is a file with the content of a reader.
type text struct {
	files.File
	io.Reader
	io.Seeker
}

func (t text) Read(b []byte) (int, error)               { return t.Reader.Read(b) }
func (t text) Seek(at int64, whence int) (int64, error) { return t.Seeker.Seek(at, whence) }

func textOf(r io.Reader) text { return text{files.NewBytesFile(nil), r, bytes.NewReader(nil)} }

func TestFetchingAFileEndsWhenTheDiskGetsFull(t *testing.T) {
	disk := spacetest.New()
	fetched := diskFile{textOf(bytes.NewReader(make([]byte, 100))), disk.Disk, nil}
	if n, err := fetched.Read(make([]byte, 10)); n != 10 || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	disk.Set(spacetest.Reserve - 1)
	if n, err := fetched.Read(make([]byte, 10)); n != 0 || !errors.Is(err, space.ErrFull) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestFileThatIsHereIsReadFromAFullDisk(t *testing.T) {
	disk := spacetest.New()
	disk.Set(spacetest.Reserve - 1)
	full := disk.CheckWrite(0)
	here := diskFile{textOf(bytes.NewReader(make([]byte, 100))), disk.Disk, full}
	if b, err := io.ReadAll(here); len(b) != 100 || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	missing := diskFile{textOf(iotest.ErrReader(ipld.ErrNotFound{})), disk.Disk, full}
	if _, err := missing.Read(make([]byte, 10)); !errors.Is(err, space.ErrFull) {
		t.Errorf("a block that is not here: %v", err)
	}
}
