"""Where samples of real feedback stand: beside the repository, where they are at hand.

Apart from conftest.py, which keeps the tests to one thread each: a benchmark takes all cores.
"""

from tests.support import REPOSITORY

SHARED_DATA = REPOSITORY.parent / "shared" / "data"
