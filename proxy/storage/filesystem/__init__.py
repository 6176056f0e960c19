"""Objects in files. `store` is the store, `tree` its directories and names, `preallocation` takes and returns disk
blocks, `nowait` reads from the page cache without waiting for a disk.
"""
