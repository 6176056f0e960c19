"""What everybody agrees on: names, digests, ranges, manifests, records, errors.

Pure: no I/O, no clock, no randomness, no aiohttp, so that every other room (and any test) can import it for free.
"""
