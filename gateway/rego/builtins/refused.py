"""Builtins of OPA that this engine does not have, and why; they are refused at load, by name and place."""

from __future__ import annotations

from typing import Final

_REACHES_OUT: Final = "a decision reaches nothing outside itself"
_X509: Final = "X.509 certificates are verified where connections are made, not in policies"
_SIGNS: Final = "a policy holds no private keys"
_GRAPHQL: Final = "GraphQL is not parsed"

REFUSED: Final[dict[str, str]] = {
    "http.send": _REACHES_OUT,
    "net.lookup_ip_addr": _REACHES_OUT,
    "opa.runtime": "it would show the process's environment and configuration",
    "rego.parse_module": "policies do not parse policies",
    "rego.metadata.chain": "annotations are not kept for evaluation",
    "rego.metadata.rule": "annotations are not kept for evaluation",
    "strings.render_template": "Go's templates are not rendered",
    "providers.aws.sign_req": _SIGNS,
    "crypto.parse_private_keys": _SIGNS,
    "crypto.x509.parse_rsa_private_key": _SIGNS,
    "crypto.x509.parse_keypair": _SIGNS,
    "crypto.x509.parse_certificates": _X509,
    "crypto.x509.parse_certificate_request": _X509,
    "crypto.x509.parse_and_verify_certificates": _X509,
    "crypto.x509.parse_and_verify_certificates_with_options": _X509,
    "graphql.is_valid": _GRAPHQL,
    "graphql.parse": _GRAPHQL,
    "graphql.parse_and_verify": _GRAPHQL,
    "graphql.parse_query": _GRAPHQL,
    "graphql.parse_schema": _GRAPHQL,
    "graphql.schema_is_valid": _GRAPHQL,
}
"""The reason for each, by name."""
