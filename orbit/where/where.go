// Package where chooses values by an expression, such as
//
//	instrument == "Piano" and year < 1800
//
// The language is that of github.com/expr-lang/expr. The names in it are the
// members of the map that the value is, nil where there is none; "value" is the
// value itself, also where it is no map. Numbers are numbers whether they are
// integers or floats, a link is the text of its CID, and bytes are their base64
// as in DAG-JSON.
//
// A value on which the expression fails, such as nil < 1800, does not match:
// say (year ?? 1900) < 1800 where a member may be missing.
//
// # Cost
//
// Expressions come from whoever may call the daemon, and values from any peer.
//
//   - An expression has at most [MaxLength] bytes and 256 nodes. [Compile] takes time
//     and memory in proportion to its length: the patterns of "matches" have 128 steps
//     together, those that are repeated written out, and larger ones are refused before
//     they are compiled.
//   - An evaluation takes time in proportion to the size of the value times that of the
//     expression, and holds the value decoded. There are neither ranges nor functions
//     that make much of little, a text grows to nine times its size at most, and a
//     predicate, as in any(tags, # == "solo"), can speak of its item alone.
package where

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"
	"github.com/ipfs/go-cid"

	"github.com/newpieceplease/npp/orbit/value"
)

const (
	// MaxLength is the longest expression, in bytes.
	MaxLength = 4 << 10

	maxNodes  = 256
	maxPluses = 8       // each may make a text as long as both its sides
	maxSteps  = 128     // of all patterns, for each character of a text
	maxMemory = 1 << 16 // items that an evaluation makes
)

// ErrInvalid says that an expression is none, or one that is not allowed.
var ErrInvalid = errors.New("invalid expression")

// functions are those that take no longer than it takes to read their
// arguments, and give back no more than they got.
var functions = []string{
	"all", "any", "none", "one", "count",
	"len", "lower", "upper", "trim", "hasPrefix", "hasSuffix", "indexOf",
	"int", "float", "abs", "ceil", "floor", "round", "min", "max", "type", "keys", "values", "first", "last", "get",
}

// Expression is a compiled expression. It may be used concurrently.
type Expression struct{ program *vm.Program }

// Compile returns the expression that a text is, or [ErrInvalid].
func Compile(text string) (*Expression, error) {
	if len(text) > MaxLength {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(text), MaxLength)
	}
	if strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrInvalid)
	}
	// Compiling a pattern takes as much as what it repeats, written out, so that is
	// known before.
	tree, err := parser.Parse(text)
	if err != nil {
		return nil, invalid(err)
	}
	sizes := new(patterns)
	if ast.Walk(&tree.Node, sizes); sizes.steps > maxSteps {
		return nil, invalid(errTooLarge)
	}
	check := new(checker)
	options := []expr.Option{
		expr.Env(map[string]any{}), expr.AllowUndefinedVariables(), expr.AsBool(),
		expr.MaxNodes(maxNodes), expr.DisableAllBuiltins(), expr.Patch(check), expr.Optimize(false),
	}
	for _, f := range functions {
		options = append(options, expr.EnableBuiltin(f))
	}
	program, err := expr.Compile(text, options...)
	if err == nil {
		err = check.err
	}
	if err != nil {
		return nil, invalid(err)
	}
	return &Expression{program}, nil
}

func invalid(err error) error {
	first, _, _ := strings.Cut(err.Error(), "\n")
	if strings.Contains(first, `Operator("=")`) {
		first += "; == compares"
	}
	return fmt.Errorf("%w: %s", ErrInvalid, first)
}

var errTooLarge = errors.New("the patterns to match are too large")

// patterns adds up what the patterns of an expression have at least.
type patterns struct{ steps int }

// Visit implements [ast.Visitor].
func (p *patterns) Visit(node *ast.Node) {
	n, ok := (*node).(*ast.BinaryNode)
	if !ok || n.Operator != "matches" {
		return
	}
	if pattern, ok := n.Right.(*ast.StringNode); ok {
		if parsed, err := syntax.Parse(pattern.Value, syntax.Perl); err == nil {
			p.steps = min(p.steps+least(parsed), maxSteps+1)
		}
	}
}

// least is how many characters and classes of characters a pattern has, those that are
// repeated written out, up to one more than maxSteps. It has as many steps or more.
func least(re *syntax.Regexp) int {
	n := 0
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		n = 1
	}
	for _, sub := range re.Sub {
		n = min(n+least(sub), maxSteps+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max)
	}
	return min(n, maxSteps+1)
}

// checker refuses what would make an evaluation take more than in proportion
// to the size of the expression and of the value.
type checker struct {
	err           error
	pluses, steps int
}

// Visit implements [ast.Visitor].
func (c *checker) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.BinaryNode:
		switch n.Operator {
		case "..":
			c.err = errors.New("there are no ranges (..)")
		case "**", "^":
			c.err = errors.New("there are no powers (" + n.Operator + ")")
		case "+":
			if c.pluses++; c.pluses > maxPluses {
				c.err = fmt.Errorf("more than %d + are too many", maxPluses)
			}
		case "matches":
			pattern, ok := n.Right.(*ast.StringNode)
			if !ok {
				c.err = errors.New("a pattern to match must be written out")
				break
			}
			if c.steps += steps(pattern.Value); c.steps > maxSteps {
				c.err = errTooLarge
			}
		}
	case *ast.VariableDeclaratorNode:
		c.err = errors.New("there are no variables (let)")
	case *ast.CallNode:
		c.err = fmt.Errorf("%.40s is no function here", n.Callee)
	case *ast.PredicateNode:
		inner := new(outward)
		ast.Walk(&n.Node, inner)
		if inner.found {
			c.err = errors.New("a predicate can speak of its item (#) alone")
		}
	}
}

// steps is how much a pattern may take for each character of a text.
func steps(pattern string) int {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0 // it is refused where it is compiled
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return maxSteps + 1
	}
	return len(program.Inst)
}

// outward looks for what makes a predicate take, for each item, what depends
// on more than the item: names, and predicates within.
type outward struct{ found bool }

// Visit implements [ast.Visitor].
func (o *outward) Visit(node *ast.Node) {
	switch (*node).(type) {
	case *ast.PredicateNode, *ast.IdentifierNode:
		o.found = true
	}
}

// Match reports whether the expression is true of a value.
func (e *Expression) Match(v value.Value) (bool, error) {
	decoded, err := v.Any()
	if err != nil {
		return false, err
	}
	decoded = plain(decoded)
	names, _ := decoded.(map[string]any)
	env := make(map[string]any, len(names)+1)
	for name, member := range names {
		env[name] = member
	}
	env["value"] = decoded
	machine := vm.VM{MemoryBudget: maxMemory}
	result, err := machine.Run(e.program, env)
	is, _ := result.(bool)
	return is && err == nil, nil
}

// plain makes texts of what an expression has no literals for.
func plain(v any) any {
	switch v := v.(type) {
	case cid.Cid:
		return v.String()
	case []byte:
		return base64.RawStdEncoding.EncodeToString(v)
	case map[string]any:
		for name, member := range v {
			v[name] = plain(member)
		}
	case []any:
		for i, item := range v {
			v[i] = plain(item)
		}
	}
	return v
}
