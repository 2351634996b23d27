"""
Helpers of the command line: standard input as records, results as lines.
"""
