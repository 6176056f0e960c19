"""What tests and benches share: real servers, programs, doubles of one part, example calls, bad input. See README.md.

What starts a real server knows of it only what a user knows: its command line, its HTTP, the credentials file in its
data directory, and its processes as the kernel lists them.
"""
