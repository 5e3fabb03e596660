"""Hand-written modules on which a real OPA and the engine are compared: the constructs where engines usually part ways."""

from __future__ import annotations

from typing import Final

DATA: Final = {
    "n": 3,
    "xs": [1, 2, 3, 2],
    "o": {"a": 1, "b": {"c": [1, {"d": 2}]}, "2": "two"},
    "roles": {"admin": {"level": 3}, "user": {"level": 1}},
    "deep": {"x": {"y": {"z": 1}}},
}
INPUT: Final = {"user": "bob", "xs": [3, 1, 2], "o": {"k": "v", "l": ["m"]}, "n": 2, "t": True, "f": False, "nil": None}

LEXICAL: Final = (
    "package fuzz\r\n\r\nr := `a\r\nb`\r\n",
    "\ufeffpackage fuzz\nr := 1\n",
    'package fuzz\nr := "a\tb"\n',
    "package fuzz\nr := 'a'\n",
    "package fuzz # c\n# x\nr := 1 # y",
    'package fuzz\nr := "\\ud83d\\ude00"\n',
    'package fuzz\nr := "\\ud83d"\n',
    'package fuzz\nr := "\\u00"\n',
    "package fuzz\nr\xe9 := 1\n",
    "package fuzz\nr1\u0661 := 1\n",
    "package fuzz\nr := 1;s := 2\n",
    "package fuzz\nr := 1 s := 2\n",
    'package fuzz\nr := [1,]\ns := {1,}\nt := {"a": 1,}\n',
    "package fuzz\nr := [,1]\n",
    'package fuzz\nr := {\n"a":\n1\n,\n"b": 2\n}\n',
    "package fuzz\nr if {\n1 +\n1 == 2\n}\n",
    "package fuzz\nr if { true; }\n",
    "package fuzz\nr if { ; true }\n",
    "package fuzz\nf(x,) := x\nr := f(1,)\n",
    "package fuzz\nr := f (1)\nf(x) := x\n",
    "package fuzz\nr := [1,2] [0]\n",
    "package fuzz\nr := input\n.x\n",
    "package fuzz\nr := - 1\n",
    "package fuzz\nr := -input.x\n",
    "package fuzz\nr := 1 - -1\n",
    "package fuzz\nr := --1\n",
    "package fuzz\nr := 1-1\n",
    "package fuzz\nr := not.x\nnot.x := 1\n",
    "package fuzz.in\nr := 1\n",
    'package fuzz["a-b"]\nr := 1\n',
    "package fuzz.a.b\nr := 1\n",
    "package fuzz\nimport rego.v1\nimport future.keywords.in\nimport future.keywords\nr := 1\n",
    "package fuzz\nr := true == true == true\n",
    "package fuzz\nr := 1 < 2 == true\n",
    "package fuzz\nr := 1 + 2 * 3 - 4 / 2\n",
    "package fuzz\nr := {1} | {2} & {2}\n",
    "package fuzz\nr if { not not true }\n",
    "package fuzz\nr if { some x, y in [1]; x; y }\n",
    "package fuzz\nr if { x in [1] }\n",
    'package fuzz\nr["a"].b := 1\nr.c := 2\n',
    "package fuzz\nr[1] := 1\n",
    "package fuzz\nr[true] := 1\n",
    "package fuzz\nr[1.5] := 1\n",
    "package fuzz\nr.a.b contains 1\n",
    'package fuzz\nr := x if { x := {y: z | some y, z in {"a": 1}} }\n',
    "package fuzz\nr := {x | x := [1,2][_]; x > 1}\n",
    'package fuzz\nr := {"a" | true}\n',
    "package fuzz\nr := {{1} | true}\n",
    "package fuzz\nr := [[1] | true]\n",
    "package fuzz\nr := {1: 2 | true}\n",
    "package fuzz\nr := (1)\n",
    "package fuzz\nr := ((1 + 1))\n",
    "package fuzz\nr := ([1])[0]\n",
    "package fuzz\nr := (input).x\n",
    'package fuzz\nr := ""\ns := ``\nt := $""\n',
    'package fuzz\nr := $"{{1,2}}"\n',
    'package fuzz\nr := $"{"}"}"\n',
    'package fuzz\nr := $"a\\{b\\}"\n',
    'package fuzz\nr := $"}"\n',
    'package fuzz\ndefault r := {1, [2], {"a": 3}}\n',
    "package fuzz\ndefault r = 1\nr = 2 if input.x\n",
    "package fuzz\nr { true }\n",
    "package fuzz\nr = 1\n",
    "package fuzz\nr = 1 if true\n",
    "package fuzz\nr contains 1 if true\n",
    "package fuzz\nr contains 1\n",
    "package fuzz\nr if true else := 2\n",
    "package fuzz\nr if {\n\ttrue\n} else := 3 if {\n\tfalse\n}\n",
    "package fuzz\nr := 1 if true\nelse = 2 if true\n",
    "package fuzz\nr := data.fuzz2\n",
    "package fuzz\nr := data\n",
    "package fuzz\nr := count(data.base)\n",
    "package fuzz\nr if input.x.y.z[_][_].a\n",
    "package fuzz\nr := [x | [x, _] := [[1,2]][_]]\n",
    "package fuzz\nr := every\nevery := 1\n",
    'package fuzz\nr := contains("ab", "a")\n',
    "package fuzz\ncontains := 1\n",
    "package fuzz\nr if { contains := 1; contains == 1 }\n",
    "package fuzz\nr := if_\nif_ := 1\n",
    "package fuzz\nimport data.base as b\nr := b.n\n",
    "package fuzz\nimport input\nr := input.n\n",
    "package fuzz\nimport input.o as o\nr := o\n",
)
"""Whole modules: how text is read."""

