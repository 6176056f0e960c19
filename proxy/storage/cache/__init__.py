"""A store in front of another: objects on a local disk, each fetched once for all who read it.

`store` is the store; `directory` bounds how much is on the disk, `file` is one cached object, `fill` fetches it
(`waiter` for those who wait for its bytes), `reader` reads it.
"""
