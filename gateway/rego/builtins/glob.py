"""Globs: `glob.match` and `glob.quote_meta`."""

from __future__ import annotations

from gateway.rego.builtins.golang import glob
from gateway.rego.builtins.operands import charge_text, string
from gateway.rego.builtins.registry import (
    BuiltinContext,
    BuiltinError,
    UnsupportedError,
    builtin,
    element_error,
    operand_error,
)
from gateway.rego.values import Value


@builtin("glob.match")
def glob_match(ctx: BuiltinContext, pattern: Value, delimiters: Value, text: Value) -> Value:
    expression = string(pattern, 1)
    if type(delimiters) is list and len(delimiters) == 1 and delimiters[0] == "/":
        separators = "/"
    elif delimiters is None:
        separators = ""
    elif type(delimiters) is list:
        for delimiter in delimiters:
            if type(delimiter) is not str:
                raise element_error(2, delimiters, delimiter, "string")
            if len(delimiter) != 1:
                raise element_error(2, delimiters, delimiter, "rune")
        separators = "".join(delimiters) or "."
    else:
        raise operand_error(2, delimiters, "array", "null")
    subject = string(text, 3)
    charge_text(ctx, len(subject))
    try:
        return glob.compile(expression, separators).match(subject)
    except glob.GlobError as error:
        raise BuiltinError(str(error)) from None
    except glob.Unsupported as error:
        raise UnsupportedError(str(error)) from None


@builtin("glob.quote_meta")
def glob_quote_meta(ctx: BuiltinContext, text: Value) -> Value:
    return glob.quote_meta(string(text, 1))
