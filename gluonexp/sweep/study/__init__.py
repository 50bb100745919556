"""The search of a sweep: an Optuna study in a journal file that several processes share.

A sweep asks for points and tells how they ended (`open_study`); a job reports its epochs and
learns whether to stop (`open_trial`). Both only append to the journal, so they need no server and
may run on several machines that see the same file. Optuna is imported when a study is opened.
"""
