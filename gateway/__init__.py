"""The MCP execution gateway: agents propose tool calls, the gateway decides, executes and records them."""

__version__ = "0.1.0"
