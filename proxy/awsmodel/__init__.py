"""The API models that the clients were made from: botocore's own `ecr`, `sts` and `iam` descriptions.

`models` reads them, `validation` holds an input against them, `query` turns the query protocol's forms into inputs and
answers into XML. Nothing here knows what an operation does. May import `model` only; reads botocore's data files.
"""
