"""The evaluator: what IAM's policy language says to a request. Pure: clock and look-ups are passed in.

    matching    wildcards, in linear time
    overlap     wildcards against wildcards: what stands for many names at once
    values      what the values of conditions mean: numbers, instants, addresses, ARNs
    context     the condition keys that a request fills
    variables   texts of policies that a request fills in
    conditions  operators, set operators, `IfExists`, `Null`
    principals  who is named, and how strongly a caller is meant
    documents   a text, parsed and compiled once
    weighing    every statement matched against one request; nobody else matches statements
    decision    the whole decision of one or two accounts, and its sentence for whoever was refused
    trust       the same for taking a role
    lockout     whether whoever sets a repository's policy could not set it again
    explain     which statement decided, and why the others did not
    simulate    the same over policies that are only supposed
    validation  what a document must be before it is stored, by kind
    places      where statements and principals stand in a text, and how it is shown once one of these is gone

Source: IAM User Guide, "Policy evaluation logic", "IAM JSON policy elements reference". Must not know HTTP or rows.
"""
