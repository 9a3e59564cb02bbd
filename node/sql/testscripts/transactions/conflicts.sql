a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)

-- Write-write: the second waits, and adds to what the first wrote.
a> BEGIN
b> BEGIN
a> UPDATE t SET v = v + 1 WHERE k = 1
b& UPDATE t SET v = v + 100 WHERE k = 1 RETURNING v
a> COMMIT
b.
b> COMMIT
c> SELECT * FROM t WHERE k = 1

-- One that waits for a transaction that is rolled back.
a> BEGIN
a> UPDATE t SET v = 0 WHERE k = 1
b& UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
a> ROLLBACK
b.

-- The first statement of a transaction read something the second is told otherwise: 40001.
a> BEGIN
a> SELECT v FROM t WHERE k = 2
b> UPDATE t SET v = 21 WHERE k = 2
a> UPDATE t SET v = v + 1 WHERE k = 2
a> SELECT 1
a> ROLLBACK

-- What was read did not change: the transaction goes on at a later time.
a> BEGIN
a> SELECT v FROM t WHERE k = 3
b> UPDATE t SET v = 22 WHERE k = 2
a> UPDATE t SET v = v + 1 WHERE k = 2 RETURNING v
a> COMMIT
c> SELECT * FROM t ORDER BY k

-- Write skew: each reads both rows and writes one of them; one of them must fail.
a> BEGIN
b> BEGIN
a> SELECT sum(v) FROM t WHERE k IN (1, 2)
b> SELECT sum(v) FROM t WHERE k IN (1, 2)
a> UPDATE t SET v = 0 WHERE k = 1
b> UPDATE t SET v = 0 WHERE k = 2
a> COMMIT
b> COMMIT
b> SELECT 1
c> SELECT * FROM t ORDER BY k

-- A phantom.
a> BEGIN
b> BEGIN
a> SELECT count(*) FROM t
b> SELECT count(*) FROM t
a> INSERT INTO t VALUES (4, 40)
b> INSERT INTO t VALUES (5, 50)
a> COMMIT
b> COMMIT
c> SELECT count(*) FROM t

-- Two inserts of one key.
a> BEGIN
a> INSERT INTO t VALUES (9, 1)
b& INSERT INTO t VALUES (9, 2)
a> COMMIT
b.

-- A deadlock is broken: one of the two runs again, which its client need not know.
a> BEGIN
b> BEGIN
a> UPDATE t SET v = 1 WHERE k = 1
b> UPDATE t SET v = 2 WHERE k = 2
a& UPDATE t SET v = 3 WHERE k = 2
b> UPDATE t SET v = 4 WHERE k = 1
b> ROLLBACK
a.
a> COMMIT
c> SELECT * FROM t WHERE k < 3 ORDER BY k

-- Unless it was told what is not so any more.
a> BEGIN
b> BEGIN
a> UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
b> UPDATE t SET v = v + 1 WHERE k = 2
a& UPDATE t SET v = v + 1 WHERE k = 2
b> UPDATE t SET v = v + 10 WHERE k = 1
watch 600
b> COMMIT
a.
a> ROLLBACK
c> SELECT * FROM t WHERE k < 3 ORDER BY k

-- A read-only transaction keeps seeing what it saw.
a> BEGIN READ ONLY
a> SELECT v FROM t WHERE k = 3
b> UPDATE t SET v = 33 WHERE k = 3
a> SELECT v FROM t WHERE k = 3
a> COMMIT
a> SELECT v FROM t WHERE k = 3

-- The row that was read changed, but not in what the client saw: the transaction runs again.
a> BEGIN
a> SELECT k FROM t WHERE k = 1
b> UPDATE t SET v = 50 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
a> COMMIT

-- Not after settings changed on which its statements depend.
a> BEGIN
a> SELECT k FROM t WHERE k = 1
a> SET timezone = 'Europe/Berlin'
b> UPDATE t SET v = 55 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
a> ROLLBACK
a> BEGIN
a> SET LOCAL timezone = 'Europe/Berlin'
a> SELECT k FROM t WHERE k = 1
b> UPDATE t SET v = 56 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
a> COMMIT

-- After a change of settings it does not run again by itself: what it did may depend on them.
a> SET app.who = 'me'
a> BEGIN
a> UPDATE t SET v = length(current_setting('app.who')) WHERE k = 2 RETURNING v < 10
a> SELECT count(*) FROM t WHERE k BETWEEN 100 AND 200 AND v > 1000
a> SET LOCAL app.who = 'somebody'
b> INSERT INTO t VALUES (150, 1)
b> UPDATE t SET v = 90 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1
a> ROLLBACK
-- One that sets what was set already does.
a> BEGIN
a> UPDATE t SET v = length(current_setting('app.who')) WHERE k = 2 RETURNING v < 10
a> SELECT count(*) FROM t WHERE k BETWEEN 100 AND 200 AND v > 1000
a> SET LOCAL app.who = 'me'
b> INSERT INTO t VALUES (151, 1)
b> UPDATE t SET v = 91 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1
a> COMMIT
b> SELECT v FROM t WHERE k < 3 ORDER BY k

-- No more is kept to compare with than a setting says.
a> SET CLUSTER SETTING sql.defaults.results_buffer.size = '0'
a> BEGIN
a> SELECT k FROM t WHERE k = 1
b> UPDATE t SET v = 60 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
a> ROLLBACK
