"""Hashing, sealing and signing. Every key here is derived from the operator's two secrets, each for one purpose."""
