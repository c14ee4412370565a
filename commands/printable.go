package commands

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printable escapes control characters, which a terminal would obey, and line
// breaks, with which a peer could forge lines of output. The result contains
// only characters for which [unicode.IsPrint] is true.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD") // a single byte may be a control character
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// unescaped are the escapes that Go writes into JSON for the sake of browsers.
var unescaped = map[string]string{`\u003c`: "<", `\u003e`: ">", `\u0026`: "&"}

// jsonText is [printable] for JSON. The result is equivalent JSON.
func jsonText(text json.RawMessage) string {
	var b strings.Builder
	for s := string(text); s != ""; {
		if s[0] == '\\' {
			plain, n := unescaped[s[:min(6, len(s))]], 6
			if plain == "" {
				n = 1
				if strings.HasPrefix(s, `\\`) {
					n = 2
				}
				plain = s[:n]
			}
			b.WriteString(plain)
			s = s[n:]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			for _, u := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
		}
		s = s[n:]
	}
	return b.String()
}

// keyText returns a JSON string without its quotes, and any other JSON as
// [jsonText] does.
func keyText(key json.RawMessage) string {
	var s string
	if json.Unmarshal(key, &s) == nil && string(key) != "null" {
		return printable(s)
	}
	return jsonText(key)
}

// hintArg returns an argument for the command line in a hint, or "<db>" if the
// argument is long or needs quotes.
func hintArg(arg string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("/._-", r)
	}
	if arg != "" && len(arg) <= 100 && strings.IndexFunc(arg, func(r rune) bool { return !plain(r) }) < 0 {
		return arg
	}
	return "<db>"
}

// shellQuote quotes a key for the command line in a hint. A key that contains
// single quotes becomes "<key>".
func shellQuote(key string) string {
	switch {
	case strings.HasPrefix(key, "-"):
		return "-- " + key
	case strings.Contains(key, "'"):
		return "<key>"
	case strings.ContainsAny(key, "[]{}\" "):
		return "'" + key + "'"
	}
	return key
}
