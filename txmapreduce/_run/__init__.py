"""
One run, from the input that is fed to it to the result: the coordinator, and what it can go on from.
"""
