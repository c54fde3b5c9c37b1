from __future__ import annotations

import sys
from pathlib import Path

# tester.py, and the small data and networks of the training's tests
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "training")]
