"""Background threads of a server: daily housekeeping and the webhook.

Imports storage. Begin with `housekeeping.py`.
"""
