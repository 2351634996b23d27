"""
Files as input and output: planning splits, reading a worker's share, the formats of part files.
"""
