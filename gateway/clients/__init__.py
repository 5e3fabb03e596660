"""MCP clients' own configuration files: read them, take their servers over, put the gateway in, and take it out again."""
