a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10)
a> SAVEPOINT s
a> RELEASE SAVEPOINT s
a> ROLLBACK TO SAVEPOINT s

-- Nested, with names used again.
a> BEGIN
a> UPDATE t SET v = 11
a> SAVEPOINT s
a> UPDATE t SET v = 12
a> INSERT INTO t VALUES (2, 20)
a> SAVEPOINT s
a> UPDATE t SET v = 13 WHERE k = 1
a> ROLLBACK TO SAVEPOINT s
a> SELECT * FROM t ORDER BY k
a> RELEASE SAVEPOINT s
a> ROLLBACK TO SAVEPOINT s
a> SELECT * FROM t ORDER BY k
a> RELEASE s
a> RELEASE s
a> ROLLBACK
a> SELECT * FROM t

-- After an error.
a> BEGIN
a> SAVEPOINT s
a> INSERT INTO t VALUES (1, 1)
a> SELECT 1
a> ROLLBACK TO s
a> INSERT INTO t VALUES (3, 30)
a> SAVEPOINT "S"
a> SELECT 1/0
a> RELEASE "S"
a> ROLLBACK TO "S"
a> COMMIT
a> SELECT * FROM t ORDER BY k

-- Settings go back, too.
a> BEGIN
a> SET application_name = 'one'
a> SAVEPOINT s
a> SET application_name = 'two'
a> ROLLBACK TO s
a> SHOW application_name
a> COMMIT
a> SHOW application_name

-- The restart savepoint of CockroachDB's clients.
a> BEGIN
a> SAVEPOINT cockroach_restart
a> SELECT v FROM t WHERE k = 1
b> UPDATE t SET v = 50 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1
a> SHOW transaction_status
a> ROLLBACK TO SAVEPOINT cockroach_restart
a> SELECT v FROM t WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1
a> RELEASE SAVEPOINT cockroach_restart
a> SHOW transaction_status
b> SELECT v FROM t WHERE k = 1
a> SELECT 1
a> COMMIT
a> BEGIN
a> SELECT 1
a> SELECT v FROM t WHERE k = 1
a> SAVEPOINT cockroach_restart
a> ROLLBACK
a> BEGIN
a> SAVEPOINT cockroach_restart
a> SAVEPOINT cockroach_restart
a> ROLLBACK

-- Another savepoint does not help a transaction that lost a race.
a> BEGIN
a> SELECT v FROM t WHERE k = 1
a> SAVEPOINT s
b> UPDATE t SET v = 60 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1
a> ROLLBACK TO s
a> COMMIT
a> SELECT * FROM t ORDER BY k

-- A transaction that runs again by itself does so with its savepoints.
a> BEGIN
a> UPDATE t SET v = 1 WHERE k = 3
a> SAVEPOINT s
a> UPDATE t SET v = 2 WHERE k = 3
a> ROLLBACK TO s
b> UPDATE t SET v = 70 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
a> COMMIT
a> SELECT * FROM t ORDER BY k

-- Not after an error, of which nobody knows whether it would come again.
a> BEGIN
a> SAVEPOINT s
a> INSERT INTO t VALUES (3, 0)
a> ROLLBACK TO s
a> SELECT k FROM t WHERE k = 1
b> UPDATE t SET v = 80 WHERE k = 1
a> UPDATE t SET v = v + 1 WHERE k = 1
a> ROLLBACK

-- One that is stopped while it runs again by itself is half there: no savepoint leads back to what
-- its client was told, not even an earlier one of the same name.
a> BEGIN
a> SAVEPOINT s
a> UPDATE t SET v = 5 WHERE k = 3
a> RELEASE s
a> SELECT count(*) FROM t WHERE k BETWEEN 10 AND 20 AND v > 1000
a> SAVEPOINT s
b> INSERT INTO t VALUES (15, 1)
b> UPDATE t SET v = 90 WHERE k = 1
c> BEGIN
c& UPDATE t SET v = 6 WHERE k = 3
a& UPDATE t SET v = v + 1 WHERE k = 1
c.
b> CANCEL QUERIES (SELECT query_id FROM crdb_internal.cluster_queries WHERE query LIKE 'UPDATE t SET v = v + 1%')
a.
a> ROLLBACK TO s
a> COMMIT
c> COMMIT
b> SELECT * FROM t ORDER BY k
