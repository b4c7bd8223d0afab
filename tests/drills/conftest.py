"""What is drilled lives in other rooms of the tests."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / room) for room in ("data", "training", "policies")]
