"""Models that count: neighbours by co-occurrence, by EASE, by texts, a mix, and recent popularity; nothing is trained.

Each module has `fit(data, settings)` and `choose(data, valid)`; all of them read the training split only, and `choose`
reads the validation cases beside it.
"""
