"""The engine alone on a file: no database, no server.

Imports storage.imports, trainer.engine and trainer.launch. Begin with `train_file.py`.
"""
