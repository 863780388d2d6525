"""Trains on a file with the engine alone: no database, no server.

Imports storage and trainer.adapters, dataset, engine, launch and model. Begin with `train_file.py`.
"""
