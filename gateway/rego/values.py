"""Rego values as plain Python objects, so that parsed JSON is a Rego document with no conversion.

Theory of operation
-------------------
=========  ==========================================================================
null       ``None``
boolean    ``bool``
number     ``int``, ``float``, or :class:`NumberText` where neither says it exactly
string     ``str``
array      ``list``
object     ``dict``, whose keys are *canonical keys* (see :func:`key`)
set        :class:`RegoSet`
=========  ==========================================================================

Nothing is ever changed after it was built: values are shared freely between documents.

OPA holds a number as its decimal text. A ``float`` here stands for the decimal that ``repr`` prints, an ``int`` for
itself, and anything else (``1e3``, ``0.30``, nineteen digits behind the point) is a :class:`NumberText`. Numbers that
are equal as decimals are one value whatever they are held as: ``1``, ``1.0`` and ``1e0`` are the same key.

Python says ``True == 1``; Rego does not. So code outside this module compares values with :func:`equal` and
:func:`compare`, and looks into objects with ``obj.get(key(v))``. A ``str`` is its own key, so JSON objects work as they
are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final, TypeAlias, final

from gateway.rego.builtins.golang import unicode

Value: TypeAlias = Any
"""A Rego value, see the table above. `Any`, because a recursive union would have to be cast at every step."""

Key: TypeAlias = Any
"""What :func:`key` returns: hashable, equal exactly when the values are equal in Rego."""


@final
class Undefined:
    """The absence of a value. There is one, :data:`UNDEFINED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNDEFINED"

    def __bool__(self) -> bool:
        raise TypeError("UNDEFINED is neither true nor false: compare with `is`")

    def __reduce__(self) -> str:
        return "UNDEFINED"


UNDEFINED: Final = Undefined()

_EXACT: Final = Context(prec=1_000_000, Emax=999_999, Emin=-999_999)
_FLOAT_EXACT_INT: Final = 2**53
_LONG: Final = 10**4000
"""From here on Python refuses to write an int as decimal text."""


@final
class NumberText(Decimal):
    """A number that keeps the text it was written with, as OPA does (`1e3` prints as `1e3`)."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> NumberText:
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __reduce__(self) -> tuple[type[NumberText], tuple[str]]:
        return (NumberText, (self.text,))


def number_from_text(text: str) -> Value:
    """The number written as `text` (JSON syntax).

    Raises:
        ValueError: it is no number.
    """
    if text.isascii() and (text.isdigit() or (text[:1] == "-" and text[1:].isdigit())):
        if text == "-0":
            return NumberText(text)
        if len(text) > 4000:  # beyond Python's own limit for int(str)
            return int(_EXACT.create_decimal(text))
        return int(text)
    try:
        as_float = float(text)
        if repr(as_float) == text and math.isfinite(as_float):
            return as_float
        return NumberText(text)
    except InvalidOperation:
        raise ValueError(f"not a number: {text!r}") from None


def number_text(number: Value) -> str:
    """The text OPA prints for a number."""
    kind = type(number)
    if kind is NumberText:
        text: str = number.text
        return text
    if kind is int and -_LONG < number < _LONG:
        return str(number)
    if kind is int:
        return str(Decimal(number))
    return repr(number)


def to_decimal(number: Value) -> Decimal:
    """The exact decimal value of a number."""
    if type(number) is float:
        return Decimal(repr(number))
    return Decimal(number)


def to_int(number: Value) -> int | None:
    """The number as an exact integer, whatever it is written like (`1.0`, `1e3`); None if it has a fraction."""
    if type(number) is int:
        return number
    exact = to_decimal(number)
    return int(exact) if exact == exact.to_integral_value() else None


@final
class CompositeKey:
    """The hashable stand-in of a value that Python cannot hash, or would take for another one (`True` for `1`)."""

    __slots__ = ("hash", "value")

    def __init__(self, value: Value) -> None:
        self.value = value
        self.hash = _hash(value)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            type(other) is CompositeKey and self.hash == other.hash and equal(self.value, other.value)
        )

    def __repr__(self) -> str:
        return f"key({to_rego(self.value)})"


_HASHED_AS_THEY_ARE: Final = frozenset((str, int, type(None)))
"""Types of values that are their own keys."""


def _hash(value: Value) -> int:
    kind = type(value)
    if kind is list:
        return hash((list, tuple([item if type(item) is str else hash(key(item)) for item in value])))
    if kind is dict:
        if _HASHED_AS_THEY_ARE.issuperset(map(type, value.values())):
            return hash((dict, frozenset(value.items())))
        return hash(
            (dict, frozenset([(k, item if type(item) is str else hash(key(item))) for k, item in value.items()]))
        )
    if kind is RegoSet:
        return hash((set, frozenset(value.members)))
    if kind is bool:
        return hash(("bool", value))
    return hash(("number", Decimal(value)))


def key(value: Value) -> Key:
    """The canonical key of a value: what stands for it in objects and sets.

    Strings, ordinary numbers and null are their own keys; the others are wrapped.
    """
    kind = type(value)
    if kind is str or kind is int or value is None:
        return value
    if kind is bool:
        return TRUE_KEY if value else FALSE_KEY
    if kind is float:
        return value if -_FLOAT_EXACT_INT < value < _FLOAT_EXACT_INT else int(Decimal(repr(value)))
    if kind is NumberText:
        whole = to_int(value)
        if whole is not None:
            return whole
        as_float = float(value)
        return as_float if Decimal(repr(as_float)) == value else CompositeKey(value)
    return CompositeKey(value)


def unkey(canonical: Key) -> Value:
    """The value that a canonical key stands for."""
    return canonical.value if type(canonical) is CompositeKey else canonical


@final
class RegoSet:
    """An immutable set. Iterates in Rego's order."""

    __slots__ = ("_sorted", "members")

    members: dict[Key, Value]
    """Value by canonical key. Not to be changed."""

    def __init__(self, values: Iterable[Value] = ()) -> None:
        self.members = {key(value): value for value in values}
        self._sorted: list[Value] | None = None

    @staticmethod
    def of(members: dict[Key, Value]) -> RegoSet:
        """A set that takes over a dict of value by canonical key."""
        made = _new_set(RegoSet)
        made.members = members
        made._sorted = None
        return made

    def sorted(self) -> list[Value]:
        """The members in Rego's order. Not to be changed."""
        if self._sorted is None:
            members = self.members
            self._sorted = sort_values(members.values()) if len(members) > 1 else list(members.values())
        return self._sorted

    def __contains__(self, value: Value) -> bool:
        return key(value) in self.members

    def __iter__(self) -> Iterator[Value]:
        return iter(self.sorted())

    def __len__(self) -> int:
        return len(self.members)

    def __eq__(self, other: object) -> bool:
        return type(other) is RegoSet and self.members.keys() == other.members.keys()

    def __hash__(self) -> int:
        return _hash(self)

    def __repr__(self) -> str:
        return f"RegoSet({self.sorted()!r})"

    def union(self, other: RegoSet) -> RegoSet:
        return RegoSet.of({**other.members, **self.members})

    def intersection(self, other: RegoSet) -> RegoSet:
        return RegoSet.of({k: v for k, v in self.members.items() if k in other.members})

    def difference(self, other: RegoSet) -> RegoSet:
        return RegoSet.of({k: v for k, v in self.members.items() if k not in other.members})


_new_set: Final[Callable[[type[RegoSet]], RegoSet]] = object.__new__
TRUE_KEY: Final = CompositeKey(True)
FALSE_KEY: Final = CompositeKey(False)

_ORDER: Final[dict[type, int]] = {
    type(None): 0,
    bool: 1,
    int: 2,
    float: 2,
    NumberText: 2,
    str: 3,
    list: 4,
    dict: 5,
    RegoSet: 6,
}
_NAMES: Final = ("null", "boolean", "number", "string", "array", "object", "set")
_SCALARS: Final = frozenset((str, int, type(None), bool))
_JSON_SCALARS: Final = frozenset((str, int, type(None), bool, float))


def type_name(value: Value) -> str:
    """`null`, `boolean`, `number`, `string`, `array`, `object` or `set`."""
    return _NAMES[_ORDER[type(value)]]


def is_number(value: Value) -> bool:
    """Whether a value is a number (a Python bool is not)."""
    kind = type(value)
    return kind is int or kind is float or kind is NumberText


def equal(a: Value, b: Value) -> bool:
    """Whether two values are equal in Rego."""
    kind, other = type(a), type(b)
    if kind is other:
        if kind in _SCALARS:
            return bool(a == b)
        if kind is list:
            return len(a) == len(b) and all(map(equal, a, b))
        if kind is dict:
            if a is b:
                return True
            if len(a) != len(b):
                return False
            missing = UNDEFINED
            for k, item in a.items():
                found = b.get(k, missing)
                if found is missing or not equal(item, found):
                    return False
            return True
        if kind is RegoSet:
            return bool(a == b)
    if _ORDER[kind] == 2 == _ORDER[other]:
        return _compare_numbers(a, b) == 0
    return False


def _compare_numbers(a: Value, b: Value) -> int:
    # A float stands for its shortest decimal, which orders as the floats do; beside an int or a decimal only the
    # exact decimals can be compared.
    if (type(a) is not type(b) or type(a) is NumberText) and (
        type(a) is NumberText
        or type(b) is NumberText
        or not (-_FLOAT_EXACT_INT < a < _FLOAT_EXACT_INT)
        or not (-_FLOAT_EXACT_INT < b < _FLOAT_EXACT_INT)
    ):
        a, b = to_decimal(a), to_decimal(b)
    return int(a > b) - int(a < b)


def compare(a: Value, b: Value) -> int:
    """Rego's total order: null < boolean < number < string < array < object < set; -1, 0 or 1.

    Arrays compare by their elements, objects by their sorted keys and then values, sets by their sorted members, as
    OPA compares them.
    """
    kind, other = type(a), type(b)
    if kind is other and (kind is str or kind is int):
        return int(a > b) - int(a < b)
    order_a, order_b = _ORDER[kind], _ORDER[other]
    if order_a != order_b:
        return -1 if order_a < order_b else 1
    if order_a == 2:
        return _compare_numbers(a, b)
    if order_a == 4:
        return _compare_sequences(a, b)
    if order_a == 5:
        keys_a, keys_b = sorted_keys(a), sorted_keys(b)
        for key_a, key_b in zip(keys_a, keys_b, strict=False):
            by_key = compare(unkey(key_a), unkey(key_b))
            if by_key:
                return by_key
            by_value = compare(a[key_a], b[key_b])
            if by_value:
                return by_value
        return (len(keys_a) > len(keys_b)) - (len(keys_a) < len(keys_b))
    if order_a == 6:
        return _compare_sequences(a.sorted(), b.sorted())
    if order_a == 0:
        return 0
    return int(a > b) - int(a < b)


def _compare_sequences(a: list[Value], b: list[Value]) -> int:
    for item_a, item_b in zip(a, b, strict=False):
        by_item = compare(item_a, item_b)
        if by_item:
            return by_item
    return (len(a) > len(b)) - (len(a) < len(b))


sort_key: Final[Callable[[Value], Any]] = functools.cmp_to_key(compare)
"""`key=` of `sorted` for Rego's order."""


def sort_values(values: Iterable[Value]) -> list[Value]:
    """The values in Rego's order, a new list."""
    items = list(values)
    kinds = set(map(type, items))
    if len(kinds) <= 1 and (kinds <= {str} or kinds <= {int}):
        items.sort()
        return items
    items.sort(key=sort_key)
    return items


def sorted_keys(obj: dict[Key, Value]) -> list[Key]:
    """The canonical keys of an object in Rego's order."""
    try:
        return sorted(obj)
    except TypeError:
        return sorted(obj, key=lambda k: sort_key(unkey(k)))


def make_object(pairs: Iterable[tuple[Value, Value]]) -> dict[Key, Value]:
    """An object of (key, value) pairs; a later pair wins."""
    return {key(k): v for k, v in pairs}


# Text -------------------------------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """A string as Go's `strconv.Quote` writes it, which is how OPA prints it inside other text."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    # What is printable is fixed by Go's Unicode version, not by this Python's.
    return unicode.quote(text)


def to_rego(value: Value) -> str:
    """The value as Rego text: what OPA's `Term.String()` prints, and `sprintf`'s `%v` for anything but a string."""
    kind = type(value)
    if kind is str:
        return quote(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is list:
        return "[" + ", ".join([to_rego(item) for item in value]) + "]"
    if kind is dict:
        return "{" + ", ".join([f"{to_rego(unkey(k))}: {to_rego(value[k])}" for k in sorted_keys(value)]) + "}"
    if kind is RegoSet:
        return "{" + ", ".join([to_rego(item) for item in value.sorted()]) + "}" if value.members else "set()"
    return number_text(value)


def to_json(value: Value) -> Any:
    """The value as plain JSON data, as OPA returns it: sets are sorted arrays, keys are strings.

    A key that is no string becomes its JSON text, as in OPA.
    """
    kind = type(value)
    if kind in _JSON_SCALARS:
        return value
    if kind is list:
        return [item if type(item) in _JSON_SCALARS else to_json(item) for item in value]
    if kind is RegoSet:
        return [item if type(item) in _JSON_SCALARS else to_json(item) for item in value.sorted()]
    if kind is dict:
        return {
            k if type(k) is str else json_text(unkey(k)): item if type(item) in _JSON_SCALARS else to_json(item)
            for k, item in value.items()
        }
    whole = to_int(value)
    return whole if whole is not None else float(value)


def json_text(value: Value) -> str:
    """Compact JSON text of a value with its numbers exact, keys sorted, escaped as Go's `encoding/json` does."""
    kind = type(value)
    if kind is str:
        return json_quote(value)
    if kind is list:
        return "[" + ",".join([json_text(item) for item in value]) + "]"
    if kind is RegoSet:
        return "[" + ",".join([json_text(item) for item in value.sorted()]) + "]"
    if kind is dict:
        # Of keys with the same text (1 and "1") the last in Rego's order stands, as in OPA.
        pairs = {k if type(k) is str else json_text(unkey(k)): value[k] for k in sorted_keys(value)}
        return "{" + ",".join([f"{json_quote(k)}:{json_text(pairs[k])}" for k in sorted(pairs)]) + "}"
    return to_rego(value)


_JSON_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def json_quote(text: str) -> str:
    """A JSON string as Go's encoder writes it: `<`, `>`, `&`, U+2028 and U+2029 are escaped too."""
    out = ['"']
    for char in text:
        if char in _JSON_ESCAPES:
            out.append(_JSON_ESCAPES[char])
        elif char < " " or char in "<>&\u2028\u2029":
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    out.append('"')
    return "".join(out)


def from_json(data: Any) -> Value:
    """Checks that JSON data of unknown origin holds nothing but Rego values, and returns it as it is.

    Tuples become lists and Decimals numbers; anything else that is no JSON raises `TypeError`.
    """
    kind = type(data)
    if kind in _SCALARS:
        return data
    if kind is float:
        if not math.isfinite(data):
            raise TypeError("a JSON number is finite")
        return data
    if kind is list or kind is tuple:
        return [item if type(item) in _SCALARS else from_json(item) for item in data]
    if kind is dict:
        for k in data:
            if type(k) is not str:
                raise TypeError(f"a JSON object's keys are strings, not {type(k).__name__}")
        return {k: item if type(item) in _SCALARS else from_json(item) for k, item in data.items()}
    if kind is RegoSet or kind is NumberText:
        return data
    if isinstance(data, Decimal):
        return number_from_text(str(data).replace("E+", "e").replace("E", "e"))
    raise TypeError(f"not a JSON value: {kind.__name__}")
