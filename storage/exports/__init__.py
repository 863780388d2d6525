"""Exports examples in the formats and shapes that other tools read.

May import storage.errors, .batches, .settings, .files, .chats and .examples. Begin with `exporter.py`; a new
shape goes into `shapes.py`.
"""
