"""Corpora as they are downloaded, one module for each: a class `CORPUS` after the contract in `prepare/api.py`.

A further corpus is one more module; its command is the module's name with `-` for `_`.
"""
