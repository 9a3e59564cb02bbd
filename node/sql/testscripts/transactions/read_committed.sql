a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10), (2, 20)

-- Each statement sees what was committed before it.
a> BEGIN ISOLATION LEVEL READ COMMITTED
a> SELECT * FROM t ORDER BY k
b> UPDATE t SET v = 11 WHERE k = 1
a> SELECT * FROM t ORDER BY k
a> UPDATE t SET v = v + 100 WHERE k = 1 RETURNING v
a> COMMIT

-- A write that waited sees what it waited for.
a> BEGIN ISOLATION LEVEL READ COMMITTED
b> BEGIN ISOLATION LEVEL READ COMMITTED
a> UPDATE t SET v = v + 1 WHERE k = 1
b> SELECT v FROM t WHERE k = 1
b& UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
a> COMMIT
b.
b> COMMIT

-- Write skew is allowed, lost updates of locked rows are not.
a> BEGIN ISOLATION LEVEL READ COMMITTED
b> BEGIN ISOLATION LEVEL READ COMMITTED
a> SELECT sum(v) FROM t
b> SELECT sum(v) FROM t
a> UPDATE t SET v = 0 WHERE k = 1
b> UPDATE t SET v = 0 WHERE k = 2
a> COMMIT
b> COMMIT
c> SELECT * FROM t ORDER BY k
a> BEGIN ISOLATION LEVEL READ COMMITTED
a> SELECT v FROM t WHERE k = 1 FOR UPDATE
b& UPDATE t SET v = 5 WHERE k = 1
a> UPDATE t SET v = 6 WHERE k = 1
a> COMMIT
b.
c> SELECT * FROM t ORDER BY k

-- As the default of a session.
a> SET default_transaction_isolation = 'read committed'
a> SHOW transaction_isolation
a> BEGIN
a> SHOW transaction_isolation
a> ROLLBACK
a> BEGIN ISOLATION LEVEL REPEATABLE READ
a> SHOW TRANSACTION ISOLATION LEVEL
a> ROLLBACK
a> SET default_transaction_isolation = 'repeatable read'
a> SHOW default_transaction_isolation

-- A cluster may do without it.
a> SET CLUSTER SETTING sql.txn.read_committed_isolation.enabled = false
a> BEGIN ISOLATION LEVEL READ COMMITTED
a> SHOW transaction_isolation
a> SET CLUSTER SETTING sql.txn.read_committed_isolation.enabled = true
a> ROLLBACK
a> SET CLUSTER SETTING sql.txn.read_committed_isolation.enabled = true
