"""What led to what: the causes of a record, its effects, and the spans of runs, from a log alone.

Nothing here needs an app, folds a kernel or executes anything: each record says its cause.
"""
