"""What happens when nobody asks (`schedule`, `sweep`), and what an operator asks for (`check`, `quick`, `rewrap`,
`reseal`, `warm`, `copy` to another store or a `backup`).

Scheduled tasks take a turn through a metadata service, so one node at a time does each. All of them walk rows and store
in bounded memory, may be broken off anywhere, and remove rows before objects. May import `registry` and below.
"""
