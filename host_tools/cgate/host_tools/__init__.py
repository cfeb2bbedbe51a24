"""Building, running, verifying and reporting exported networks: the `cgate` command line.

Needs no torch. The commands that train import `cgate.train` when they run.
"""
