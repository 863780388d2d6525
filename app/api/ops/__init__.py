"""Health, metrics and the API's own documentation.

Begin with `health.py`.
"""
