"""Makes the samples importable: tests are imported by path, and not as a package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
