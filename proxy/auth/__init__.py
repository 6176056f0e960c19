"""Who asks, and may they: SigV4, tokens, small sealed values, the policy decision.

Pure decisions: clock and look-ups are passed in, so every rule is a table of tests. May import `model` only.
"""
