"""What a server does beside answering: daily housekeeping, and the webhook.

Imports storage. Begin with `housekeeping.py`.
"""
