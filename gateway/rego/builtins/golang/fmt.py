"""Go's `fmt.Sprintf`, for the four kinds of arguments OPA's `sprintf` hands it.

`int64`, `*big.Int` (:class:`BigInt`), `float64` and `string`. Flags, widths, precisions, argument indexes, `*`, and the
`%!verb(type=value)` of mistakes are as in Go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from gateway.rego.builtins.golang import unicode


class BigInt(int):
    """An integer that does not fit 64 bits: Go formats it by rules of its own."""


class Unsupported(ValueError):
    """What Go prints here depends on addresses or internals, and is not reproduced."""


Argument: TypeAlias = int | BigInt | float | str

_MAX_WIDTH = 1_000_000
_MASK = (1 << 64) - 1


def shortest(value: float) -> tuple[str, int]:
    """The digits and decimal point of the shortest text that reads as this float: `0.digits * 10**point`."""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).rstrip("0")
    point = len(whole) + (int(exponent) if exponent else 0)
    stripped = digits.lstrip("0")
    if not stripped:
        return "", 0
    return stripped, point - (len(digits) - len(stripped))


def _scientific(digits: str, exponent: int, letter: str) -> str:
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{mantissa}{letter}{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def format_float(value: float, verb: str, precision: int = -1) -> str:
    """`strconv.FormatFloat(value, verb, precision, 64)` for finite values and `e E f g G b x X`."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if verb == "b":
        mantissa, exponent = math.frexp(abs(value))
        bits = int(mantissa * (1 << 53))
        power = exponent - 53
        if bits and power < -1074:
            bits, power = bits >> (-1074 - power), -1074
        elif not bits:
            power = -1074
        return f"{sign}{bits}p{'+' if power >= 0 else ''}{power}"
    if verb in "xX":
        return sign + _hexadecimal(abs(value), verb, precision)
    if precision >= 0:
        body = f"{abs(value):.{precision}{verb}}" if precision or verb not in "gG" else f"{abs(value):.1{verb}}"
        return sign + body
    digits, point = shortest(value)
    if verb in "eE":
        if not digits:
            return f"{sign}0{verb}+00"
        return sign + _scientific(digits, point - 1, verb)
    if verb in "gG" and digits and (point - 1 < -4 or point - 1 >= max(6, 21 if verb == "v" else 6)):
        return sign + _scientific(digits, point - 1, "e" if verb == "g" else "E")
    if not digits:
        return sign + "0"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if len(digits) <= point:
        return sign + digits + "0" * (point - len(digits))
    return f"{sign}{digits[:point]}.{digits[point:]}"


def json_float(value: float) -> str:
    """A float64 as Go's `encoding/json` writes it: in full between 1e-6 and 1e21."""
    digits, point = shortest(value)
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if digits and (abs(value) < 1e-6 or abs(value) >= 1e21):
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        exponent = point - 1
        return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent)}"
    return format_float(value, "f")


def _hexadecimal(value: float, verb: str, precision: int) -> str:
    if value == 0:
        text = "0x0" + ("." + "0" * precision if precision > 0 else "") + "p+00"
        return text.upper() if verb == "X" else text
    mantissa, exponent = math.frexp(value)
    bits, exponent = int(mantissa * (1 << 53)), exponent - 1
    bits <<= 8  # one hexadecimal digit before the point, fifteen behind it
    if 0 <= precision < 15:
        shift = (15 - precision) * 4
        half, rest = 1 << (shift - 1), bits & ((1 << shift) - 1)
        bits >>= shift
        if rest > half or (rest == half and bits & 1):
            bits += 1
        bits <<= shift
        if bits >= 1 << 61:
            bits >>= 1
            exponent += 1
    fraction = f"{bits & ((1 << 60) - 1):015x}"
    fraction = fraction.rstrip("0") if precision < 0 else fraction[:precision].ljust(precision, "0")
    text = f"0x1{'.' + fraction if fraction else ''}p{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return text.upper() if verb == "X" else text


def _type_name(argument: Argument) -> str:
    if isinstance(argument, BigInt):
        return "*big.Int"
    if isinstance(argument, int):
        return "int64"
    return "float64" if isinstance(argument, float) else "string"


