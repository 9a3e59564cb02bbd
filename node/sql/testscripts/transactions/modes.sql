a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> BEGIN READ ONLY
a> SELECT * FROM t
a> INSERT INTO t VALUES (1, 1)
a> ROLLBACK
a> BEGIN READ ONLY
a> SELECT * FROM t FOR UPDATE
a> ROLLBACK
a> BEGIN READ ONLY
a> CREATE TABLE u (k INT PRIMARY KEY)
a> ROLLBACK
a> BEGIN
a> SET TRANSACTION READ ONLY
a> SHOW transaction_read_only
a> UPDATE t SET v = 1
a> ROLLBACK
a> SET default_transaction_read_only = on
a> DELETE FROM t
a> DROP TABLE t
a> BEGIN READ WRITE
a> INSERT INTO t VALUES (1, 1)
a> COMMIT
a> SET default_transaction_read_only = off

a> BEGIN
a> SET TRANSACTION ISOLATION LEVEL READ COMMITTED, PRIORITY HIGH
a> SHOW transaction_priority
a> SELECT 1
a> SELECT * FROM t
a> SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
a> ROLLBACK
a> SHOW transaction_priority
a> BEGIN PRIORITY LOW, NOT DEFERRABLE
a> SHOW TRANSACTION PRIORITY
a> SET transaction_isolation = 'read committed'
a> SHOW transaction_isolation
a> COMMIT
a> SET TRANSACTION READ ONLY
a> SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY
a> SHOW default_transaction_isolation
a> SHOW default_transaction_read_only
a> SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE
a> SET default_transaction_priority = 'urgent'

-- High priority does not wait for low.
a> BEGIN PRIORITY LOW
a> UPDATE t SET v = 2 WHERE k = 1
b> BEGIN PRIORITY HIGH
b> UPDATE t SET v = 3 WHERE k = 1
b> COMMIT
a> COMMIT
a> SELECT * FROM t

-- now() stands still in a transaction.
a> BEGIN
a> CREATE TABLE never (k INT PRIMARY KEY)
a> ROLLBACK
a> BEGIN
a> SELECT now() = transaction_timestamp(), now() = statement_timestamp()
advance 100
a> SELECT now() = transaction_timestamp(), now() < statement_timestamp(), statement_timestamp() - now()
a> COMMIT

-- A transaction may be given a time to end.
a> SET transaction_timeout = '1s'
a> BEGIN
a> SELECT * FROM t
advance 2000
a> SELECT 1
a> COMMIT
a> BEGIN
a> UPDATE t SET v = 9
advance 2000
a> COMMIT
a> ROLLBACK
a> SELECT * FROM t
