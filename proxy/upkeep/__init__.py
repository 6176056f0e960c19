"""What happens when nobody asks: the sweep, the check of store against rows, rewrapping keys.

Each task takes a turn through the metadata service, so one node at a time does it. May import `registry` and below.
"""
