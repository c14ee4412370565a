package sheet

import (
	"bufio"
	"io"
	"strconv"
)

const (
	maxObject  = 256 << 10 // bytes of an object, without its stream
	maxNesting = 32        // depth of nested arrays and dictionaries
)

// The types of PDF values, besides int64 and []any.
type (
	name      string
	octets    []byte // a string
	keyword   string // also a real number, a boolean, null or a closing delimiter
	reference int64  // object number
	dict      map[name]any
)

// lexer reads the values of a PDF.
type lexer struct {
	r    *bufio.Reader
	at   int64 // offset of the next byte in the document
	left int   // bytes that may still be read

	values *int // values that may still be read from the document
}

func newLexer(r *bufio.Reader, at int64, values *int) *lexer { return &lexer{r, at, maxObject, values} }

// lexer returns a lexer that begins at an offset.
func (p *pdf) lexer(at int64) (*lexer, error) {
	if at < 0 || at >= p.src.size-p.start {
		return nil, errPDF
	}
	return newLexer(p.src.reader(p.start+at), at, &p.values), nil
}

// object reads the object at an offset. Its object number must be number,
// unless number is negative. The returned lexer is at the end of the object's
// value, where its stream would begin.
func (p *pdf) object(at, number int64) (any, *lexer, error) {
	l, err := p.lexer(at)
	if err != nil {
		return nil, nil, err
	}
	var head [3]any
	for i := range head {
		if head[i], err = l.value(0); err != nil {
			return nil, nil, err
		}
	}
	n, ok := head[0].(int64)
	if !ok || head[2] != keyword("obj") || number >= 0 && n != number {
		return nil, nil, errPDF
	}
	v, err := l.value(0)
	return v, l, err
}

func (l *lexer) next() (byte, error) {
	if l.left--; l.left < 0 {
		return 0, errTooMuch
	}
	c, err := l.r.ReadByte()
	if err == nil {
		l.at++
	}
	return c, err
}

// back unreads the last byte.
func (l *lexer) back() {
	l.r.UnreadByte()
	l.at--
	l.left++
}

func white(c byte) bool {
	switch c {
	case 0, '\t', '\n', '\f', '\r', ' ':
		return true
	}
	return false
}

func delimits(c byte) bool {
	switch c {
	case '(', ')', '<', '>', '[', ']', '{', '}', '/', '%':
		return true
	}
	return false
}

// space skips white space and comments.
func (l *lexer) space() {
	comment := false
	for {
		c, err := l.next()
		switch {
		case err != nil:
			return
		case comment:
			comment = c != '\n' && c != '\r'
		case c == '%':
			comment = true
		case !white(c):
			l.back()
			return
		}
	}
}

// value reads a value at a nesting depth. A closing delimiter of an array or a
// dictionary is returned as a keyword.
func (l *lexer) value(depth int) (any, error) {
	if *l.values--; *l.values < 0 {
		return nil, errTooMuch
	}
	l.space()
	c, err := l.next()
	if err != nil {
		return nil, err
	}
	switch c {
	case '/':
		return l.name()
	case '(':
		return l.literal()
	case '[':
		return l.sequence("]", depth)
	case ']':
		return keyword("]"), nil
	case '<', '>':
		second, err := l.next()
		switch {
		case err != nil:
			return nil, err
		case second != c:
			if l.back(); c == '<' {
				return l.hex()
			}
			return nil, errPDF
		case c == '>':
			return keyword(">>"), nil
		}
		all, err := l.sequence(">>", depth)
		if err != nil {
			return nil, err
		}
		d := dict{}
		for i := 0; i+1 < len(all); i += 2 {
			key, ok := all[i].(name)
			if !ok {
				return nil, errPDF
			}
			d[key] = all[i+1]
		}
		return d, nil
	case ')', '{', '}':
		return nil, errPDF
	}
	l.back()
	word, err := l.word()
	if err != nil {
		return nil, err
	}
	if n, err := strconv.ParseInt(word, 10, 64); err == nil {
		return n, nil
	}
	return keyword(word), nil
}

// sequence reads values up to a closing delimiter.
func (l *lexer) sequence(end keyword, depth int) ([]any, error) {
	if depth == maxNesting {
		return nil, errTooMuch
	}
	var all []any
	for {
		v, err := l.value(depth + 1)
		if err != nil {
			return nil, err
		}
		switch v {
		case end:
			return all, nil
		case keyword("]"), keyword(">>"), keyword("obj"), keyword("endobj"), keyword("stream"):
			return nil, errPDF
		case keyword("R"):
			if len(all) < 2 {
				return nil, errPDF
			}
			n, ok := all[len(all)-2].(int64)
			if !ok {
				return nil, errPDF
			}
			all, v = all[:len(all)-2], reference(n)
		}
		all = append(all, v)
	}
}

// word reads up to white space or a delimiter.
func (l *lexer) word() (string, error) {
	var b []byte
	for {
		c, err := l.next()
		switch {
		case err == io.EOF:
			return string(b), nil
		case err != nil:
			return "", err
		case white(c) || delimits(c):
			l.back()
			return string(b), nil
		}
		b = append(b, c)
	}
}

// name reads a name after its slash. A byte may be written as # and two
// hexadecimal digits.
func (l *lexer) name() (name, error) {
	word, err := l.word()
	if err != nil {
		return "", err
	}
	var b []byte
	for i := 0; i < len(word); i++ {
		if word[i] == '#' && i+2 < len(word) {
			if n, err := strconv.ParseUint(word[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(n))
				i += 2
				continue
			}
		}
		b = append(b, word[i])
	}
	return name(b), nil
}

// literal reads a literal string after its opening parenthesis.
func (l *lexer) literal() (octets, error) {
	b := octets{}
	for depth := 1; ; {
		c, err := l.next()
		if err != nil {
			return nil, err
		}
		switch c {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return b, nil
			}
		case '\\':
			if b, err = l.escape(b); err != nil {
				return nil, err
			}
			continue
		}
		b = append(b, c)
	}
}

// escape reads an escape sequence after its backslash, and appends its value.
func (l *lexer) escape(b octets) (octets, error) {
	c, err := l.next()
	if err != nil {
		return nil, err
	}
	switch c {
	case 'n', 'r', 't':
		return append(b, ' '), nil
	case 'b', 'f':
		return b, nil
	case '\n': // line continuation
		return b, nil
	case '\r':
		if c, err = l.next(); err == nil && c != '\n' {
			l.back()
		}
		return b, nil
	}
	if c < '0' || c > '7' {
		return append(b, c), nil
	}
	n := c - '0'
	for range 2 {
		if c, err = l.next(); err != nil {
			return nil, err
		}
		if c < '0' || c > '7' {
			l.back()
			break
		}
		n = n<<3 | (c - '0')
	}
	return append(b, n), nil
}

// hex reads a hexadecimal string after its opening angle bracket.
func (l *lexer) hex() (octets, error) {
	b := octets{}
	half := false
	for {
		c, err := l.next()
		if err != nil {
			return nil, err
		}
		if c == '>' {
			return b, nil
		}
		if white(c) {
			continue
		}
		n, err := strconv.ParseUint(string(rune(c)), 16, 4)
		if err != nil {
			return nil, errPDF
		}
		if half {
			b[len(b)-1] |= byte(n)
		} else {
			b = append(b, byte(n)<<4)
		}
		half = !half
	}
}
