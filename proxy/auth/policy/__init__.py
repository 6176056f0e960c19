"""The evaluator: what IAM's policy language says to a request. Pure: clock and look-ups are passed in.

    documents   a text, parsed and compiled once: statements, principals, matchers
    conditions  operators, set operators, variables
    context     the condition keys that a request fills
    decision    the whole decision of one or two accounts, and its sentence for whoever was refused
    validation  what a document must be before it is stored, by kind
    explain     which statement decided, and why the others did not

Source: IAM User Guide, "Policy evaluation logic", "IAM JSON policy elements reference". Must not know HTTP or rows.
"""
