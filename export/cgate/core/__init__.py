"""What all parts share: errors, targets, network and plan types, data sets, file writing.

Needs numpy only. train, export and host_tools import this package; it imports none of them.
"""
