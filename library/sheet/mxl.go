package sheet

import (
	"archive/zip"
	"bufio"
	"encoding/xml"
	"io"
	"io/fs"
	"strings"
)

const (
	// maxZip is the size of the largest archive that is opened. It bounds the
	// number of files that an archive can claim, and so the allocation in
	// package zip.
	maxZip = 64 << 20

	maxDirectory = 1 << 20  // bytes that are read to find and parse the directory of an archive
	maxContainer = 64 << 10 // bytes of container.xml that are parsed
)

// readCompressed returns the title and composer of a compressed MusicXML file,
// and reports whether a file is one: a zip archive whose META-INF/container.xml
// names a MusicXML document as the first rootfile. See
// https://www.w3.org/2021/06/musicxml40/tutorial/compressed-mxl-files/.
func readCompressed(src *source) (title, composer string, ok bool) {
	if src.size > maxZip {
		return "", "", false
	}
	src.left = maxDirectory
	archive, err := zip.NewReader(src, src.size)
	if err != nil {
		return "", "", false
	}
	src.left = maxRead
	list, err := open(archive, "META-INF/container.xml")
	if err != nil {
		return "", "", false
	}
	document, err := open(archive, rootfile(list))
	if err != nil {
		return "", "", false
	}
	return readMusicXML(document)
}

// rootfile returns the path of the first rootfile in a container.xml, or "".
func rootfile(list *bufio.Reader) string {
	list, _ = toUTF8(list)
	d := xml.NewDecoder(io.LimitReader(list, maxContainer))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	for {
		token, err := d.Token()
		if err != nil {
			return ""
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "rootfile" {
			continue
		}
		for _, a := range start.Attr {
			if a.Name.Local == "full-path" {
				return strings.TrimPrefix(a.Value, "/")
			}
		}
		return ""
	}
}

// open returns a reader of a file in an archive. It need not be closed.
func open(archive *zip.Reader, name string) (*bufio.Reader, error) {
	for _, f := range archive.File {
		if f.Name == name {
			r, err := f.Open()
			if err != nil {
				return nil, err
			}
			return bufio.NewReader(r), nil
		}
	}
	return nil, fs.ErrNotExist
}
