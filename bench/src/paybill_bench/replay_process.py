"""A replay of the hop, as a separate process: prints the report and the seconds that it took."""

import json
import time

from paybill_runtime.replay.process import Target, replay_all

from paybill_bench import hop
from paybill_bench.access import from_command_line


def main() -> None:
    """Replays as `python -m paybill_<service> replay` does."""
    service = hop.service()
    target = Target(service.name, service.states, hop.settings(from_command_line()))
    begin = time.perf_counter()
    [report] = replay_all([target])
    print(json.dumps({**report.as_dict(), "seconds": time.perf_counter() - begin}))  # noqa: T201  # read by the benchmark


if __name__ == "__main__":
    main()
