"""Tuning protocols, one file each, found by name (`tuning.name`).

A file has `apply(model, config)`, which unfreezes or adds what is trained in a frozen RetrievalModel, `LEARNING_RATE`, the
protocol's default, and a class `Config(TuningConfig)` if it has fields of its own. What it puts into a block is a `Part`
(`vop/model/part.py`).
"""
