"""Collections: named sets of embeddings that can be searched.

Collections (manager.py) -> CollectionStore (store.py, SQLite: the truth)
                         -> Index (index.py, in memory: a cache rebuilt from the store)
"""