MODULES: Final[dict[str, str]] = {
    "general ref heads": """
a[x].b[y] := z if { some x in ["p", "q"]; some y in [1, 2]; z := concat("-", [x, format_int(y, 10)]) }
a.p.c := 5
r1 := a.p
r2 := a[_].b[1]
r3 := [v | v := a[_].b[2]]
r4 contains k if a[k].c
r5 := a.q.b
r6 if not a.zzz
""",
    "multi-value ref heads": """
a.b contains 1
a.c[x] contains y if { some x in ["m", "n"]; some y in [1, 2] }
r1 := a
r2 := a.c.m
r3 if 2 in a.c.n
r4 if a.c.m[1]
r5 if not a.c.zz
""",
    "partial object conflicts": """
a[x] := y if { some x in ["k"]; some y in [1, 2] }
r := a
""",
    "partial object keyed lookups do not see conflicts elsewhere": """
a[x] := y if { some x in ["k", "l"]; some y in base.xs; y > 1; y < 3 }
a["z"] := y if { some y in [1, 2] }
r := a.k
""",
    "nested key conflicts": """
a.b[x] := {"c": 1} if { some x in ["k"] }
a.b[x].d := 2 if { some x in ["k"] }
r := a
""",
    "complete conflicts": """
a := 1 if input.t
a := 2 if input.user
r := a
""",
    "no conflict for equal values": """
a := 1.0 if input.t
a := 1 if input.user
r := a
""",
    "functions with patterns": """
f([x, y]) := x + y
f({"a": x}) := x
f("s") := 0
r1 := f([1, 2])
r2 := f({"a": 5})
r3 := f("s")
r4 if not f(1)
r5 if f({"a": true})
g(x) if x > 2
r6 if g(3)
r7 if not g(1)
h(1, "a") := 1
h(x, y) := 2 if { x > 1; y != "a" }
r8 := [h(1, "a"), h(2, "b")]
""",
    "function conflicts": """
f(x) := 1 if x > 0
f(x) := 2 if x > 1
r1 := f(1)
r2 := f(2)
""",
    "default functions and else": """
default f(_) := "none"
f(x) := "small" if x < 3 else := "big" if x < 10
r := [f(1), f(5), f(50), f("x")]
default a := 0
a := 1 if input.nope else := 2 if input.t else := 3
""",
    "with on everything": """
p if input.x == 1
q := data.fuzz.base_n
base_n := base.n
f(x) := x
r1 if p with input as {"x": 1}
r2 if p with input.x as 1
r3 := q with data.base.n as 7
r4 := q with data.base as {"n": 8}
r5 := q with data.fuzz.base_n as 9
r6 := f(1) with f as 2
r7 := count([1, 2]) with count as 5
r8 := x if { x := input.o.k with input.o as {"k": 1} }
r9 := [y | some y in base.xs with data.base.xs as [9]]
r10 if not p with input.x as 2
r11 := input.user with input.user as "eve"
r12 := {k | data.base[k]} with data.base.extra as 1
r13 := input with input.o.k.deep as 3
r14 := q with data.base.n as 1 with data.fuzz.base_n as 2
""",
    "with and nested functions": """
f(x) := g(x)
g(x) := count(x)
mock(_) := 100
r1 := f([1]) with count as mock
r2 := f([1]) with g as mock
r3 := f([1]) with count as 3 with g as count
r4 := f([1])
""",
    "every": """
r1 if every x in base.xs { x > 0 }
r2 if every x in [] { x == 1 }
r3 if not every_fails
every_fails if every x in base.xs { x > 1 }
r4 if every k, v in input.o { is_string(k); v != 1 }
r5 if every x in {1, 2} { some y in base.xs; y == x }
r6 if not over_number
over_number if every x in input.n { x }
r7 if every i, x in base.xs { base.xs[i] == x }
""",
    "comprehensions": """
r1 := [x | some x in base.xs; x > 1]
r2 := {x | some x in base.xs}
r3 := {k: v | some k, v in input.o}
r4 := [[i, x] | some i, x in base.xs]
r5 := {x: [i | some i, y in base.xs; y == x] | some x in base.xs}
r6 := count([1 | base.xs[_] == 2])
r7 := [x | x := base.nope]
r8 := {x | x := input.nope[_]}
r9 := [y | y := [x | some x in base.xs][_]]
r10 := {"a": x | some x in [1, 2]}
""",
    "object comprehension without conflict": """
r := {"a": x | some x in [1, 1.0]}
""",
    "negation": """
r1 if not input.nope
r2 if not input.f
r3 if not input.nil == 1
r4 if not false
r5 if { x := 1; not x == 2 }
r6 if { not count(input.nope) > 0 }
r7 if not input.nil
""",
    "iteration and joins": """
r1 := [[x, y] | x := base.xs[i]; y := input.xs[i]]
r2 := {i | base.xs[i] == input.xs[_]}
r3 := {[k, l] | base.roles[k].level > base.roles[l].level}
r4 := [x | base.xs[_] = x; x = 2]
r5 := {k | some k; base.roles[k].level == 1}
r6 := [p | walk(base.deep, [p, 1])]
r7 := {p | walk(base.o, [p, v]); is_number(v)}
r8 := [[k, v] | some k, v in {"b": 1, "a": 2}]
r9 := [x | some x in {3, 1, 2}]
""",
    "unification": """
r1 := x if { [x, 2] = [1, 2] }
r2 := [x, y] if { {"a": x, "b": [y]} = {"a": 1, "b": [2]} }
r3 if { [1, [2, {"c": 3}]] = [1, [2, {"c": 3}]] }
r4 := x if { x = y; y = 3 }
r5 := [a, b] if { [a, b] = [b, 1] }
r6 if not nope
nope if { [1, 2] = [1] }
r7 := x if { {"k": x} = input.o }
r8 := x if { {"k": x, "l": _} = input.o }
r9 if { 1 = 1.0 }
r10 if { "a" = "a"; null = null; true = true }
r11 := x if { [_, x, _] := [1, 2, 3] }
""",
    "numbers": """
r1 := [1 / 3, 0.1 + 0.2, 1e3, 10 % 3, -7 % 3, 7 / 2, 6 / 2, 2 * 0.5]
r2 := [9007199254740993 + 1, 18446744073709551616 * 2, 1e400 > 1, 1.0 == 1]
r3 := {1, 1.0, 2}
r4 := [1.50, 1e-7, 100000000000000000000000, -0]
r5 := [round(2.5), ceil(1.1), floor(-1.1), abs(-3)]
r6 := {1: "a"}[1.0]
r7 := base.xs[1.0]
r8 := [1 < 2.5, "a" < "b", [1] < [1, 0], {1} < {2}, null < false, {"a": 1} < {"b": 0}]
""",
    "strings": """
r1 := sprintf("%v|%d|%s|%.2f|%x|%q|%5d|%-5s|%t", [[1, "a"], 5, "x", 1.234, 255, "q\\"", 42, "ab", true])
r2 := $"a{input.user}b{input.nope}c{[1, "x"]}d{1.0}"
r3 := [substring("héllo", 1, 3), count("héllo"), upper("é"), indexof("abc", "c")]
r4 := split("a,b,,c", ",")
r5 := "\\u00e9\\n\\t\\"\\\\"
r6 := `raw \\n {}`
r7 := json.marshal({"b": 1, "a": [null, true, 1.5, "<&>"]})
r8 := concat(",", {"b", "a"})
""",
    "sets": """
r1 := {1, 2} | {3}
r2 := {1, 2} & {2, 3}
r3 := {1, 2} - {2}
r4 := {1, 2}[x] if x := 2
r5 if {1, 2} == {2, 1}
r6 := count({1, 1, 2})
r7 := set()
r8 := {{1}, {2}, {1}}
r9 if {1} in {{1}}
r10 := [x | {1, 2, 3}[x]; x > 1]
""",
    "objects with other keys": """
r1 := {1: "a", true: "b", null: "c", [1]: "d", {"x": 1}: "e", {2}: "f"}
r2 := r1[true]
r3 := r1[[1]]
r4 := [k | some k, _ in r1]
r5 := object.get(r1, [1], "none")
""",
    "documents of packages": """
a := 1
b contains 2
f(x) := x
r1 := data.fuzz.a
r2 := {k | data.base[k]}
r3 := [k | data.base.roles[k]]
r4 := data.base.deep.x.y
r5 if data.base.o["2"] == "two"
r6 := data.base.o[2]
""",
    "membership": """
r1 if 1 in [1, 2]
r2 if not 5 in [1, 2]
r3 if "v" in input.o
r4 if "k", "v" in input.o
r5 if 0, 3 in input.xs
r6 := {1 in [1], 2 in {3}}
r7 if not 1 in "abc"
r8 := [x | some x in [1 in [1], 2]]
r9 if { x := "k"; x, _ in [["k", 1]] } else := "no"
""",
    "what the index skips cannot fail": """
a := 1 if { 1 / 0; input.nope }
b := 1 if { 1 / 0; input.user == "eve" }
c := 1 if { 1 / 0; "zz" = input.xs[_] }
d := 1 if { 1 / 0; input.user in ["x", "y"] }
e := 1 if { 1 / 0; "q" in input.xs }
f := 1 if startswith(input.n, "a")
g(x) := 1 if { 1 / 0; x == "b" }
g(x) := 2 if startswith(x, "b")
h := g("a")
i := 1 if { 1 / 0; glob.match("a*", [], input.n) }
j := 1 if glob.match("*.b", [], input.n)
k := 1 if { v := "eve"; 1 / 0; input.user == v }
l contains 1 if { 1 / 0; base.nope }
m := 1 if { to_number(base.xs) = x; base.nope.deeper = y; x; y } else := 2
""",
    "what the index does not skip fails": """
a := 1 if { 1 / 0; not input.user }
""",
    "order decides what fails first": """
a if every x in input.o { x % 2 == 5 }
""",
    "early exit": """
p if { some x in base.xs; x == 2 }
q if { some x in base.xs; 10 / (x - 1) > 0 }
r1 := p
""",
    "undefined everywhere": """
r1 := [input.nope]
r2 := {"a": input.nope}
r3 := count(input.nope)
r4 := input.nope + 1
r5 if input.nope == input.nope
r6 := [x | x := input.nope]
r7 if not input.nope.deeper[_]
r8 := input.xs[10]
r9 := input.user.x
r10 := base.xs["a"]
""",
    "false values": """
a := false
b contains false
c[x] := false if some x in ["k"]
r1 if a == false
r2 if not a
r3 := b
r4 if b[false] == false
r5 := c.k
r6 := [x | x := a]
r7 if not c.k
f(x) := false
r8 if not f(1)
r9 := f(1)
""",
    "refs into calls and literals": """
r1 := split("a.b", ".")[1]
r2 := {"a": {"b": 1}}.a.b
r3 := [1, 2, 3][input.n]
r4 := json.unmarshal("{\\"x\\": [1]}").x[0]
r5 := {x | x := [1, 2][_]}
f(x) := {"y": x}
r6 := f(3).y
""",
    "chained rules": """
a contains x if some x in base.xs
b contains x if { some x in a; x > 1 }
c := {x: true | some x in b}
d := count(b)
e[k] := v if { some k, v in c }
r := [a, b, c, d, e]
""",
    "chains of else in functions": """
f(x) := "a" if x == 1
else := "b" if x == 2
else := "c"
r := [f(1), f(2), f(3)]
p := 1 if false
else := 2 if input.nope
""",
    "shadowing": """
count_ := count([1])
r1 := count if count := 3
r2 := input if input := 5
r3 := [x | x := 1; y := [x | x := 2][0]; y == 2]
x := 10
r4 := [x | x := 1]
r5 := x
f(x) := x
r6 := f(7)
""",
    "strict equality of types": """
r1 := [1 == true, input.nil == false, "1" == input.n, [] == {}]
""",
    "print": """
r if { print("x", input.user, input.nope); true }
""",
    "metadata": """
# METADATA
# title: a rule
# description: says something
r := 1
""",
    "template strings": """
a contains "x"
r1 := $"{1}{"s"}{true}{null}{[1]}{ {"a": 1} }"
r2 := $"{input.nope}"
r3 := $"\\{not}{input.n + 1}"
r4 := $`raw {input.user} \\n`
r5 := $"{a}"
r6 := $"{[x | some x in base.xs]}"
""",
}
