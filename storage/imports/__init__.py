"""Rated data in: any known file becomes rated chats.

Imports storage.examples and storage.chats. Begin with `importer.py`; a new format goes into `formats.py`.
"""
