"""What is not MCP, behind the gateway."""
