"""Around the task queue: the local stack of real servers, and what the command line does with it.

Imported only by ``cli``.
"""
