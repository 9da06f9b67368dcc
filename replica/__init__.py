"""The Neo4j side: apply commands exactly once and in order, answer queries, compare graphs.

Knows Cypher and the Neo4j driver; knows nothing of Kafka or Dramatiq.  Importing it connects to nothing.
"""
