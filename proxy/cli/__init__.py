"""The `wharfage` command: click commands and their options, nothing else.

`main` is the entry point and holds `serve`; `accounts`, `backup` and `rig` add their commands to it; `options` are the
options that several commands share. A command parses its options and calls `admin`, `app` or `rig`. Called by
`proxy.__main__` and by the script that the package installs.
"""
