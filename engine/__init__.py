"""The engine: kernel, log, runner and replay.  It imports nothing of ours from above."""
