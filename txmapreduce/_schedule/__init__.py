"""
What a run does next: a state machine and its parts. No I/O, no clock, no Twisted.
"""
