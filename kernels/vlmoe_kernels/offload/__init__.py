"""Experts larger than the memory they may take: in a mapped file, and in memory as long as they are worth it.

    need, expect -> residency.py (who stays: pure) -> storage.py (when, in which thread) -> mapped.py (Linux is told)

Addresses never change, and what was let go is read again when it is touched: no decision taken here can alter a
result.
"""
