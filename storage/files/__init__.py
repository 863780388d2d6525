"""Files that survive a crash: atomic writes, locks between processes, a full disk, the installation's key.

Imports storage.errors. Begin with `atomic.py`.
"""
