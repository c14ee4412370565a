package readme

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents are the documents for people, below the root.
var documents = []string{"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/glossary.md"}

// elsewhere are the paths of other repositories.
var elsewhere = map[string]bool{"plugin/loader/preload_list": true}

var (
	span       = regexp.MustCompile("`([^`\n]+)`")
	link       = regexp.MustCompile(`\]\(([^)#]+)\)`)
	argument   = regexp.MustCompile(`(?:^|\s)\./([\w./-]+)`)
	slashed    = regexp.MustCompile(`^[\w.-]+(/[\w.-]+)+/?$`)
	source     = regexp.MustCompile(`^\w+\.(go|md)$`)
	identifier = regexp.MustCompile(`^(\w+)\.([A-Z]\w*(?:\.[A-Z]\w*)?)$`)
	selected   = regexp.MustCompile(`-(?:run|fuzz) (\w+)`)
	placed     = regexp.MustCompile("`(?:\\w+\\.)*(\\w+)`\\s+\\(`([\\w/]+\\.go)`\\)") // `a.B` (`c.go`)
)

// submatches returns the first submatch of each match.
func submatches(re *regexp.Regexp, text string) []string {
	var all []string
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// module is the files and the identifiers of the module.
type module struct {
	root  string
	files map[string]bool // names, without directory
	// declared has each declaration of a package as "package.Name" and
	// "package.Type.Member", by the last element of its path, and each function
	// of a test file by its name.
	declared map[string]bool
	packages map[string]bool // last elements of paths
}

func readModule(t *testing.T) *module {
	t.Helper()
	m := &module{root: Root(t), files: map[string]bool{}, declared: map[string]bool{}, packages: map[string]bool{}}
	err := filepath.WalkDir(m.root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		m.files[d.Name()] = true
		if filepath.Ext(file) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err == nil {
			m.declare(filepath.Base(filepath.Dir(file)), f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *module) declare(pkg string, f *ast.File) {
	m.packages[pkg] = true
	add := func(names ...*ast.Ident) {
		for _, n := range names {
			m.declared[pkg+"."+n.Name] = true
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				add(d.Name)
				m.declared[d.Name.Name] = true
			} else {
				m.declared[pkg+"."+receiver(d.Recv.List[0].Type)+"."+d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					add(s.Names...)
				case *ast.TypeSpec:
					add(s.Name)
					for _, member := range members(s.Type) {
						m.declared[pkg+"."+s.Name.Name+"."+member.Name] = true
					}
				}
			}
		}
	}
}

// receiver returns the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// members returns the fields of a struct, or the methods of an interface.
func members(e ast.Expr) (names []*ast.Ident) {
	var list *ast.FieldList
	switch e := e.(type) {
	case *ast.StructType:
		list = e.Fields
	case *ast.InterfaceType:
		list = e.Methods
	default:
		return nil
	}
	for _, f := range list.List {
		names = append(names, f.Names...)
	}
	return names
}

// has reports whether a file or a directory exists.
func (m *module) has(name string) bool {
	_, err := os.Stat(filepath.Join(m.root, filepath.FromSlash(name)))
	return err == nil
}

// below reports whether a path begins with a directory of the module.
func (m *module) below(name string) bool {
	first, _, deeper := strings.Cut(name, "/")
	return deeper && m.has(first)
}

// wrong returns the paths and identifiers in a document that do not exist.
func (m *module) wrong(document, text string) (wrong []string) {
	want := func(name string, ok bool) {
		if !ok {
			wrong = append(wrong, name)
		}
	}
	for _, target := range submatches(link, text) {
		if !strings.Contains(target, ":") {
			want(target, m.has(path.Join(path.Dir(document), target)))
		}
	}
	for _, name := range submatches(argument, text) {
		if name = strings.TrimRight(name, "./"); m.below(name) {
			want(name, m.has(name))
		}
	}
	for _, name := range submatches(selected, text) {
		want(name, m.declared[name])
	}
	for _, p := range placed.FindAllStringSubmatch(text, -1) {
		code, _ := os.ReadFile(filepath.Join(m.root, filepath.FromSlash(p[2])))
		declaration := regexp.MustCompile(`(?m)^(func (\(.*\) )?|type )` + p[1] + `\b`)
		want(p[1]+" in "+p[2], declaration.Match(code))
	}
	for _, s := range submatches(span, text) {
		if id := identifier.FindStringSubmatch(s); id != nil && m.packages[id[1]] {
			want(s, m.declared[s])
		}
		switch {
		case elsewhere[s]:
		case source.MatchString(s):
			want(s, m.files[s])
		case slashed.MatchString(s) && m.below(s):
			want(s, m.has(s))
		}
	}
	return wrong
}

// Every path in a document exists, and so does every identifier of a package
// and every test that a command selects. A file that is named after an
// identifier declares it.
func TestDocumentsNameWhatExists(t *testing.T) {
	m := readModule(t)
	for _, document := range documents {
		text, err := os.ReadFile(filepath.Join(m.root, filepath.FromSlash(document)))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, name := range m.wrong(document, string(text)) {
			t.Errorf("%s: %s does not exist", document, name)
		}
	}
}

func TestWrongNamesAreFound(t *testing.T) {
	m := readModule(t)
	text := "`orbit/none`, `none.go`, `orbit.None`, `orbit.Database.None`, [x](none.md), go test ./orbit/none/... -run TestNone, `Join` (`orbit/log.go`)"
	if wrong := m.wrong("docs/x.md", text); len(wrong) != 8 {
		t.Errorf("found %q", wrong)
	}
	text = "`orbit/entry`, `doc.go`, `orbit.Database.Join`, `message.Outcome.Status`, [x](glossary.md), go test ./orbit/... -run TestWrongNamesAreFound, `Database.Join`\n(`orbit/join.go`), `pieces/add`, `db.Join`"
	if wrong := m.wrong("docs/x.md", text); len(wrong) != 0 {
		t.Errorf("found %q", wrong)
	}
}
