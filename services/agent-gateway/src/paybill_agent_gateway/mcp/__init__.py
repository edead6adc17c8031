"""MCP endpoint: the protocol's messages, and the ASGI handler that answers them."""
