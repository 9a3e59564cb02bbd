CREATE TABLE t (a INT PRIMARY KEY, b STRING)

INSERT INTO t VALUES (0, 'zero'), (3, 'three')

ALTER TABLE t SPLIT AT VALUES (1), (5), (1)

INSERT INTO t VALUES (1, 'one'), (7, 'seven')

SELECT range_size > 0 FROM crdb_internal.ranges WHERE range_id > 3

SELECT start_key, end_key, lease_holder, replicas, split_enforced_until FROM [SHOW RANGES FROM TABLE t WITH DETAILS]

SELECT * FROM t

UPDATE t SET b = b || '!' WHERE a = 7

SELECT a, b FROM t WHERE a > 2 ORDER BY a DESC

SELECT count(*), min(range_id) > 3 FROM [SHOW CLUSTER RANGES]

SELECT start_key, range_id IS NOT NULL FROM [SHOW RANGE FROM TABLE t FOR ROW (6)]

ALTER TABLE t UNSPLIT AT VALUES (999)

ALTER TABLE t UNSPLIT ALL

SELECT start_key, split_enforced_until FROM [SHOW RANGES FROM TABLE t]

SELECT * FROM crdb_internal.cluster_locks

-- The rows of a table that was split are deleted range by range.

TRUNCATE t

SELECT count(*) FROM t

DROP TABLE t

SELECT span_stats->>'live_count' AS live FROM [SHOW CLUSTER RANGES WITH DETAILS] WHERE range_id > 3
