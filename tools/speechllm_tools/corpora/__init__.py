"""Corpora as they are downloaded, one in each module, with a class `CORPUS` that follows `prepare/api.py`.

A further corpus is one more module; its command is the module's name with `-` for `_`.
"""
