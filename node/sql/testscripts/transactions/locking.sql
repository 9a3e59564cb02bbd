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
