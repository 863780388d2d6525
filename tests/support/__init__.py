"""What tests of several modules share: builders, servers and stand-ins for other programs. No tests."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
