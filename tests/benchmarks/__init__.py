"""Figures, printed as JSON by `make bench`; nothing is asserted."""

import app  # noqa: F401 (says how torch's threads wait, which has to be said before torch is imported)
