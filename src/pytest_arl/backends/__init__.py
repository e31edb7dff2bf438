"""Transports of a sandbox's requests: the protocol of a backend, and the backends."""
