"""Examples out, in the formats and shapes that other tools read.

Imports storage.examples. Begin with `exporter.py`; a new shape goes into `shapes.py`.
"""
