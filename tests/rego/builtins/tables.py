"""Calls of builtins for which OPA's outcome is known: chosen arguments, and edges of each builtin, by family.

Every function hands its calls to `call(name, arguments)`; what is random in them is the same in every run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from gateway.rego.builtins.golang.time import LAYOUTS, Time
from gateway.rego.builtins.golang.zones import load
from gateway.rego.values import NumberText as NT
from gateway.rego.values import RegoSet, Value, make_object

Call = Callable[[str, list[Value]], None]
S = RegoSet


def strings(call: Call) -> None:
    """Search, case, splitting, replacing, trimming, `sprintf`, `format_int`."""
    a: Value
    b: Value
    i: Value
    k: Value
    n: Value
    p: Value
    s: Value
    t: Value
    x: Value
    y: Value
    d: Value
    strs = [
        "",
        "a",
        "abc",
        "aXbXc",
        "é",
        "日本語",
        "a😀b",
        "\x00",
        '"q\\',
        "ſK",
        "ǅ",
        "İ",
        "ß",
        "  x\t",
        "\x1c y\x1c",
        "aaa",
        "ab",
        "b",
        "\u00a0z",
        "line\nfeed",
        "\u200b",
        "\U0001f468\u200d",
    ]
    for s in strs:
        for n in ["lower", "upper", "trim_space", "strings.reverse", "count"]:
            call(n, [s])
        for t in strs:
            for n in [
                "contains",
                "startswith",
                "endswith",
                "indexof",
                "indexof_n",
                "split",
                "trim",
                "trim_left",
                "trim_right",
                "trim_prefix",
                "trim_suffix",
                "strings.count",
                "strings.any_prefix_match",
                "strings.any_suffix_match",
            ]:
                call(n, [s, t])
            for u in ["", "Z", "é"]:
                call("replace", [s, t, u])
            for k in (-5, -2, -1, 0, 1, 2, 3, 100):
                call("strings.split_n", [s, t, k])
        for i in (-1, 0, 1, 2, 3, 10):
            for j in (-1, 0, 1, 2, 10):
                call("substring", [s, i, j])
    for f in [
        "%d",
        "%v",
        "%s",
        "%q",
        "%x",
        "%X",
        "%5d",
        "%-5d|",
        "%05d",
        "%+d",
        "% d",
        "%e",
        "%g",
        "%.2f",
        "%8.3f",
        "%t",
        "%c",
        "%U",
        "%#U",
        "%b",
        "%o",
        "%#o",
        "%O",
        "%#x",
        "%T",
        "%p",
        "%w",
        "%6.2f%%",
        "%[1]d %[1]v",
        "%[2]d",
        "%*d",
        "%.*f",
        "%!",
        "%",
        "%z",
        "%#v",
        "%+v",
        "%#q",
        "%+q",
        "%08.3f",
        "%+.2e",
        "% x",
        "%# x",
        "%G",
        "%E",
        "%F",
        "%.0f",
        "%.3g",
        "%#g",
        "%-10s|",
        "%10s|",
        "%.2s",
        "%x %X",
        "%.20g",
        "%5t",
        "%é",
        "%[x]d",
        "%[1]*d",
        "%[3]*.[2]*[1]f",
        "%-+8.2f|",
        "%.1x",
    ]:
        for a in [
            [],
            [1],
            [-1],
            [0],
            [255],
            [1.5],
            [-0.0],
            [NT("1.0e0")],
            [1.0],
            ["str"],
            ['h\u00e9\n"`'],
            [True],
            [None],
            [[1, "a", 2.5]],
            [{"a": 1}],
            [RegoSet([1, 2])],
            [2**63 - 1],
            [-(2**63)],
            [2**63],
            [2**70],
            [-(2**70)],
            [1e21],
            [NT("1e400")],
            [123456789.123],
            [NT("1e5")],
            [12.0, 5],
            [5, 12, "x"],
            [1, 2, 3],
            [0x1F600],
            [0.000001234],
            [100000.0],
            [1234567.0],
            [NT("1e20")],
            [1e-7],
        ]:
            call("sprintf", [f, a])
    for n in [
        0,
        1,
        -1,
        15.9,
        -15.9,
        255,
        2**64,
        2**64 + 1,
        -(2**70),
        NT("1e3"),
        NT("1.0e2"),
        1e100,
        NT("123456789012345678901234567890.5"),
        "x",
    ]:
        for b in [2, 8, 10, 16, 16.0, 7, "a"]:
            call("format_int", [n, b])
    for p in [
        {},
        {"a": "b"},
        {"a": "b", "b": "a"},
        {"": "x"},
        {"": "-", "a": "b"},
        {"ab": "1", "a": "2", "abc": "3"},
        {"a": 1},
        {"é": "e", "日": "ri"},
    ]:
        for s in ["", "abc", "aab abc", "é日", "ba"]:
            call("strings.replace_n", [p, s])
    for d in ["", ",", "--"]:
        for a in [[], ["a"], ["a", "b"], ["a", 1], [1], RegoSet(["x", "y"]), RegoSet([1, "a"]), "x", 5]:
            call("concat", [d, a])
    for x in [["a", 1], [1], RegoSet(["a"]), [], ["ab", "cd"], 5]:
        for y in ["a", ["a", 2], RegoSet(["ab"]), [], ["c"], 7]:
            call("strings.any_prefix_match", [x, y])
            call("strings.any_suffix_match", [x, y])


def collections(call: Call) -> None:
    """Aggregates, numbers, bits, types, objects, sets, graphs."""
    a: Value
    b: Value
    g: Value
    i: Value
    k: Value
    n: Value
    o: Value
    p: Value
    s: Value
    x: Value
    d: Value
    nums = [
        0,
        1,
        -1,
        2,
        3,
        1.5,
        -1.5,
        0.5,
        -0.5,
        2.5,
        1.0,
        NT("1e3"),
        NT("1.0e0"),
        2**31,
        2**53 + 1,
        2**64 + 1,
        -(2**70),
        0.1,
        0.2,
        0.3,
        1e21,
        1e-7,
        NT("0.30"),
        NT("-0"),
        NT("123456789012345678901234567890.5"),
        1e300,
        5e-324,
        0.49999999999999994,
        4503599627370497.5,
        1234567.5,
        123456.7,
    ]
    cols = [
        [],
        nums[:6],
        nums,
        [1, 1.0],
        [1.0, 1],
        [0.1, 0.2],
        [1, "a"],
        ["b", "a"],
        [None, True, 1, "x", [1], {"a": 1}],
        RegoSet([1, 2]),
        RegoSet(),
        RegoSet([1, "a"]),
        RegoSet(nums[:10]),
        "abc",
        {"a": 1},
        5,
        None,
        [2**63 - 1, 1],
        [1e300, 1e300],
        [True, True],
        [True, False],
        RegoSet([True]),
        [NT("1e3"), 5],
        [0.1] * 10,
        [1.1, 2.2, 3.3],
        [[1], [1, 2]],
        [0.5, NT("1e0")],
    ]
    for c in cols:
        for n in ["count", "sum", "product", "max", "min", "sort", "array.reverse", "array.flatten"]:
            call(n, [c])
        for d in cols[:4]:
            call("array.concat", [c, d])
        for i in (-1, 0, 1, 2, 100, 1.0, 1.5, "x"):
            for j in (-1, 0, 1, 3, 100):
                call("array.slice", [c, i, j])
    for x in [*nums, "a", None, True, [1]]:
        for n in [
            "abs",
            "ceil",
            "floor",
            "round",
            "bits.negate",
            "to_number",
            "type_name",
            "is_number",
            "is_string",
            "is_boolean",
            "is_array",
            "is_set",
            "is_object",
            "is_null",
        ]:
            call(n, [x])
    for x in [
        "",
        "0",
        "1",
        "-1",
        "+5",
        "007",
        "1.50",
        "1e5",
        "1E5",
        "1e400",
        ".5",
        "5.",
        "0x10",
        "0x1p4",
        "1_000",
        "Infinity",
        "-inf",
        "NaN",
        " 1",
        "1 ",
        "abc",
        "-",
        "--1",
        "1e99999999",
        "123456789012345678901234567890",
        "1e-7",
        "-0",
        "1e25000",
        "1e30200",
        "1e-30200",
        "0e99999",
        "12e+3",
    ]:
        call("to_number", [x])
    ints = [0, 1, -1, 5, 255, -255, 2**64, 2**64 + 1, -(2**70), 1.5, 1.0, NT("1e3"), "x", 64, 2**64 + 3]
    for a in ints:
        for b in ints:
            for n in ["bits.and", "bits.or", "bits.xor"]:
                call(n, [a, b])
            if not (isinstance(b, int) and b > 10000):
                call("bits.lsh", [a, b])
            call("bits.rsh", [a, b])
    for a in [0, 5, -3, 1.5, 2.0, "x", 2**64]:
        for b in [0, 3, -4, 10, 2.5, 2**64 + 3]:
            if isinstance(a, (int, float)) and isinstance(b, (int, float)) and abs(a - b) > 1000:
                continue
            call("numbers.range", [a, b])
            for s in [1, 2, 0, -1, 3, 1.5, 2.0, "a", 100]:
                call("numbers.range_step", [a, b, s])
    O1 = {"a": 1, "b": {"c": [1, 2, {"d": 5}], "e": RegoSet([1, 2])}, "x": None}
    O2 = {"a": 2, "b": {"c": 7, "f": 1}}
    objs = [
        {},
        O1,
        O2,
        make_object([(1, "x"), ("1", "y"), (1.5, 2), ([1], 3), (True, 4)]),
        {"a": {"b": 2}},
        {"a": 4},
        {"a": {"c": 3}},
        [1],
        5,
        "s",
    ]
    for o in objs:
        call("object.keys", [o])
        call("count", [o])
        for k in [
            "a",
            "x",
            "zz",
            1,
            1.0,
            1.5,
            True,
            [],
            ["b"],
            ["b", "c"],
            ["b", "c", 2, "d"],
            ["b", "c", 1.0],
            ["b", "c", 5],
            ["b", "e", 2],
            ["x", "y"],
            [[1]],
            None,
            RegoSet(["a"]),
            ["a", 0],
        ]:
            call("object.get", [o, k, "dflt"])
        for k in [[], ["a"], RegoSet(["a", "b"]), {"a": 9}, ["a", "a", 1], "a", 3, [True, [1]]]:
            call("object.remove", [o, k])
            call("object.filter", [o, k])
        for p in objs:
            call("object.union", [o, p])
            call("object.union_n", [[o, p]])
            call("object.union_n", [[p, o, p]])
            call("object.subset", [o, p])
            for q in objs[:7]:
                call("object.union_n", [[o, p, q]])
    call("object.union_n", [[]])
    call("object.union_n", [5])
    subs = [
        [],
        [1],
        [1, 2],
        [2, 3],
        [1, 1],
        [1, 2, 3, 1, 2, 4],
        [1, 2, 4],
        RegoSet(),
        RegoSet([1]),
        RegoSet([1, 2]),
        RegoSet([1, 2, 3]),
        {"a": [1, 2, 3], "b": RegoSet([1, 2]), "c": {"x": 1, "y": 2}},
        {"a": [2, 3]},
        {"b": RegoSet([1])},
        {"c": {"y": 2}},
        {"c": {"y": 3}},
        {"a": 1},
        {},
        "a",
        1,
        None,
    ]
    for a in subs:
        for b in subs:
            call("object.subset", [a, b])
    for s in [
        S(),
        S([S([1, 2]), S([2, 3])]),
        S([S()]),
        S([S([1]), S([2])]),
        S([1, S([2])]),
        [1],
        S([S([1, 1.5]), S([1.5])]),
    ]:
        call("intersection", [s])
        call("union", [s])
    graphs = [
        {},
        {"a": ["b"], "b": ["c", "a"], "c": []},
        {"a": S(["b", "c"]), "b": S(["d"]), "c": ["d", "z"], "d": []},
        {"a": ["a"]},
        {"a": ["b"]},
        {"a": []},
        {"a": 5, "b": ["a"]},
        make_object([(1, [2]), (2, [1, 3]), (3, [])]),
        {"a": ["b", "c"], "b": ["a", "d"], "c": ["b", "d"], "d": ["a"]},
        5,
    ]
    for g in graphs:
        for i in [[], ["a"], ["a", "b"], S(["a", "c"]), ["zz"], [1], "a", ["b", "a"]]:
            call("graph.reachable", [g, i])
            call("graph.reachable_paths", [g, i])


def patterns(call: Call) -> None:
    """Regular expressions and intersections of globs."""
    a: Value
    b: Value
    m: Value
    n: Value
    p: Value
    s: Value
    t: Value
    pats = [
        "",
        "a",
        "a*",
        "(a|b)c",
        "(?i)ABC",
        "(?i)ſ",
        "(?i)k",
        "[a-z]+",
        "[^a-z]",
        "\\d+",
        "\\bfoo\\b",
        "\\B",
        "^a$",
        "(?m)^a$",
        "(?s).",
        "(?P<x>a)(?P<y>b)?",
        "(?<n>b)",
        "a{2,3}",
        "a{1001}",
        "a{2}{3}",
        "(a{100}){100}",
        "a**",
        "a+?",
        "*",
        "(",
        "a)",
        "[",
        "[z-a]",
        "[[:alpha:]]+",
        "[[:foo:]]",
        "[[:^digit:]]",
        "\\pL",
        "\\p{Greek}",
        "\\p{greek}",
        "\\P{L}",
        "\\p{^L}",
        "\\p{Letter}",
        "\\p{ascii}",
        "\\p{Assigned}",
        "\\p{Foo}",
        "\\pN",
        "\\C",
        "\\Qa.b\\Ec",
        "\\Q",
        "\\z",
        "\\Z",
        "\\A",
        "\\1",
        "\\01",
        "\\123",
        "\\8",
        "\\x41",
        "\\x{1F600}",
        "\\x{110000}",
        "\\x",
        "\\x4",
        "\\xg",
        "\\x{}",
        "\\",
        "\\q",
        "\\_",
        "\\é",
        "é+",
        "日|本",
        "(?:)",
        "(?i:a)b",
        "(?-i)a",
        "(?i-i)a",
        "(?z)",
        "(?i",
        "(?",
        "(?U)a+",
        "(?P<a",
        "(?P<>x)",
        "(?P<a b>x)",
        "(?P=x)",
        "(?=a)",
        "x{,2}",
        "x{2,1}",
        "x{2",
        "x{",
        "{",
        "a|",
        "|a",
        "||",
        "()",
        "a||b",
        "[]a]",
        "[^]a]",
        "[a-]",
        "[-a]",
        "[\\d-z]",
        "[a\\]b]",
        "[^\\n]",
        "a$b",
        "^*",
        "$*",
        "\\b+",
        "(^)*",
        "(a*)*",
        "(a*)+",
        "(|a)*",
        "(|a)+",
        "(a|b|)+?x",
        "[\\x{10FFFF}]",
        "(?i)[k]",
        "(?i)\\x{212A}",
        "(?i)[[:upper:]]",
        "(?i)\\p{Lu}",
        "(?i)\\PL",
        "[^\\PL]",
        "[\\pL\\d]",
        "\\s+",
        "\\w+",
        "\\W",
        "[a-z&&[^b]]",
        ".",
        "..",
        "a.c",
        "(?s)a.c",
        "(a+)+$",
        "x*",
        "[[.a.]]",
        "[a-\\d]",
        "[\\d-a]",
        "\\07",
        "[\\b]",
        "(?i)straße",
        "\\p{L",
        "\\p",
        "[\\p]",
        "(((a)))",
        "(?P<1a>x)",
        "a{0}",
        "a{0,0}b",
        "(ab){0,2}",
        "a{,}",
        "a{1,}",
        "\\pZ",
        "[[:word:]]+",
        "(?i)é",
        "foo.*bar",
        "\\.",
        "a\\-b",
        "\\/",
        "(?m)$",
        "(?m)^",
        "(?ms)^.*$",
        "\\p{Any}",
        "\\p{LC}",
        "\\p{Cn}",
        "\\p{Lowercase_Letter}",
        "\\p{Scx}",
        "(a)(b)(c)?",
        "(?i)İ",
        "(?i)ǆ",
        "[ǅ]",
        "(?i)[ǅ]",
    ]
    texts = [
        "",
        "a",
        "aaa",
        "abc",
        "ABC",
        "foo bar",
        "ſK k",
        "é日本\n😀",
        "a\nb",
        "ab12 cd34",
        "aaab",
        "\x00x",
        "a.bc",
        "xaxbx",
        "αβΓ",
        "\u212a",
        "aéb",
        "straße STRASSE",
        "\t \u00a0",
        "x" * 5,
    ]
    for p in pats:
        call("regex.is_valid", [p])
        for t in texts:
            call("regex.match", [p, t])
            call("regex.find_n", [p, t, -1])
            call("regex.find_n", [p, t, 2])
            call("regex.split", [p, t])
            call("regex.find_all_string_submatch_n", [p, t, -1])
            call("regex.replace", [t, p, "<$0|$1|${x}>"])
    for r in ["$", "$$", "$1x", "${1}x", "${", "${1", "$é", "$x", "$01", "$10", "${ }", "$_", "a$", "$-"]:
        call("regex.replace", ["abab", "(?P<x>a)(b)", r])
    for a in [5, None, "a"]:
        for b in [5, "a"]:
            call("regex.match", [a, b])
            call("regex.split", [a, b])
            call("regex.is_valid", [a])
    for n in (0, 1, 1.0, 1.5, "x", 2**64):
        call("regex.find_n", ["a", "aaa", n])
    for t, m, s, e in [
        ("urn:foo:{.*}", "urn:foo:bar", "{", "}"),
        ("urn:{a{2}}x", "urn:aax", "{", "}"),
        ("a{b", "x", "{", "}"),
        ("a}b", "x", "{", "}"),
        ("a}b{", "x", "{", "}"),
        ("<[0-9]{2}>é.", "12é.", "<", ">"),
        ("a", "a", "", "}"),
        ("a", "a", "{", "é"),
        ("a", "a", "{{", "}"),
        ("x{(}y", "x", "{", "}"),
        ("", "", "{", "}"),
        ("{.*}", "\n", "{", "}"),
        ("|a|", "a", "|", "|"),
        ("{[}", "x", "{", "}"),
        ('"{"', "x", "{", "}"),
    ]:
        call("regex.template_match", [t, m, s, e])
    gl = [
        "",
        "a",
        "a.b",
        "a*",
        "a+",
        "[a-z]",
        "[a-z]+",
        "[abc]*",
        ".*",
        ".+",
        "a.*b",
        "[0-9]*.x",
        "\\*",
        "\\[a",
        "[",
        "]",
        "*",
        "+",
        "a**",
        "[a-",
        "[-a]",
        "[z-a]",
        "[a-]]",
        "a]",
        "[\\]]",
        "pqrs",
        "p.*",
        "[a-z]+foo",
        "a+b+",
        "a*b*c*",
        "a*a+",
        "abc*",
        "[]a",
        "\\",
        "é.",
        "[é-ü]+",
        "x[a-c]y",
        "ab+c",
        "a.+c",
        ".*a.*",
        ".*b.*c",
        "a+a",
        "aa+",
        "b*",
        "[b-d]*d",
    ]
    for a in gl:
        for b in gl:
            call("regex.globs_match", [a, b])


def globs(call: Call) -> None:
    """`glob.match`."""
    g: Value
    t: Value
    d: Value
    gl = [
        "",
        "a",
        "*",
        "**",
        "a*",
        "*a",
        "*.com",
        "*.*.com",
        "**.com",
        "a?c",
        "?",
        "[a-c]x",
        "[!a-c]x",
        "[abc]",
        "[!abc]",
        "{a,b}",
        "{a,b}*c",
        "{,a}b",
        "{a,}b",
        "{a,{b,c}}d",
        "a{b",
        "a}b",
        "a,b",
        "a]b",
        "[",
        "[]",
        "[a",
        "[a-",
        "[a-]",
        "[]]",
        "[z-a]",
        "[a-b-c]",
        "[!]",
        "[!",
        "[-a]",
        "[a\\]b]",
        "\\*",
        "\\",
        "a\\",
        "\\{a\\}",
        "api.*.com",
        "{cat,bat,[fr]at}",
        "*/*",
        "/a/**",
        "/a/*",
        "é*",
        "[é-ü]",
        "?日",
        "***",
        "*.{com,org}",
        "a*b*c",
        "{*,a}",
        "{**,a.b}c",
        "*{*0,}",
        "{a*b,c}y",
        "[a-zA-Z]",
        "[\\--z]",
        "{a,b},c",
        "{}",
        "{,}",
        "a{}b",
        "[!!]",
        "[!-a]",
        "a*a*a*b",
        "*{a,b*}*c",
        "[,]",
        "{[,],x}",
        "{a\\,b,c}",
        "**{.,x}y",
        "?{?,??}",
        "a.b*",
        "*..*",
        "a\n*",
    ]
    texts = [
        "",
        "a",
        "b",
        "ab",
        "abc",
        "a.com",
        "x.a.com",
        "x.y.a.com",
        "/a/b",
        "/a/b/c",
        "/a/",
        "cat",
        "rat",
        "aXc",
        "a.c",
        "éa",
        "ü",
        "x日",
        "a.b",
        "a.bc",
        "b.c",
        "aaab",
        "aab",
        "*",
        "{a}",
        "a,b",
        "a]b",
        "]",
        "-",
        "a/b",
        "com",
        "0",
        "y",
        "a1by",
        "cy",
        "...",
        "a..b",
        ".y",
        "xy",
        "a\nb",
        ",",
        "c,c",
        "bc",
        "axbc",
    ]
    for g in gl:
        call("glob.quote_meta", [g])
        for d in [None, [], ["."], ["/"], [".", "/"], ["a"], ["é"]]:
            for t in texts:
                call("glob.match", [g, d, t])
    call("glob.match", ["a", ["ab"], "a"])
    call("glob.match", ["a", [1], "a"])
    call("glob.match", ["a", "x", "a"])
    call("glob.match", ["a", [""], "a"])
    call("glob.match", [1, None, "a"])
    call("glob.match", ["a", None, 1])
    r = random.Random(5)
    for _i in range(15000):
        g = "".join(r.choice("ab.*?{},[]!-\\**{a,b}") for _ in range(r.randrange(1, 9)))
        t = "".join(r.choice("ab.,*x") for _ in range(r.randrange(0, 6)))
        call("glob.match", [g, r.choice([None, [], ["a"]]), t])


def times(call: Call) -> None:
    """Zones, layouts, durations, differences."""
    a: Value
    b: Value
    m: Value
    n: Value
    t: Value
    v: Value
    y: Value
    d: Value
    r = random.Random(7)
    zs = [
        "",
        "UTC",
        "America/New_York",
        "Europe/London",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Europe/Dublin",
        "America/Sao_Paulo",
        "Asia/Tehran",
        "Pacific/Apia",
        "Antarctica/Troll",
        "Etc/GMT+5",
        "EST",
        "EST5EDT",
        "MST",
        "Asia/Kathmandu",
        "Africa/Monrovia",
        "America/St_Johns",
        "Nope/Zone",
        "../etc",
        "/abs",
        "GMT",
        "Asia/Pyongyang",
        "Europe/Amsterdam",
        "America/Nuuk",
        "Europe/Chisinau",
        "Pacific/Kiritimati",
        "america/new_york",
        "Asia/Gaza",
    ]
    ts = [
        0,
        1,
        -1,
        1508281630123456789,
        2**63 - 1,
        -(2**63),
        2**63,
        -(2**63) - 1,
        1e18,
        NT("1e18"),
        1.5,
        1435708800000000000,
        -9223372036854775000,
        4102444800000000000,
        8000000000000000000,
        -5000000000000000000,
        951782400000000000,
        1709164800000000000,
        1.0,
        NT("15082816301234567890000e-4"),
    ]
    for t in ts:
        for n in ["time.date", "time.clock", "time.weekday", "time.format"]:
            call(n, [t])
            for z in zs:
                call(n, [[t, z]])
    for _ in range(1500):
        t = r.randrange(-(2**63), 2**63)
        z = r.choice(zs)
        for n in ["time.date", "time.clock", "time.weekday", "time.format"]:
            call(n, [[t, z]])
    lay = [
        "RFC3339",
        "RFC3339Nano",
        "ANSIC",
        "UnixDate",
        "RubyDate",
        "RFC822",
        "RFC822Z",
        "RFC850",
        "RFC1123",
        "RFC1123Z",
        "Kitchen",
        "2006-01-02",
        "Mon Jan _2 15:04:05.000 2006",
        "02/01/06 3:04PM",
        "Monday January 2 2006",
        "__2 002 2006",
        "Z07:00 Z0700 Z07 Z070000 Z07:00:00 -07:00 -0700 -07 -070000 -07:00:00",
        ".000 .999 ,000 .000000000000",
        "_2006 pm PM",
        "Janury Mond MSTx",
        "1 2 3 4 5 6 15",
        "é2006日",
        "Jan",
        "15:04:05.999999999",
        "2006__2",
        "",
        "T",
        "20060102150405",
        "06",
        "2006-002",
        ".0001",
        "x.99",
        "Month Mon Jany",
    ]
    for t in [0, 1508281630123456789, -1, 1508281630120000000, 951782400000000001]:
        for form in lay:
            for z in ["", "America/New_York", "Asia/Kathmandu", "Africa/Monrovia"]:
                call("time.format", [[t, z, form]])
    for b in [[], ["a"], [1, 2], [1, "UTC", 3], "x", None, {}, [1, "UTC", "2006", "extra"]]:
        call("time.format", [b])
        call("time.date", [b])
    vals: list[Value] = [
        "2006-01-02T15:04:05Z",
        "2017-06-02T19:00:00-07:00",
        "2017-06-02T19:00:00.123456789123Z",
        "2017-06-02T19:00:00,5Z",
        "2017-6-2T1:2:3Z",
        "2017-02-30T00:00:00Z",
        "2017-13-01T00:00:00Z",
        "2017-01-01T24:00:00Z",
        "2017-01-01T23:59:60Z",
        "9999-01-01T00:00:00Z",
        "1600-01-01T00:00:00Z",
        "2262-04-11T23:47:16.854775807Z",
        "2262-04-11T23:47:16.854775808Z",
        "1677-09-21T00:12:43.145224192Z",
        "1677-09-21T00:12:43.145224191Z",
        "",
        "x",
        "2017-01-01T00:00:00+24:00",
        "2017-01-01T00:00:00+25:00",
        "2017-01-01T00:00:00+23:61",
        "2017-01-01T00:00:00z",
        "2017-01-01t00:00:00Z",
        "2017-01-01T00:00:00Z ",
        "2017-01-01T00:00:00.Z",
        "2017-01-01T00:00:00+0700",
        "2017-01-01T1:00:00Z",
        "2017-01-01T00:00:00é",
        "2017-01-01T00:00:00-00:01",
        "0000-01-01T00:00:00Z",
        "2017-01-01T12:00:00,123Z",
    ]
    for v in vals:
        call("time.parse_rfc3339_ns", [v])
        call("time.parse_ns", ["RFC3339", v])
        call("time.parse_ns", ["RFC3339Nano", v])
    pairs = [
        ("ANSIC", "Mon Jan  2 15:04:05 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 MST 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 GMT+3 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 GMT-13 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 UTC 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 +03 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 XY 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 ChST 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 ABCDT 2006"),
        ("UnixDate", "Mon Jan  2 15:04:05 ABCDE 2006"),
        ("RFC822", "02 Jan 06 15:04 PST"),
        ("RFC822Z", "02 Jan 69 15:04 -0700"),
        ("RFC850", "Monday, 02-Jan-68 15:04:05 MST"),
        ("RFC1123", "mon, 02 jan 2006 15:04:05 WITA"),
        ("RFC1123Z", "Mon, 02 Jan 2006 15:04:05 +0000"),
        ("2006-01-02", "2020-02-29"),
        ("2006-01-02", "2021-02-29"),
        ("2006-01-02", "2021-2-9"),
        ("2006-1-2", "2021-2-9"),
        ("2006-1-2", "2021-02-09"),
        ("01/02/2006", "12/31/1999"),
        ("3:04PM", "12:30AM"),
        ("3:04PM", "12:30PM"),
        ("3:04pm 2006-01-02", "1:30pm 2001-01-01"),
        ("3:04PM", "13:30PM"),
        ("3:04PM", "1:30XM"),
        ("15:04:05", "1:02:03"),
        ("15:04:05", "1:2:3"),
        ("15:04:05.000", "01:02:03.123"),
        ("15:04:05.000", "01:02:03.12"),
        ("15:04:05.999", "01:02:03"),
        ("15:04:05.999", "01:02:03.123456"),
        ("2006 002", "2020 366"),
        ("2006 002", "2021 366"),
        ("2006 002", "2021 060"),
        ("2006 __2", "2021  60"),
        ("2006 __2", "2021   6"),
        ("2006 002 01 02", "2020 060 02 29"),
        ("2006 002 01 02", "2020 060 03 01"),
        ("2006-01-02 x", "2020-01-01 y"),
        ("  2006", "2020"),
        ("2006", "  2020"),
        ("2006 01", "2020  01"),
        ("2006 01", "202001"),
        ("Jan 2", "Feb 30"),
        ("Jan", "foo"),
        ("January", "JANUARY"),
        ("Monday", "sunday"),
        ("2006", "abcd"),
        ("2006", "12"),
        ("06", "xx"),
        ("06", "+1"),
        ("2006", "+123"),
        ("5", "75"),
        ("4", "61"),
        ("15", "25"),
        ("1", "13"),
        ("01", "1"),
        ("2006-01-02Z07:00", "2020-01-01Z"),
        ("2006-01-02Z07:00", "2020-01-01+1:00"),
        ("2006-01-02 -07", "2020-01-01 +05"),
        ("2006-01-02 -070000", "2020-01-01 -053015"),
        ("2006-01-02 -07:00:00", "2020-01-01 -05:30:15"),
        ("2006-01-02 -07:00", "2020-01-01 x05:30"),
        ("2006-01-02", '2020-01-02extra"é'),
        ("", ""),
        ("", "x"),
        ("x", ""),
        ("2006_2", "2006 5"),
        ("_2006", "_2006"),
        ("15.000", "12,123"),
        ("05,000", "12,123"),
        ("05", "12.5"),
        ("05.", "12."),
        ("2006-01-02 MST -0700", "2020-01-01 PST -0800"),
        ("MST", "GMT+99"),
        ("MST", "GMT+x"),
        ("MST", "+"),
        ("05.999999999", "12.5x"),
        ("2006-01-02T15:04:05Z07:00", "2020-01-01T00:00:00-00:00"),
    ]
    for form, v in pairs:
        call("time.parse_ns", [form, v])
    for _ in range(3000):
        layout = r.choice([*lay[:11], "2006-01-02 15:04:05 -0700", "Jan _2 2006 3:04:05PM MST"])
        shown = Time(r.randrange(-(2**62), 2**62), load(r.choice(zs[:6]))).format(LAYOUTS.get(layout, layout))
        if r.random() < 0.5 and shown:
            at = r.randrange(len(shown))
            shown = shown[:at] + r.choice("0 9:x-+.Z,") + shown[at + 1 :]
        call("time.parse_ns", [layout, shown])
    for d in [
        "",
        "0",
        "+0",
        "-0",
        "1s",
        "1.5h",
        "-1.5h",
        "300ms",
        "1us",
        "1µs",
        "1μs",
        "1ns",
        "2h45m",
        "1h-2m",
        "1",
        "1.",
        "1.s",
        ".5s",
        ".s",
        "1x",
        "1hx",
        "s",
        "-",
        "+5s",
        "9223372036854775807ns",
        "9223372036854775808ns",
        "-9223372036854775808ns",
        "1e3s",
        "100000h",
        "2562047h47m16.854775807s",
        "2562047h47m16.854775808s",
        "0.000000001s",
        "0.0000000001s",
        "1.00000000000000000000001s",
        "1d",
        "1w",
        "1y",
        "1.5d",
        "1d2h30m",
        "-1d",
        "+2w",
        "1dd",
        "d",
        "1.5.5d",
        "..d",
        "1d2",
        "1dms",
        "1day",
        "1 d",
        "0d",
        "0.1y",
        "1000y",
        "1e2d",
        "1d2.5.3h",
        "1wé",
        "1D",
        ".5d",
        "5.d",
        ".d",
        "3y2w1d4h5m6s7ms8us9ns",
        "1q2d",
        "1d1é",
        "00d",
        "99999999999999999999d",
        "1µ",
        '1"s',
    ]:
        call("time.parse_duration_ns", [d])
    call("time.parse_duration_ns", [5])
    for t in [
        0,
        1508281630123456789,
        -(2**62),
        [1508281630123456789, "America/New_York"],
        [1520751600000000000, "America/New_York"],
        2**63 - 1,
    ]:
        for y, m, d in [
            (0, 0, 0),
            (1, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
            (-1, -1, -1),
            (0, 13, 32),
            (300, 0, 0),
            (-400, 0, 0),
            (10**6, 0, 0),
            (0, 0, 10**7),
            (1.0, 0, 0),
            (1.5, 0, 0),
            ("x", 0, 0),
            (0, -25, 400),
            (10**12, 0, 0),
            (4, 2, 29),
        ]:
            call("time.add_date", [t, y, m, d])
    tt = [
        0,
        1508281630123456789,
        1420070400000000000,
        1456704000000000000,
        951782400000000000,
        -1,
        [1508281630123456789, "America/New_York"],
        [0, "Asia/Kolkata"],
        [1520751600000000000, "Europe/London"],
        1427673599000000000,
    ]
    for a in tt:
        for b in tt:
            call("time.diff", [a, b])
    for _ in range(1500):
        call("time.diff", [[r.randrange(0, 2**61), r.choice(zs[:12])], [r.randrange(0, 2**61), r.choice(zs[:12])]])


def documents(call: Call) -> None:
    """JSON text, paths and patches."""
    b: Value
    i: Value
    k: Value
    o: Value
    p: Value
    t: Value
    v: Value
    d: Value
    r = random.Random(3)
    vals: list[Value] = [
        None,
        True,
        0,
        1.5,
        NT("1e3"),
        'a<b>&\u2028\x00\x7f"\\é😀/',
        [],
        {},
        [1, [2, {"a": None}]],
        {"b": 1, "a": [1, {}]},
        S([3, 1, "x"]),
        make_object([(1, 2), ("1", 3), ([1], S([1]))]),
        {"": {"": []}},
        2**70,
        S(),
        [S([1])],
        "\t\n\r\b\f",
    ]
    for v in vals:
        call("json.marshal", [v])
        for o in [
            {},
            {"pretty": True},
            {"pretty": False},
            {"indent": "  "},
            {"prefix": "> "},
            {"indent": "", "prefix": ""},
            {"pretty": False, "indent": " "},
            {"pretty": True, "prefix": "p", "indent": "i"},
            {"foo": 1},
            {"indent": 1},
            {"pretty": "x"},
            make_object([(1, 2)]),
            "x",
        ]:
            call("json.marshal_with_options", [v, o])
    texts = [
        "",
        "  ",
        "1",
        " 1 ",
        "1 2",
        "1 null",
        "1 null x",
        "1 true",
        '1 "a"',
        "1 {",
        "1 [",
        "1 ]",
        "1 }",
        "1 ,",
        "1 x",
        "1x",
        "01",
        "-",
        "-x",
        "1.",
        "1.x",
        "1e",
        "1e+",
        "1ex",
        "1.5e3",
        "-0",
        "1E5",
        "+1",
        ".5",
        "true",
        "tru",
        "trux",
        "null",
        "nul",
        "fals",
        "falsy",
        "nan",
        "NaN",
        "Infinity",
        "-Infinity",
        '"a"',
        '"a',
        '"\\',
        '"\\x"',
        '"\\u12"',
        '"\\u12',
        '"\\u12g4"',
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\ud800\\u0041"',
        '"\\udc00x"',
        '"a\nb"',
        '"\x00"',
        '"\x7f"',
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[]",
        "[] []",
        "{",
        "{}",
        '{"a"',
        '{"a":',
        '{"a":1',
        '{"a":1,',
        '{"a":1,}',
        '{"a" 1}',
        "{a:1}",
        '{"a":1 "b":2}',
        "{1:2}",
        '{"a":1,"a":2}',
        "{,}",
        "[1,2}",
        '{"a":1]',
        "é",
        "\ufeff1",
        "'a'",
        "[\"a\",'b']",
        '[""x]',
        "\u00a01",
        "1\u00a0",
        "[1.]",
        "[01]",
        "[1e]",
        "[-]",
        '{"a":.5}',
        "12345678901234567890123",
        "1.0",
        "1.50",
        "0.1e-7",
        "1e400",
        "[1e25000]",
        "1e99999",
        "1e-99999",
        "0e99999",
        '"\\/"',
        '{"\\u0061":1}',
        "/*x*/1",
        "1//x",
        "[1]]",
        "tRUE",
        "\t\n1",
        "\v1",
        "1\v",
        '[1,"a" : 2]',
        '{"a":{"b":[{}]}}',
        '"\\"',
        '"a\\',
    ]
    for t in texts:
        call("json.unmarshal", [t])
        call("json.is_valid", [t])
    call("json.is_valid", [1])
    call("json.unmarshal", [1])
    base = ['{"a":[1,2.5e3,"x\\n"],"b":{"c":null,"d":true}}', '[1,-2,{"x":"\\u00e9"},false]', '"str"', "-12.5e-3"]
    for _ in range(4000):
        b = r.choice(base)
        for _ in range(r.randrange(1, 3)):
            i = r.randrange(len(b) + 1)
            b = r.choice([b[:i] + b[i + 1 :], b[:i] + r.choice('{}[],:"\\0159.-+eEtfn \x01é') + b[i:], b[:i]])
        call("json.unmarshal", [b])
        call("json.is_valid", [b])
    docs = [
        {},
        {
            "a": {"b": [1, {"c": 2, "d": 3}, [4]], "e": S([1, "x", S([2])])},
            "f": None,
            "/": 1,
            "~": 2,
            "": {"": 5},
            "0": 9,
        },
        [1, 2],
        make_object([(1, {"x": 1}), ("1", {"x": 2})]),
        5,
        {"a": []},
        {"a": "str"},
    ]
    paths = [
        [],
        ["a"],
        ["/a/b/1/c"],
        ["a/b/0", "a/b/1/d"],
        [""],
        ["/"],
        ["//a"],
        ["a/e/1", "a/e/x"],
        [["a", "b", 1]],
        [["a", "b", "1"]],
        [["a", "e", 1]],
        ["f/x", "a/b/0/zz"],
        ["~1", "~0"],
        ["a", "a/b"],
        ["a/b", "a"],
        [["a"], "f"],
        S(["a/b/2/0"]),
        [[1, "x"]],
        [["1", "x"]],
        ["zz"],
        [5],
        [[]],
        "a",
        [["a", "e", S([2])]],
        ["0"],
        [["", ""]],
        ["a/b/-1"],
        ["a/b/01"],
        [[1.0]],
        {"a": 1},
    ]
    for d in docs:
        for p in paths:
            call("json.filter", [d, p])
            call("json.remove", [d, p])
    P = [
        "",
        "/",
        "a",
        "/a",
        "/a/b",
        "/a/b/0",
        "/a/b/1",
        "/a/b/-",
        "/a/b/5",
        "/a/b/01",
        "/a/b/+1",
        "/a/b/1.0",
        "/a/b/x",
        "/a/b/1/c",
        "/a/e/1",
        "/a/e/x",
        "/f",
        "/f/g",
        "/zz",
        "/zz/y",
        ["a", "b", 0],
        ["a", "b", 1.0],
        ["a", "b", 1.5],
        ["a", "e", 1],
        ["a", "e", S([2])],
        ["a", "e", S([2]), 2],
        ["a", "e", 7],
        [],
        5,
        ["a", "b", True],
        "/a/b/-1",
        ["a", "b", "-"],
        "~1",
        "/0",
        "0",
    ]
    V = [1, "x", {"q": 1}, [7], None, 7, S([2])]
    for d in docs:
        for p in P:
            if p not in ("", []):
                call("json.patch", [d, [{"op": "remove", "path": p}]])
            call("json.patch", [d, [{"op": "replace", "path": p}]])
            call("json.patch", [d, [{"op": "add", "path": p}]])
            for v in V:
                for o in ("add", "replace", "test"):
                    call("json.patch", [d, [{"op": o, "path": p, "value": v}]])
            for q in P[::3]:
                for o in ("move", "copy"):
                    if q in ("", []) and o == "move":
                        continue
                    call("json.patch", [d, [{"op": o, "path": p, "from": q}]])
    for bad in [
        [1],
        [{}],
        [{"path": "a"}],
        [{"op": "add"}],
        [{"op": 1, "path": "a"}],
        [{"op": "zap", "path": "a"}],
        [{"op": "zap", "path": 5}],
        "x",
        {},
        [],
        [{"op": "move", "path": "a"}],
        [{"op": "copy", "path": "a"}],
        [{"op": "copy", "path": "a", "from": 5}],
        [{"op": "replace", "path": "a"}],
        S([1]),
    ]:
        call("json.patch", [docs[1], bad])
    for _ in range(2500):
        k = []
        for _ in range(r.randrange(2, 5)):
            o = r.choice(["add", "remove", "replace", "move", "copy", "test"])
            e = {"op": o, "path": r.choice(P[1:])}
            if o in ("add", "replace", "test"):
                e["value"] = r.choice(V)
            if o in ("move", "copy"):
                e["from"] = r.choice(P[2:])
            k.append(e)
        call("json.patch", [docs[1], k])


def texts(call: Call) -> None:
    """Networks, encodings, hashes, URIs, versions, units, UUIDs."""
    a: Value
    b: Value
    k: Value
    n: Value
    o: Value
    s: Value
    x: Value
    r = random.Random(11)
    cid = [
        "10.0.0.0/8",
        "10.1.2.3/16",
        "192.168.1.0/24",
        "192.168.0.0/23",
        "1.2.3.4/32",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::/32",
        "2001:db8:1::1/48",
        "fe80::1/128",
        "::ffff:10.0.0.0/104",
        "::ffff:0:0/96",
        "::ffff:1.2.3.4/120",
        "::ffff:0:0/95",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0/8",
        "x",
        "",
        "/8",
        "10.0.0.0/",
        "10.0.0.0/08",
        "10.0.0.0/-1",
        "fe80::1%eth0/64",
        "2001:db8::/129",
        "010.0.0.0/8",
        "1.2.3.4/0",
        "255.255.255.255/32",
        "::1/127",
        "1::2::3/64",
        "1:2:3:4:5:6:7:8/128",
        "::1.2.3.4/128",
        "10.0.0.0/8 ",
        "10.0.0.0/+8",
    ]
    ips = [
        "10.0.0.1",
        "10.255.255.255",
        "192.168.1.5",
        "1.2.3.4",
        "::1",
        "2001:db8::5",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "256.1.1.1",
        "1.2.3",
        "01.2.3.4",
        "",
        "x",
        "::",
        "2001:DB8:0:0::1",
        "1:2:3:4:5:6:7::",
        "1:2:3:4:5:6:7:8:9",
        "12345::",
        "::1.2.3.4.5",
        ":1:2",
        "1:2:",
    ]
    for a in cid:
        call("net.cidr_is_valid", [a])
        n = a.split("/")[-1]
        if n.isdigit() and ((int(n) >= 22 and "." in a and not a.startswith("::")) or int(n) >= 118):
            call("net.cidr_expand", [a])
        call("net.cidr_merge", [[a]])
        for b in cid + ips:
            call("net.cidr_contains", [a, b])
            call("net.cidr_intersects", [a, b])
            call("net.cidr_merge", [[a, b]])
    for x in [5, None, ["a"]]:
        call("net.cidr_is_valid", [x])
        call("net.cidr_contains", [x, x])
        call("net.cidr_merge", [x])
        call("net.cidr_merge", [[x]])
        call("net.cidr_expand", [x])
    for a in [
        "10.0.0.0/8",
        ["10.0.0.0/8", "192.168.0.0/16"],
        S(["10.0.0.0/8"]),
        {"x": "10.0.0.0/8", "y": ["2001:db8::/32", 1]},
        [["10.0.0.0/8", "tag"]],
        [[]],
        [5],
        5,
        [],
        ["bad"],
    ]:
        for b in [
            "10.1.1.1",
            ["10.1.1.1", "192.168.3.0/24"],
            S(["10.1.1.1", "1.1.1.1"]),
            {"k": "2001:db8::1"},
            [["10.1.1.1", 2]],
            [[]],
            [],
            7,
            ["bad"],
        ]:
            call("net.cidr_contains_matches", [a, b])
    for _ in range(1500):
        k = []
        for _ in range(r.randrange(1, 6)):
            if r.random() < 0.6:
                k.append(f"10.{r.randrange(2)}.{r.randrange(4)}.{r.randrange(256)}/{r.randrange(14, 33)}")
            elif r.random() < 0.3:
                k.append(f"{r.choice([10, 130, 200, 230])}.{r.randrange(2)}.{r.randrange(4)}.{r.randrange(256)}")
            else:
                k.append(
                    f"2001:db8:{r.randrange(4):x}::{r.randrange(65536):x}/{r.choice([32, 47, 48, 49, 64, 120, 127, 128])}"
                )
        call("net.cidr_merge", [k])
    for k in [
        ["255.255.255.254/32", "255.255.255.255/32"],
        ["0.0.0.0/1", "128.0.0.0/1"],
        ["::/1", "8000::/1"],
        ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"],
        ["0.0.0.0/32", "0.0.0.1/32"],
        ["::/128", "::1/128"],
        ["10.0.0.1", "10.0.0.2"],
        S(["10.0.0.0/25", "10.0.0.128/25"]),
    ]:
        call("net.cidr_merge", [k])
    strs = [
        "",
        "a",
        "abc",
        "é日😀",
        "a b+c&d=e;f",
        "%41",
        "%zz",
        "%4",
        "%",
        "+",
        "a%20b",
        "\x00\n",
        "/path?x=1#f",
        "~-_.!*'()",
        "YWJj",
        "YWI=",
        "YQ==",
        "YQ=",
        "YQ",
        "YWJj\n",
        "Y Wj",
        "YWI=x",
        "=",
        "====",
        "YR==",
        "YWJ-_w",
        "__-A",
        "77+9",
        "!!!!",
        "YW\r\nJj",
        "YWI=\n",
        "YQ=\n=",
        "YQ==\n\n",
        "gICA",
        "abcde",
        "a===",
        "61",
        "6",
        "6g",
        "616",
        "zz",
        "é1",
        "ff",
        "c3a9",
        "41 ",
        "g",
        "6G",
        "4é",
    ]
    for s in strs:
        for n in [
            "base64.encode",
            "base64.decode",
            "base64.is_valid",
            "base64url.encode",
            "base64url.encode_no_pad",
            "base64url.decode",
            "hex.encode",
            "hex.decode",
            "urlquery.encode",
            "urlquery.decode",
            "urlquery.decode_object",
            "uri.parse",
            "uri.is_valid",
            "crypto.md5",
            "crypto.sha1",
            "crypto.sha256",
        ]:
            call(n, [s])
        for n in [
            "crypto.hmac.md5",
            "crypto.hmac.sha1",
            "crypto.hmac.sha256",
            "crypto.hmac.sha512",
            "crypto.hmac.equal",
        ]:
            call(n, [s, "kéy"])
            call(n, [s, s])
    for q in [
        "a=1&b=2&a=3",
        "a",
        "a=",
        "=b",
        "&&",
        "a=1;b=2",
        "a=%zz&b=%1",
        "a=%zz;&b",
        "a+b=c+d",
        "a=b=c",
        "%C3%A9=%E6",
        "é=日",
    ]:
        call("urlquery.decode_object", [q])
    for o in [
        {},
        {"a": "b c"},
        {"a": ["1", "2"], "é": "&="},
        {"a": S(["y", "x"])},
        {"a": 1},
        {"a": [1]},
        {"a": {}},
        make_object([(1, "x"), ("0", "y")]),
        5,
        {"b": "1", "a": []},
        make_object([(1, "x"), ("1", "y")]),
    ]:
        call("urlquery.encode_object", [o])
    us = [
        "http://example.com/a/b?x=1#f",
        "HTTP://User:p%40ss@Host.com:8080/p%20q/%2F?q#fr%20ag",
        "//host/path",
        "/path",
        "path",
        "a:b",
        "mailto:x@y.z",
        "1a:b",
        "a b:c",
        ":x",
        "http://[::1]:80/",
        "http://[::1",
        "http://[::1]x/",
        "http://[fe80::1%25eth0]/",
        "http://[1.2.3.4]/",
        "http://[zz]/",
        "http://a[b]/",
        "http://host:port/",
        "http://host:80:90/",
        "ftp://host:80:90/",
        "ftp://a:b:90/",
        "http://ho st/",
        "http://h%41st/",
        "http://h%C3%A9/",
        "http://é/日?ü#ö",
        "http://h/%zz",
        "http://h/a%2Fb",
        "http://h/a?b?c",
        "http://h?",
        "http://h/?",
        "*",
        "//",
        "///x",
        "http:///x",
        "http://",
        "?q",
        "#f",
        "#%zz",
        "http://u@/x",
        "http://u:p:q@h/",
        "http://u ser@h/",
        "http://@h/",
        "http://h/a b",
        'http://h/"<>^`{|}',
        "http://h/!$&'()*+,;=:@~",
        "http://h:/",
        "http://h/a[b]",
        "x://a\x7f",
        "http://h\n/",
        "http:a/b",
        "http://h/#a#b",
        'http://h/#!$()*<>"',
        "http://h/%7e~",
        "http://%zz@h/",
        "http://h<>/",
        "http://h%25/",
        'http://h"x/',
        "a.b:c/d",
        "./a:b",
        "http://user:pass@[::1]:90/p",
        "http://h|x/",
        "http://h\\x/",
        "http://h/p\\x",
        "http://h/\u2028",
    ]
    for u in us:
        call("uri.parse", [u])
        call("uri.is_valid", [u])
    call("uri.is_valid", [5])
    call("uri.parse", [5])
    vs = [
        "1.0.0",
        "v1.0.0",
        "1.0",
        "1.0.0.0",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-1",
        "1.0.0-01",
        "1.0.0-0a",
        "1.0.0+b",
        "1.0.0-a+b",
        "1.0.0+",
        "1.0.0-",
        "1.0.0-a..b",
        "01.0.0",
        "1.-1.0",
        "1.0.x",
        "",
        "1.0.0-99999999999999999999",
        "9223372036854775807.0.0",
        "9223372036854775808.0.0",
        "1.0.0-a-b",
        "1.0.0-é",
        "2.0.0",
        "1.10.0",
        "1.2.0",
        " 1.0.0",
        "1.0.0+a-b",
        "1.0.0-rc.1.2",
        "1.0.0-rc.1",
        "1.0.0--",
        "1.0.0-1.2.3-x",
    ]
    for a in vs:
        call("semver.is_valid", [a])
        for b in vs:
            call("semver.compare", [a, b])
    call("semver.is_valid", [1])
    call("semver.compare", [1, "1.0.0"])
    un = [
        "1",
        "10K",
        "10k",
        "10Ki",
        "10ki",
        "10KI",
        "1.5M",
        "100m",
        "1m",
        "1500m",
        "1M",
        "1Mi",
        "1mi",
        "1G",
        "2g",
        "1Gi",
        "3T",
        "1ti",
        "1P",
        "1E",
        "1Ei",
        "1e3",
        "1e3K",
        "1E3M",
        "1e-3K",
        "1e",
        "1ei",
        "1e+",
        "1e2",
        "1.5e1K",
        "",
        "K",
        "1 K",
        '"1K"',
        "1KB",
        "1kb",
        "1KiB",
        "1mb",
        "1MiB",
        "10B",
        "1b",
        "1x",
        "-1K",
        "+1K",
        "1.2.3K",
        ".5K",
        "5.K",
        "1e1234567K",
        "1e999999",
        "1e5000000K",
        "0.001m",
        "0.0000000001",
        "0.00000000005",
        "1.23456789012345",
        "1e-20",
        "99999999999999999999K",
        "1é",
        "1K1",
        "--1",
        "1e+5",
        "1e-5M",
        "1eb",
        "1EB",
        "1EiB",
        "0",
        "0K",
        "-0.5",
        "1_0",
        "0x10",
        "1/2",
        "1e3e",
        "1e3e2K",
        "1.5",
        "1.0",
        "2.50Ki",
        "0.3k",
        "1e19",
        "123456789.987654321Gi",
        "1.7kb",
        "-1.5kib",
        "１K",
    ]
    for u in un:
        call("units.parse", [u])
        call("units.parse_bytes", [u])
    ud = [
        "00000000-0000-0000-0000-000000000000",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "000003e8-4892-21ef-b600-325096b39f47",
        "000003e8-4892-21ef-b602-325096b39f47",
        "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "URN:UUID:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "{f81d4fae-7dec-11d0-a765-00a0c91e6bf6}",
        "xf81d4fae-7dec-11d0-a765-00a0c91e6bf6x",
        "f81d4fae7dec11d0a76500a0c91e6bf6",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf",
        "g81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "",
        "00000000-0000-4000-8000-000000000000",
        "00000000-0000-4000-c000-000000000000",
        "00000000-0000-4000-e000-000000000000",
        "00000000-0000-7000-8000-0300000000ff",
        "00000000-0000-1000-8000-0100000000ff",
        "F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
        "f81d4fae-7dec11d0--a765-00a0c91e6bf6",
        "ffffffff-ffff-1fff-bfff-ffffffffffff",
    ]
    for u in ud:
        call("uuid.parse", [u])
    call("uuid.parse", [5])


def markup(call: Call) -> None:
    """YAML."""
    v: Value
    strs = [
        "",
        "a",
        "yes",
        "no",
        "true",
        "null",
        "~",
        "1",
        "1.5",
        "0x1F",
        "0o7",
        "017",
        "08",
        "1_000",
        "1e3",
        ".5",
        "-",
        "- a",
        "a: b",
        "a:b",
        "a #b",
        "#a",
        "'a'",
        '"a"',
        "a'b",
        "a\nb",
        "a\n",
        "\na",
        " a",
        "a ",
        "a\n b\n",
        "a \nb",
        "a\tb",
        "\t",
        "é日😀",
        "2020-01-01",
        "2020-01-01T00:00:00Z",
        "12:30:45",
        "<<",
        "---",
        "...",
        "?",
        "? a",
        ":",
        "&a",
        "*a",
        "!a",
        "|",
        "> x",
        "%a",
        "@a",
        "`a",
        "{a}",
        "[a]",
        "a,b",
        "a]b",
        "y",
        "on",
        "Off",
        ".inf",
        ".nan",
        "+1",
        "-1",
        "=",
        "a:",
        "a: ",
        "a\n\nb",
        "  \n",
        "x" * 200,
        "0b11",
        "+0x1F",
        "-.inf",
        "1:20",
        "190:20:30",
        "a\\b",
        "0.",
        "1e",
        "1.",
        "1.5e+3",
        ".",
        "..",
        "+",
        "-a",
        "-1a",
        "\u00a0x",
    ]
    for s in strs:
        call("yaml.marshal", [s])
        call("yaml.marshal", [{"k": s}])
        call("yaml.marshal", [[s]])
        call("yaml.marshal", [{s: 1}])
        call("yaml.unmarshal", [s])
        call("yaml.is_valid", [s])
        call("yaml.unmarshal", ["k: " + s])
        call("yaml.unmarshal", ["- " + s])
        call("yaml.unmarshal", [s + ": 1"])
    for v in [
        None,
        True,
        1,
        1.5,
        1.0,
        NT("1e3"),
        2**63,
        2**64,
        2**70,
        -(2**63),
        -(2**70),
        1e21,
        1e-7,
        123456789.5,
        [],
        {},
        [[]],
        [{}],
        {"a": []},
        {"a": {}},
        [[1, [2, 3]], 4],
        {"a": {"b": [1, {"c": 2, "d": [3]}]}, "e": None},
        [{"a": 1, "b": [{"c": []}]}],
        S([1, 2]),
        make_object([(1, 2)]),
        {
            "a10": 1,
            "a2": 2,
            "a01": 3,
            "b": 1,
            "A": 2,
            "a": 0,
            "_x": 5,
            "1": 1,
            "10": 2,
            "2": 3,
            "é": 4,
            "a-b": 1,
            "a.b": 2,
            "a b": 3,
        },
        NT("-0"),
        0.1,
        100000.0,
        1000000.0,
    ]:
        call("yaml.marshal", [v])
    docs = [
        "a: 1\nb:\n  - x\n  - y: 2\n    z: [1, 2]\n",
        "{a: 1, b: [x, 'y'], \"c\": {d: }}",
        "- 1\n- 2.5\n- ~\n- yes\n- 0x1F\n- 010\n- 1_000\n- 1e3\n- .5\n- .inf\n",
        "a: |\n  x\n  y\nb: >\n  p\n  q\n\n  r\n",
        "a: \"x\\ty\\u00e9\"\nb: 'it''s'\n",
        "# c\na: 1 # d\n",
        "a: 1\n---\nb: 2\n",
        "--- a\n...\n",
        "",
        "\n\n",
        "a: b: c",
        "a: [1",
        "{a",
        "\ta: 1",
        "a:\n\t- b",
        "a: 1\n b: 2",
        "- a\nb: 1",
        "a: &x 1\nb: *x",
        "!!str 1",
        "? a\n: b",
        "a: 1\na: 2",
        "1: x\ntrue: y",
        "null: 1",
        "1.5: 2",
        "[a, b]: 1",
        "a: 'x\n  y'",
        "a: x\n  y\n",
        "key: value: x",
        "a: @x",
        "a: `x`",
        "a: %x",
        "%YAML 1.2\n---\na: 1",
        'a: "\\q"',
        'a: "unterminated',
        "[1,2,3",
        "{a: 1,}",
        "[1,,2]",
        "[a b, c: d]",
        "{a b: c}",
        "{a, b: 1}",
        "- - 1\n  - 2\n- [3]",
        "-\n  a: 1\n-",
        "a:\n- 1\n- 2\nb: 3",
        "2020-01-01: 1",
        "a: 2020-01-01",
        "a: 12:30",
        "x: !foo bar",
        "<<: {a: 1}",
        "a: |2\n   x",
        "a: |-\n  x\n\n",
        "a: >+\n  x\n\n",
        "'a': 1",
        "a:1",
        '"a":1',
        '{"a":1}',
        "{a:1}",
        "http://x: 1",
        "a: http://b",
        "a: b#c",
        "a: 'b' c",
        " a: 1\nb: 2",
        "a: 1\n\n\nb: 2\n",
        "...",
        "---",
        "--- \n---\n",
        "a: ---",
        "a\nb",
        "a: \x01",
        "é: ü",
        "\u00a0a: 1",
        "a: [\n1,\n2\n]",
        "a: {b: 1,\nc: 2}",
        "[",
        "]",
        "}",
        "- ]",
        "a: }",
        ": a",
        "- : a",
        "? ",
        "-",
        "- -",
        "a: -",
        "a: - b",
        "a: ? b",
        '"a\nb"',
        "'a\n\n b'",
        "a: |\nb: 1",
        "a: >\n\n x\n y\n  z\n\nb: 1",
        "0o17",
        "0b101",
        "1__0",
        "+12e03",
        "0x",
        "0o8",
        "-0",
        "-0.0",
        "+.5",
        "1.e5",
    ]
    for d in docs:
        call("yaml.unmarshal", [d])
        call("yaml.is_valid", [d])
    call("yaml.is_valid", [1])
    call("yaml.unmarshal", [1])


FAMILIES: dict[str, Callable[[Call], None]] = {
    family.__name__: family for family in (strings, collections, patterns, globs, times, documents, texts, markup)
}


def calls(family: str) -> Iterator[tuple[str, list[Value]]]:
    """The calls of a family, in order."""
    out: list[tuple[str, list[Value]]] = []
    FAMILIES[family](lambda name, arguments: out.append((name, arguments)))
    return iter(out)


def sampled(family: str, most: int) -> list[tuple[str, list[Value]]]:
    """At most so many calls of each builtin, spread over all there are."""
    by_name: dict[str, list[list[Any]]] = {}
    for name, arguments in calls(family):
        by_name.setdefault(name, []).append(arguments)
    out: list[tuple[str, list[Value]]] = []
    for name, every in by_name.items():
        step = max(1, len(every) // most)
        out.extend((name, arguments) for arguments in every[::step][:most])
    return out
