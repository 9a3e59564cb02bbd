a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10), (2, 20), (3, 30), (4, 40)

-- FOR UPDATE holds writers and lockers off, not readers.
a> BEGIN
a> SELECT * FROM t WHERE k = 1 FOR UPDATE
b> SELECT * FROM t WHERE k = 1
b> SELECT * FROM t WHERE k = 1 FOR UPDATE NOWAIT
b> SELECT * FROM t ORDER BY k FOR UPDATE SKIP LOCKED
b> SELECT * FROM t WHERE v < 30 ORDER BY k FOR UPDATE SKIP LOCKED
b> SELECT * FROM t WHERE v > 5 LIMIT 1 FOR UPDATE SKIP LOCKED
b> SET lock_timeout = '30ms'
b> UPDATE t SET v = 11 WHERE k = 1
b> SET lock_timeout = 0
b& UPDATE t SET v = 12 WHERE k = 1
a> COMMIT
b.

-- Shared locks are shared.
a> BEGIN
b> BEGIN
a> SELECT * FROM t WHERE k = 1 FOR SHARE
b> SELECT * FROM t WHERE k = 1 FOR SHARE
c& UPDATE t SET v = 13 WHERE k = 1
a> COMMIT
b> COMMIT
c.

-- A filter locks only what passes, LIMIT only what comes out.
a> BEGIN
a> SELECT k FROM t WHERE v > 10 LIMIT 1 FOR UPDATE
b> SELECT k FROM t WHERE k > 1 ORDER BY k FOR UPDATE NOWAIT
b> SELECT k FROM t WHERE k = 1 FOR UPDATE NOWAIT
a> COMMIT

-- OF names the tables that are locked.
a> CREATE TABLE u (k INT PRIMARY KEY)
a> INSERT INTO u VALUES (1)
a> BEGIN
a> SELECT t.k FROM t JOIN u AS x ON t.k = x.k FOR UPDATE OF x
b> SELECT k FROM t WHERE k = 1 FOR UPDATE NOWAIT
b> SELECT k FROM u FOR UPDATE NOWAIT
a> COMMIT
a> SELECT t.k FROM t FOR UPDATE OF u
a> SELECT count(*) FROM t FOR UPDATE
a> SELECT DISTINCT v FROM t FOR UPDATE
a> SELECT v FROM t GROUP BY v FOR UPDATE
a> SELECT v FROM t GROUP BY v HAVING v > 1 FOR NO KEY UPDATE
a> SELECT v FROM t UNION SELECT k FROM u FOR UPDATE
a> SELECT v FROM t EXCEPT ALL SELECT k FROM u FOR SHARE
a> (SELECT v FROM t) INTERSECT (SELECT k FROM u) ORDER BY 1 FOR KEY SHARE
a> SELECT v FROM t UNION (SELECT k FROM u FOR UPDATE)
a> (SELECT v FROM t FOR UPDATE) UNION SELECT k FROM u
a> SELECT k FROM t ORDER BY k FOR UPDATE LIMIT 1
a> VALUES (1) FOR UPDATE
a> SELECT generate_series(1, 2) FROM t LIMIT 1 FOR UPDATE
a> WITH x AS (SELECT k FROM t) SELECT * FROM x LIMIT 1 FOR UPDATE
a> SELECT * FROM (SELECT DISTINCT v FROM t) AS x LIMIT 1 FOR UPDATE
a> SELECT * FROM (SELECT v FROM t UNION SELECT k FROM u) AS x LIMIT 1 FOR UPDATE
a> SELECT * FROM t, (SELECT DISTINCT v FROM t) AS x LIMIT 1 FOR UPDATE
a> SELECT count(*) FROM (SELECT t.k FROM t, (SELECT DISTINCT v FROM t) AS x FOR UPDATE OF t) AS y

-- Two workers take jobs from a queue.
a> BEGIN
b> BEGIN
a> SELECT k FROM t ORDER BY k LIMIT 1 FOR UPDATE SKIP LOCKED
b> SELECT k FROM t ORDER BY k LIMIT 1 FOR UPDATE SKIP LOCKED
a> DELETE FROM t WHERE k = 1
b> DELETE FROM t WHERE k = 2
a> COMMIT
b> COMMIT
c> SELECT k FROM t ORDER BY k

-- statement_timeout ends a wait, and with it the transaction.
a> BEGIN
a> UPDATE t SET v = 0 WHERE k = 3
b> BEGIN
b> SET LOCAL statement_timeout = '50ms'
b> UPDATE t SET v = 1 WHERE k = 3
b> SELECT 1
b> ROLLBACK
a> ROLLBACK

-- What is written without a look waits for locks as it commits, and no longer than it may.
a> BEGIN
a> SELECT k FROM t WHERE k = 3 FOR UPDATE
b> SET lock_timeout = '30ms'
b> UPSERT INTO t VALUES (3, 33)
b> INSERT INTO t VALUES (3, 33)
b> BEGIN
b> UPSERT INTO t VALUES (3, 34)
b> COMMIT
b> SET lock_timeout = 0
b> SET statement_timeout = '50ms'
b> UPSERT INTO t VALUES (3, 35)
b> SET statement_timeout = 0
b& UPSERT INTO t VALUES (3, 36)
a> COMMIT
b.
c> SELECT * FROM t WHERE k = 3

-- All locks of a range are shown, however many there are, and all holders of each.
a> CREATE TABLE many (k INT PRIMARY KEY)
a> INSERT INTO many SELECT * FROM generate_series(1, 1501)
a> BEGIN
a> SELECT count(*) FROM (SELECT k FROM many WHERE k > 1 FOR SHARE) AS held
b> BEGIN
b> SELECT count(*) FROM (SELECT k FROM many WHERE k > 1 FOR SHARE) AS held
c> BEGIN
c> SELECT k FROM many WHERE k = 1 FOR UPDATE
d> SELECT count(*), count(DISTINCT lock_key), count(DISTINCT txn_id) FROM crdb_internal.cluster_locks WHERE table_name = 'many'
c> ROLLBACK
b> ROLLBACK
a> ROLLBACK
