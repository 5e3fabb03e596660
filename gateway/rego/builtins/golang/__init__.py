"""Go's own semantics, where OPA's builtins show them: formatting, quoting, times, regular expressions, JSON, numbers.

OPA is written in Go, and what its builtins return is what Go's standard library returns. Each module here follows the
Go package of the same name (Go 1.26, Unicode 15.0.0), knows nothing of Rego, and has no side effects.
"""
