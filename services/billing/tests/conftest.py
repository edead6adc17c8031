"""Makes the samples of these tests importable: pytest imports tests by path, and not as a package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
