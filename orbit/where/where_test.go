package where_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/orbit/where"
)

const piece = `{"title":"Prelude in C","composer":{"name":"Bach","born":1685},"year":1722,"rating":4.5,` +
	`"movements":[{"key":"C","bars":35},{"key":"c","bars":38}],"tags":["easy","solo"],"a b":1,"value":"shadowed",` +
	`"cid":{"/":"bafyreib3gnonvq6ekmovpj2ngdzzg2gwqmip5kabmaexshfcgeajbtvd6i"},"bytes":{"/":{"bytes":"AQID"}}}`

func compile(t testing.TB, text string) *where.Expression {
	t.Helper()
	e, err := where.Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func of(t testing.TB, json string) value.Value {
	t.Helper()
	v, err := value.FromJSON([]byte(json))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestExpressionsMatch(t *testing.T) {
	v := of(t, piece)
	for text, want := range map[string]bool{
		`year == 1722`:                      true,
		`year < 1800 and rating > 4`:        true,
		`year == 1722.0`:                    true,
		`year == "1722"`:                    false,
		`title startsWith "Prelude"`:        true,
		`lower(title) contains "prelude"`:   true,
		`title matches "^Pre.*C$"`:          true,
		`composer.name == "Bach"`:           true,
		`composer?.died == nil`:             true,
		`died == nil`:                       true,
		`died < 1800`:                       false,
		`not (died < 1800)`:                 false,
		`(died ?? 1750) < 1800`:             true,
		`"solo" in tags`:                    true,
		`any(movements, .bars > 36)`:        true,
		`all(movements, .bars > 36)`:        false,
		`count(movements, .bars > 36) == 1`: true,
		`len(movements) == 2`:               true,
		`value["a b"] == 1`:                 true,
		`value.title == title`:              true,
		`cid startsWith "bafy"`:             true,
		`bytes == "AQID"`:                   true,
		`movements[5].bars == 1`:            false,
		`year / 0 == 1`:                     false,
		`title.x.y == 1`:                    false,
	} {
		e, err := where.Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := e.Match(v); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]bool{`"piano"`: true, `"cello"`: false, `5`: false, `null`: false, `[]`: false} {
		e := compile(t, `value == "piano"`)
		if got, err := e.Match(of(t, text)); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestWhatIsNoExpressionIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "year =", "year = 1722", `"text"`, "5", "1 + 1", "nil",
		"len(1..1000000000) > 0", "2 ** 1000 > 1", `repeat("x", 1000000) == ""`, `title matches year`, `any(tags, any(tags, # == "x"))`, `all(tags, title contains #)`, `all(tags, # in tags)`, `all(tags, # in value.tags)`,
		`sort(tags) == tags`, `env() == 1`, `map(tags, #) == 1`, `filter(tags, true) == 1`, `now() == 1`, `let x = title; x == "a"`, `len(` + strings.Repeat("title + ", 20) + `title) > 1`, `string(value) == ""`,
		`title matches "((a?){30}){33}b"`, strings.Repeat(`title matches "(a|b|c)*d" or `, 20) + `true`, `let x = 1; x == 1 and len(map(0..9, #)) > 1`,
		strings.Repeat("true and ", 400) + "true",
		strings.Repeat(" ", where.MaxLength) + "true",
	} {
		if e, err := where.Compile(text); !errors.Is(err, where.ErrInvalid) {
			t.Errorf("%.40q: %v, %v", text, e, err)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: %q", text, err)
		}
	}
}

// Without the restrictions, each of these takes minutes.
func TestTimeIsLinearInTheValue(t *testing.T) {
	big := of(t, `{"text":"`+strings.Repeat("a", 400_000)+`","list":[`+strings.Repeat(`"aaaaaaaaa",`, 30_000)+`""]}`)
	for _, text := range []string{
		`all(list, # contains "b" or # == "")`, `all(list, # matches "(a+)+b" or true)`, `text contains "ab"`, `text matches "(a|a)*b"`, `list == value.list`, `"x" in list`, `text in list`,
		strings.TrimSuffix(strings.Repeat(`text != "b" and `, 40), " and "),
	} {
		if _, err := compile(t, text).Match(big); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A pattern that is too large is rejected before it is compiled. With
// repetitions expanded, each of these takes gigabytes.
func TestPatternsThatAreTooLargeAreNotCompiled(t *testing.T) {
	for _, text := range []string{
		`title matches "(` + strings.Repeat("a", 3000) + `){1000}"`,
		`title matches "` + strings.Repeat(`(\\pL){1000}`, 250) + `"`,
		`title matches "((((a{2}b){9}){9}){6}.{900,}){1}"`,
		strings.Repeat(`title matches "(`+strings.Repeat("ab", 100)+`){1000}" or `, 11) + "true",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := where.Compile(text)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, where.ErrInvalid) || !strings.Contains(err.Error(), "too large") {
			t.Errorf("%.40q: %v", text, err)
		}
		if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 16<<20 {
			t.Errorf("%.40q: %d bytes", text, bytes)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(`year < 1800 and any(tags, # == "solo")`, piece)
	f.Add(`(died ?? 1750) < 1800`, `{"died":{}}`)
	f.Add(`value.a[0]["b"] matches "x*"`, `{"a":[{"b":"xxx"}]}`)
	f.Fuzz(func(t *testing.T, text, json string) {
		v, err := value.FromJSON([]byte(json))
		if err != nil {
			return
		}
		e, err := where.Compile(text)
		if err != nil {
			return
		}
		if _, err := e.Match(v); err != nil {
			t.Error(err)
		}
	})
}
