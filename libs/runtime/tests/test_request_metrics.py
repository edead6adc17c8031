"""Every request is in the metric `http.server.request.duration`, on which route it may be answered."""

import json
import subprocess
import sys

PROGRAM = """
import asyncio, json, httpx
from fastapi import FastAPI
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from paybill_runtime.http import problems
from paybill_runtime.http.fast_route import FastRouter
from paybill_runtime.http.limits import ConcurrencyLimit
from paybill_runtime.http.middleware import RequestMiddleware
from paybill_runtime.http.server import Server, listener
from starlette.responses import JSONResponse

async def main():
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    limit, closed = ConcurrencyLimit(8), ConcurrencyLimit(0)
    app = FastAPI()
    problems.install(app)
    app.add_middleware(RequestMiddleware, limit=limit)
    app.add_api_route("/ordinary/{id}", lambda: {}, methods=["POST"])
    fast = {
        "/fast": RequestMiddleware(JSONResponse({}), limit, str, "/fast"),
        "/full": RequestMiddleware(JSONResponse({}), closed, str, "/full"),
    }
    socket = listener("127.0.0.1", 0)
    server = Server(FastRouter(fast, app), 30)
    task = asyncio.create_task(server.serve([socket]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{socket.getsockname()[1]}", trust_env=False) as client:
        for path in ["/fast"] * 5 + ["/full"] * 2 + ["/ordinary/1"] * 3:
            await client.post(path, content=b"{}")
    server.should_exit = True
    await task
    points = [
        (dict(point.attributes), point.count)
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.data.data_points
    ]
    print(json.dumps(points))

asyncio.run(main())
"""


def test_fast_and_ordinary_routes_are_in_the_duration_of_requests() -> None:
    # In a process of its own: a meter provider is global and cannot be removed.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)

    counts = {(point["http.route"], point["http.response.status_code"]): count for point, count in points}
    assert counts == {("/fast", 200): 5, ("/full", 503): 2, ("/ordinary/{id}", 200): 3}
    fast, ordinary = ({*point} for point, _ in points if point["http.response.status_code"] == 200)
    assert fast == ordinary
