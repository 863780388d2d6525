"""The commands of `thumbloop`, a module for each group of them.

torch, transformers and Gradio are imported inside the commands that need them: the others answer at once.
Imports everything but the pages. Begin with `serve.py`.
"""
