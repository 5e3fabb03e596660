"""The public fixture, as an agent's own tests have it."""

from gateway.testing import mcp_replay

__all__ = ["mcp_replay"]
