"""
What coordinator and worker say to each other, as bytes: messages, frames, and memory that both share.
"""
