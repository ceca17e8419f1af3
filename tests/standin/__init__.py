"""A stand-in for the Hugging Face Hub on loopback, for tests only: enough of its protocol for the pinned clients.

It is not the Hub. What the real one validates, filters, limits or shows differently, it cannot tell.
"""
