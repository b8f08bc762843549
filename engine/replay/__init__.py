"""Replay: feed stored records through the kernel, without effects.

`replay` derives again what was recorded and compares; `whatif` lets other rules see the same
log; `bisect` finds where two replays part.  Nothing here reads a clock or calls a task.
"""
