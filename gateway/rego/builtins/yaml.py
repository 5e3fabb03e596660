"""YAML: `yaml.marshal`, `yaml.unmarshal`, `yaml.is_valid`."""

from __future__ import annotations

from gateway.rego.builtins.golang import yaml
from gateway.rego.builtins.operands import charge_text, string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.values import Value


@builtin("yaml.marshal")
def yaml_marshal(ctx: BuiltinContext, value: Value) -> Value:
    try:
        text = yaml.encode(value)
    except yaml.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    charge_text(ctx, 16 * len(text))
    return text


@builtin("yaml.unmarshal")
def yaml_unmarshal(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, 16 * len(source))
    try:
        return yaml.decode(source)
    except yaml.YamlError as error:
        raise BuiltinError(str(error)) from None
    except yaml.Unsupported as error:
        raise UnsupportedError(str(error)) from None


@builtin("yaml.is_valid")
def yaml_is_valid(ctx: BuiltinContext, text: Value) -> Value:
    if type(text) is not str:
        return False
    charge_text(ctx, 16 * len(string(text, 1)))
    try:
        yaml.decode(text)
    except yaml.YamlError:
        return False
    except yaml.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    return True
