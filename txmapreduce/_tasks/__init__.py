"""
What a task does: map records, fold partials, and say what went wrong. The same in every backend.
"""
