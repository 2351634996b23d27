"""
The child process: its loop, what it takes over from its coordinator, and how it ends with that.
"""
