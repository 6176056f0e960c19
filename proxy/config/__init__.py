"""Settings: read once at start from a TOML file, the environment and command line options.

`settings` defines them with their defaults and bounds, `loader` reads and checks them, `plaintext` refuses connections
without TLS that leave the machine. Called at start by `cli` and `app`, and by `observe` for the logger's settings. May
import `model` only.
"""
