"""What tests share: real servers, real programs, images made from scratch, and an OCI client that knows every byte.

Written with the care of the code it tests. Knows only what a stranger knows of a running registry: its command line,
its HTTP, its data directory's credentials file, and its processes as the kernel lists them.
"""
