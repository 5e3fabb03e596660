"""Rego v1, embedded: a strict engine that is exact or refuses. A library of its own.

See :func:`compile_modules`, :class:`Policy`.
"""

from gateway.rego.errors import CompileError, EvalError, Problem
from gateway.rego.policy import Coverage, Policy, RuleInfo, compile_modules
from gateway.rego.values import UNDEFINED, RegoSet

__all__ = [
    "UNDEFINED",
    "CompileError",
    "Coverage",
    "EvalError",
    "Policy",
    "Problem",
    "RegoSet",
    "RuleInfo",
    "compile_modules",
]
