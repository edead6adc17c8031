"""HTTP server of a service.

Guarantees: connections, bodies and concurrent requests are bounded, and a request beyond a limit is refused at once
with 503 (load shedding); an ambiguous head is refused; every error is answered as problem+json with a stable code;
every request has a trace; a route with `caller` runs only for a valid API key.

Public modules: `auth` (API keys), `caller`, `listing`, `problems`; `app` wires `limits`, `middleware`, `fast_route` and
`server`, which uses `request_head`. Nothing is imported here, so that the CLI can create API keys without loading
FastAPI.
"""
