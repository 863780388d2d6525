"""Files and folders as records, one at a time and in bounded memory; what the columns mean is not known here.

May import storage.errors and storage.files. Begin with `source.py`.
"""
