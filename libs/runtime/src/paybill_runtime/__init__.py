"""Runtime of every service.

Guarantees: a fact is committed with the state that it changes, published at least once and in order for each tenant,
and handled exactly once by each service. Layers, from the top: `app`, `replay`, `messaging`, `jobs`, `decisions`,
`http` and `security`, `database`, `telemetry` and `settings`, `errors` and `clock`.
"""
