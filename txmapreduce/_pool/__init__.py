"""
Child processes: start, pipes, output, memory and death of one; restarts and sharing of several.
"""
