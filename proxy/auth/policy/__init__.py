"""The evaluator of IAM's policy language. Pure: clock and look-ups are passed in.

    matching    wildcards, in linear time
    overlap     wildcards against wildcards, for decisions about many names at once
    values      values of conditions: numbers, instants, addresses, ARNs
    context     the condition keys of a request
    variables   policy variables and their values
    conditions  operators, set operators, `IfExists`, `Null`
    principals  the Principal element, and how it matches a caller
    documents   parses and compiles a policy's text, once
    evaluation  matches every statement against a request; the only module that does
    decision    the decision within one account or across two, and the message of a refusal
    trust       the decision about assuming a role
    lockout     whether a new repository policy would lock out its author
    explain     which statement decided, and why the others did not
    simulate    the decision with hypothetical policies
    validation  rules for documents of each kind, before they are stored
    spans       positions of statements and principals in a text, and their replacement

Called by `access`, `metadata.operations`, `ecr` and `admin`. Source: IAM User Guide, "Policy evaluation logic", "IAM
JSON policy elements reference". Must not know HTTP or rows.
"""
