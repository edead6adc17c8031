"""Every background loop of a service is started by `Loops`, which isolates its faults; other tasks are listed here."""

import ast

from test_structure import ROOT, name

TASKS = {
    "libs/runtime/src/paybill_runtime/loops.py": "the registry of loops",
    "libs/runtime/src/paybill_runtime/serving.py": "the process itself, and its stop",
    "libs/runtime/src/paybill_runtime/messaging/broker.py": "awaited by the caller",
    "libs/runtime/src/paybill_runtime/replay/verify.py": "a command, awaited by the caller",
    "libs/runtime/src/paybill_runtime/jobs/worker.py": "attempts of jobs: an error is stored with the job",
    "services/agent-gateway/src/paybill_agent_gateway/jobs.py": "awaited by a job",
    "services/billing/src/paybill_billing/webhooks/inbox.py": "one group of webhooks: an error answers its senders",
    "services/provisioner/src/paybill_provisioner/app.py": "the watch over sessions, which logs its faults and goes on",
    "services/provisioner/src/paybill_provisioner/execution.py": "awaited by a job",
    "services/provisioner/src/paybill_provisioner/drivers/scram.py": "one computation, awaited by its user",
}
"""Modules of services that start tasks, with the reason why a fault of one ends nothing else."""


def test_only_listed_modules_of_services_start_tasks() -> None:
    sources = [*ROOT.glob("libs/runtime/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]
    found = {
        name(path)
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"create_task", "ensure_future", "run_coroutine_threadsafe"}
    }

    assert found == set(TASKS)
