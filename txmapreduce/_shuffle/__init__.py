"""
Keys: which partition owns one, how its values come together, in memory and in sorted runs on disk.
"""
