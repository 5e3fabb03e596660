"""Puts `policies/` into the wheel as `gateway/_policies`, so that `gateway init` has them without a checkout.

An editable install reads the repository's own directory, so nothing is copied there (a copy would go stale).
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PoliciesHook(BuildHookInterface[Any]):
    """Adds the policies to a standard wheel; an absent directory is an error there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        policies = Path(self.root) / "policies"
        if not any(policies.glob("*.rego")):
            raise FileNotFoundError(f"{policies} holds no policy: a wheel without one could not start")
        build_data["force_include"][str(policies)] = "gateway/_policies"
