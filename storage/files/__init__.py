"""Crash-safe file handling: atomic writes, file locks, folders in a bucket, full-disk errors, the
installation's secret key.

May import storage.errors. Begin with `atomic.py`.
"""
