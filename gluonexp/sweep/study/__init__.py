"""The search of a sweep: an Optuna study that several processes share.

A sweep asks for points and tells how they ended (`open_study`); a job reports its epochs and
learns whether to stop (`open_trial`). The study is in a file on this machine, or in a database for
several of them. Optuna is imported when a study is opened.
"""
