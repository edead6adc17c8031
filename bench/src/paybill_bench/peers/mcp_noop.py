"""Peer: a tool without work on the server of the official MCP SDK, stateless and with JSON responses.

Run by `bench agent` as `python -m paybill_bench.peers.mcp_noop PORT`.
"""

import sys

import uvicorn
from mcp.server.mcpserver import MCPServer


def main() -> None:
    """Serves until it is killed."""
    server = MCPServer("noop")

    @server.tool()
    def noop(text: str) -> dict[str, str]:
        """Returns its argument."""
        return {"text": text}

    app = server.streamable_http_app(stateless_http=True, json_response=True)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", http="httptools", loop="auto")


if __name__ == "__main__":
    main()
