"""Heads, one file each, found by name (`head.name`): what becomes of embeddings until texts score videos.

A file has a class `Head` (an interaction) or `Stage` (frame embeddings to frame embeddings, before one) of `vop/model/head.py`,
`LEARNING_RATE`, the default of what it trains, and a class `Config(HeadConfig)` if it has fields of its own.
"""
