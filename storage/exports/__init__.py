"""Exports examples in the formats and shapes that other tools read.

May import storage.errors, .settings, .files, .chats and .examples. Begin with `exporter.py`; a new shape
goes into `shapes.py`.
"""
