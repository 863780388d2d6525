"""Where samples of real feedback stand: beside the repository, where they are at hand.

Apart from conftest.py, which keeps the tests to one thread each: a benchmark takes all cores.
"""

from pathlib import Path

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
