"""
What the backend for Dask distributed is made of.
"""