class _Printer:
    def __init__(self, charge: Callable[[int], None]) -> None:
        self.out: list[str] = []
        self.charge = charge
        self.good_index = True
        self.reordered = False
        self.clear()

    def clear(self) -> None:
        self.sharp = self.zero = self.plus = self.minus = self.space = False
        self.sharp_v = self.plus_v = False
        self.width: int | None = None
        self.precision: int | None = None

    # What is written

    def padding(self, count: int, *, zero: bool) -> str:
        if count <= 0:
            return ""
        self.charge(count // 64)
        return ("0" if zero and not self.minus else " ") * count

    def pad(self, text: str, *, zero: bool | None = None) -> None:
        fill = self.padding((self.width or 0) - len(text), zero=self.zero if zero is None else zero)
        self.out.append(text + fill if self.minus else fill + text)

    def bad_verb(self, verb: str, argument: Argument) -> None:
        self.out.append(f"%!{verb}({_type_name(argument)}=")
        self.argument(argument, "v")
        self.out.append(")")

    def argument(self, argument: Argument, verb: str) -> None:
        if verb == "T":
            self.string(_type_name(argument))
        elif isinstance(argument, BigInt):
            if verb in "pw":
                raise Unsupported(f"%{verb} of an integer beyond 64 bits")
            self.big_integer(argument, verb)
        elif verb == "p":
            self.bad_verb(verb, argument)
        elif isinstance(argument, int):
            self.integer_verb(argument, verb)
        elif isinstance(argument, float):
            self.float_verb(argument, verb)
        else:
            self.string_verb(argument, verb)

    def string(self, text: str) -> None:
        self.pad(text if self.precision is None else text[: self.precision])

    def string_verb(self, text: str, verb: str) -> None:
        if verb == "q" or (verb == "v" and self.sharp_v):
            if self.precision is not None:
                text = text[: self.precision]
            if self.sharp and unicode.can_backquote(text):
                self.pad(f"`{text}`")
            else:
                self.pad(unicode.quote(text, ascii_only=self.plus))
        elif verb in "vs":
            self.string(text)
        elif verb in "xX":
            self.hexadecimal_string(text, verb)
        else:
            self.bad_verb(verb, text)

    def hexadecimal_string(self, text: str, verb: str) -> None:
        data = text.encode()
        if self.precision is not None:
            data = data[: self.precision]
        if not data:
            self.out.append(self.padding(self.width or 0, zero=self.zero))
            return
        prefix = ("0" + verb) if self.sharp else ""
        pieces = [f"{byte:02{verb}}" for byte in data]
        body = " ".join(prefix + piece for piece in pieces) if self.space else prefix + "".join(pieces)
        self.pad(body)

    def integer_verb(self, number: int, verb: str) -> None:
        bases = {"v": 10, "d": 10, "b": 2, "o": 8, "O": 8, "x": 16, "X": 16}
        if verb in bases:
            self.integer(number, bases[verb], verb)
        elif verb in "cqU":
            unsigned = number & _MASK
            rune = unsigned if unsigned <= unicode.MAX_RUNE and not 0xD800 <= unsigned <= 0xDFFF else 0xFFFD
            if verb == "c":
                self.pad(chr(rune))
            elif verb == "q":
                self.pad(unicode.quote_rune(rune, ascii_only=self.plus))
            else:
                text = f"U+{unsigned:0{max(4, self.precision or 0)}X}"
                if self.sharp and unsigned <= unicode.MAX_RUNE and unicode.is_print(unsigned):
                    text += f" '{chr(unsigned)}'"
                self.pad(text, zero=False)
        else:
            self.bad_verb(verb, number)

    def integer(self, number: int, base: int, verb: str) -> None:
        negative, magnitude = number < 0, abs(number)
        least = 0
        if self.precision is not None:
            least = self.precision
            if least == 0 and number == 0:
                self.out.append(self.padding(self.width or 0, zero=False))
                return
        elif self.zero and not self.minus and self.width is not None:
            least = self.width - (1 if negative or self.plus or self.space else 0)
        digits = _digits(magnitude, base)
        if verb == "X":
            digits = digits.upper()
        if least > len(digits):
            self.charge(least // 64)
            digits = digits.rjust(least, "0")
        if self.sharp:
            if base == 2:
                digits = "0b" + digits
            elif base == 8:
                digits = digits if digits.startswith("0") else "0" + digits
            elif base == 16:
                digits = ("0X" if verb == "X" else "0x") + digits
        if verb == "O":
            digits = "0o" + digits
        sign = "-" if negative else "+" if self.plus else " " if self.space else ""
        self.pad(sign + digits, zero=False)

    def big_integer(self, number: BigInt, verb: str) -> None:
        bases = {"v": 10, "d": 10, "s": 10, "b": 2, "o": 8, "O": 8, "x": 16, "X": 16}
        magnitude = abs(int(number))
        self.charge(magnitude.bit_length() // 64)
        if verb not in bases:
            self.out.append(f"%!{verb}(big.Int={int(number)})")
            return
        digits = _digits(magnitude, bases[verb])
        if verb == "X":
            digits = digits.upper()
        plus, sharp = self.plus or self.plus_v, self.sharp or self.sharp_v
        sign = "-" if number < 0 else "+" if plus else " " if self.space else ""
        prefix = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}.get(verb, "") if sharp else ""
        if verb == "O":
            prefix = "0o"
        zeros = left = right = 0
        if self.precision is not None and len(digits) < self.precision:
            zeros = self.precision - len(digits)
        length = len(sign) + len(prefix) + zeros + len(digits)
        if self.width is not None and length < self.width:
            missing = self.width - length
            if self.minus:
                right = missing
            elif self.zero and self.precision is None:
                zeros = missing
            else:
                left = missing
        self.charge((zeros + left + right) // 64)
        self.out.append(" " * left + sign + prefix + "0" * zeros + digits + " " * right)

    def float_verb(self, number: float, verb: str) -> None:
        if verb == "v":
            self.float(number, "g", -1, verb)
        elif verb in "bgGxX":
            self.float(number, verb, -1, verb)
        elif verb in "feEF":
            self.float(number, "f" if verb == "F" else verb, 6, verb)
        else:
            self.bad_verb(verb, number)

    def float(self, number: float, verb: str, precision: int, _asked: str) -> None:
        if self.precision is not None:
            precision = self.precision
        if precision > 0:
            self.charge(precision // 64)
        text = format_float(number, verb, precision)
        sign, body = (text[0], text[1:]) if text.startswith("-") else ("+", text)
        if self.space and sign == "+" and not self.plus:
            sign = " "
        if self.sharp and verb != "b":
            body = _with_point(body, verb, precision)
        if self.plus or sign != "+":
            missing = (self.width or 0) - len(body) - 1
            if self.zero and not self.minus and missing > 0:
                self.out.append(sign + self.padding(missing, zero=True) + body)
            else:
                self.pad(sign + body)
        else:
            self.pad(body)

    # What the format says

    def index(self, at: int, text: str, current: int, count: int) -> tuple[int, int, bool]:
        if not text.startswith("[", at):
            return current, at, False
        self.reordered = True
        close = text.find("]", at + 1)
        if len(text) - at < 3 or close < 0:
            self.good_index = False
            return current, at + 1, False
        number, present, end = _number(text, at + 1, close)
        if not present or end != close:
            self.good_index = False
            return current, close + 1, False
        if 0 <= number - 1 < count:
            return number - 1, close + 1, True
        self.good_index = False
        return current, close + 1, True

    def format(self, text: str, arguments: Sequence[Argument]) -> str:
        at, end, current, count = 0, len(text), 0, len(arguments)
        while at < end:
            self.good_index = True
            percent = text.find("%", at)
            if percent < 0:
                self.out.append(text[at:])
                break
            self.out.append(text[at:percent])
            at = percent + 1
            self.clear()
            while at < end and text[at] in "#0+- ":
                match text[at]:
                    case "#":
                        self.sharp = True
                    case "0":
                        self.zero = True
                    case "+":
                        self.plus = True
                    case "-":
                        self.minus = True
                    case _:
                        self.space = True
                at += 1
            if at < end and "a" <= text[at] <= "z" and current < count:
                self.verb(text[at], arguments[current])
                current += 1
                at += 1
                continue
            current, at, after_index = self.index(at, text, current, count)
            if text.startswith("*", at):
                at += 1
                self.width, current = self.from_argument(arguments, current)
                if self.width is None:
                    self.out.append("%!(BADWIDTH)")
                elif self.width < 0:
                    self.width, self.minus, self.zero = -self.width, True, False
                after_index = False
            else:
                number, present, at = _number(text, at, end)
                self.width = number if present else None
                if after_index and present:
                    self.good_index = False
            if at + 1 < end and text[at] == ".":
                at += 1
                if after_index:
                    self.good_index = False
                current, at, after_index = self.index(at, text, current, count)
                if text.startswith("*", at):
                    at += 1
                    self.precision, current = self.from_argument(arguments, current)
                    if self.precision is None or self.precision < 0:
                        self.precision = None
                        self.out.append("%!(BADPREC)")
                    after_index = False
                else:
                    number, present, at = _number(text, at, end)
                    self.precision = number if present else 0
            if not after_index:
                current, at, after_index = self.index(at, text, current, count)
            if at >= end:
                self.out.append("%!(NOVERB)")
                break
            verb = text[at]
            at += 1
            if verb == "%":
                self.out.append("%")
            elif not self.good_index:
                self.out.append(f"%!{verb}(BADINDEX)")
            elif current >= count:
                self.out.append(f"%!{verb}(MISSING)")
            else:
                self.verb(verb, arguments[current])
                current += 1
        if not self.reordered and current < count:
            self.extra(arguments[current:])
        return "".join(self.out)

    def verb(self, verb: str, argument: Argument) -> None:
        if verb in "vw":
            self.sharp_v, self.sharp = self.sharp, False
            self.plus_v, self.plus = self.plus, False
        self.argument(argument, verb)

    def extra(self, arguments: Sequence[Argument]) -> None:
        self.clear()
        self.out.append("%!(EXTRA ")
        for at, argument in enumerate(arguments):
            if at:
                self.out.append(", ")
            self.out.append(_type_name(argument) + "=")
            self.argument(argument, "v")
        self.out.append(")")

    def from_argument(self, arguments: Sequence[Argument], at: int) -> tuple[int | None, int]:
        if at >= len(arguments):
            return None, at
        value = arguments[at]
        if isinstance(value, BigInt) or not isinstance(value, int) or abs(value) > _MAX_WIDTH:
            return None, at + 1
        return value, at + 1


def _digits(magnitude: int, base: int) -> str:
    if base == 10:
        return decimal(magnitude)
    return f"{magnitude:{ {2: 'b', 8: 'o', 16: 'x'}[base] }}"


_LONG: Final = 10**4000


def decimal(number: int) -> str:
    """`str(number)` without Python's limit on its length."""
    if -_LONG < number < _LONG:
        return str(number)
    sign, magnitude = ("-", -number) if number < 0 else ("", number)
    pieces: list[str] = []
    _split(magnitude, pieces, pad=0)
    return sign + "".join(pieces)


def _split(magnitude: int, pieces: list[str], pad: int) -> None:
    if magnitude.bit_length() < 12_000:
        pieces.append(str(magnitude).rjust(pad, "0"))
        return
    half = magnitude.bit_length() * 3 // 20
    high, low = divmod(magnitude, 10**half)
    _split(high, pieces, max(0, pad - half))
    _split(low, pieces, half)


def _number(text: str, start: int, end: int) -> tuple[int, bool, int]:
    if start >= end:
        return 0, False, end
    number, at, present = 0, start, False
    while at < end and "0" <= text[at] <= "9":
        if number > _MAX_WIDTH:
            return 0, False, end
        number = number * 10 + ord(text[at]) - 48
        present = True
        at += 1
    return number, present, at


def _with_point(body: str, verb: str, precision: int) -> str:
    digits = (6 if precision == -1 else precision) if verb in "gGx" else 0
    tail = ""
    for mark in "pP" if verb in "xX" else "eEpP":
        at = body.find(mark)
        if at >= 0:
            body, tail = body[:at], body[at:]
            break
    significant = False
    for char in body:
        if char == ".":
            continue
        significant = significant or char != "0"
        if significant:
            digits -= 1
    if "." not in body:
        if body == "0":
            digits -= 1
        body += "."
    return body + "0" * max(0, digits) + tail


def sprintf(text: str, arguments: Sequence[Argument], charge: Callable[[int], None] = lambda steps: None) -> str:
    """`fmt.Sprintf`. Long paddings are charged for. Raises Unsupported for what prints an address."""
    return _Printer(charge).format(text, arguments)
