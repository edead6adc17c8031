"""The stack of `paybill up`, as the documents start it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

END_WITHIN_S = 60


@contextmanager
def running(data_dir: Path) -> Iterator[dict[str, str]]:
    """Starts the stack; yields the variables that its messages name."""
    process = subprocess.Popen(
        [sys.executable, "-m", "paybill_cli", "up", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        key = next(
            line.partition("=")[2].strip() for line in process.stdout if line.startswith("export PAYBILL_API_KEY=")
        )
        # The key is printed when it is made, the table of all parts when they are ready.
        assert any(line.startswith("name\t") for line in process.stdout)
        yield {"PAYBILL_API_KEY": key, "PAYBILL_DATA_DIR": str(data_dir)}
    finally:
        process.terminate()
        process.communicate(timeout=END_WITHIN_S)
