"""
Python values and user functions to bytes and buffers, and back; values that all tasks share.
"""
