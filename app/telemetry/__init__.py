"""Prometheus metrics, OpenTelemetry traces and request ids.

Imports storage and app.serving. Begin with `metrics.py`.
"""
