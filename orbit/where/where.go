// Package where filters values by an expression, such as
//
//	instrument == "Piano" and year < 1800
//
// The language is that of github.com/expr-lang/expr. Names denote the members
// of the value, which is a map; a missing member is nil. "value" denotes the
// value itself, whether or not it is a map. Integers and floats are both
// numbers. A link is the text of its CID, and bytes are base64 text as in
// DAG-JSON.
//
// If the evaluation fails, as for nil < 1800, the value does not match. Where a
// member may be missing, write (year ?? 1900) < 1800.
//
// # Cost
//
// Expressions come from any caller of the daemon, and values from any peer.
//
//   - An expression has at most [MaxLength] bytes and 256 nodes. [Compile]
//     takes time and memory proportional to its length: the patterns of
//     "matches" together compile to at most 128 instructions, with repetitions
//     expanded, and larger ones are rejected before they are compiled.
//   - An evaluation takes time proportional to the size of the value times the
//     size of the expression, and holds the decoded value. The language has no
//     ranges and no functions whose result is much larger than their arguments.
//     A text grows to at most nine times its size. A predicate, as in any(tags,
//     # == "solo"), can refer only to its item.
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
	// MaxLength is the length of the longest expression, in bytes.
	MaxLength = 4 << 10

	maxNodes  = 256
	maxPluses = 8       // each may concatenate two texts
	maxSteps  = 128     // instructions of all patterns, each executed once per character
	maxMemory = 1 << 16 // items that an evaluation may allocate
)

// ErrInvalid is returned for a text that is not an expression, or that is not
// permitted.
var ErrInvalid = errors.New("invalid expression")

// functions are the permitted functions. They take time proportional to the
// size of their arguments, and their result is no larger than these.
var functions = []string{
	"all", "any", "none", "one", "count",
	"len", "lower", "upper", "trim", "hasPrefix", "hasSuffix", "indexOf",
	"int", "float", "abs", "ceil", "floor", "round", "min", "max", "type", "keys", "values", "first", "last", "get",
}

// Expression is a compiled expression. It may be used concurrently.
type Expression struct{ program *vm.Program }

// Compile parses and checks an expression. It returns [ErrInvalid] if the text
// is not a permitted expression.
func Compile(text string) (*Expression, error) {
	if len(text) > MaxLength {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(text), MaxLength)
	}
	if strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrInvalid)
	}
	// The cost of compiling a pattern depends on its size with all
	// repetitions expanded, so this size is computed first.
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
		first += "; use == to compare"
	}
	return fmt.Errorf("%w: %s", ErrInvalid, first)
}

var errTooLarge = errors.New("the patterns of matches are too large")

// patterns sums up the minimum size of the patterns in an expression.
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

// least returns the number of characters and character classes of a pattern
// with all repetitions expanded, up to maxSteps+1. The pattern compiles to at
// least that many instructions.
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

// checker rejects operations that would make an evaluation take more time than
// the product of the sizes of expression and value.
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
			c.err = errors.New("ranges (..) are not supported")
		case "**", "^":
			c.err = errors.New("powers (" + n.Operator + ") are not supported")
		case "+":
			if c.pluses++; c.pluses > maxPluses {
				c.err = fmt.Errorf("more than %d operators +", maxPluses)
			}
		case "matches":
			pattern, ok := n.Right.(*ast.StringNode)
			if !ok {
				c.err = errors.New("the pattern of matches must be a literal")
				break
			}
			if c.steps += steps(pattern.Value); c.steps > maxSteps {
				c.err = errTooLarge
			}
		}
	case *ast.VariableDeclaratorNode:
		c.err = errors.New("variables (let) are not supported")
	case *ast.CallNode:
		c.err = fmt.Errorf("unknown function %.40s", n.Callee)
	case *ast.PredicateNode:
		inner := new(outward)
		ast.Walk(&n.Node, inner)
		if inner.found {
			c.err = errors.New("a predicate can refer only to its item (#)")
		}
	}
}

// steps returns the number of instructions to which a pattern compiles.
// Matching executes each at most once per character.
func steps(pattern string) int {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0 // the compiler rejects it
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return maxSteps + 1
	}
	return len(program.Inst)
}

// outward finds the nodes by which the cost of a predicate depends on more than
// its item: names and nested predicates.
type outward struct{ found bool }

// Visit implements [ast.Visitor].
func (o *outward) Visit(node *ast.Node) {
	switch (*node).(type) {
	case *ast.PredicateNode, *ast.IdentifierNode:
		o.found = true
	}
}

// Match reports whether the expression is true for a value. Its error is not
// nil if the value is malformed.
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

// plain converts links and bytes, for which expressions have no literals, to
// text.
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
