"""Lifecycle policies: their grammar (`policy`), what they decide about images (`evaluation`), their `records`. Pure.

`metadata.operations` validates policies with it when they are saved, and looks at an image again in the transaction
that removes it; `jobs.lifecycle` evaluates repositories with it. May import `model` only. Sources: Amazon ECR User
Guide, "Lifecycle policy properties", "Examples of lifecycle policies", "How the lifecycle policy evaluator works".
"""
