-- What BEGIN, COMMIT and ROLLBACK answer in each state.
a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> BEGIN
a> SHOW transaction_status
a> INSERT INTO t VALUES (1, 10)
a> SELECT * FROM t
b> SELECT * FROM t
a> BEGIN
a> COMMIT
b> SELECT * FROM t
a> COMMIT
a> ROLLBACK
a> COMMIT AND CHAIN
a> BEGIN ISOLATION LEVEL READ COMMITTED
a> COMMIT AND CHAIN
a> SHOW transaction_isolation
a> ROLLBACK

-- An error fails the transaction; only its end helps.
a> BEGIN
a> UPDATE t SET v = 11
a> SELECT 1/0
a> SELECT 1
a> SHOW transaction_status
a> SELEC
a> SAVEPOINT s
a> COMMIT
a> SELECT * FROM t
a> BEGIN
a> SELECT * FROM nosuch
a> ROLLBACK
a> SHOW transaction_status

-- A duplicate is found at its statement.
a> BEGIN
a> INSERT INTO t VALUES (1, 12)
a> ROLLBACK
a> BEGIN
a> INSERT INTO t VALUES (2, 20)
a> INSERT INTO t VALUES (2, 21)
a> ROLLBACK
a> BEGIN
a> DELETE FROM t WHERE k = 1
a> INSERT INTO t VALUES (1, 13) RETURNING v
a> UPDATE t SET k = 3 WHERE k = 1
a> INSERT INTO t VALUES (1, 14)
a> COMMIT
a> SELECT * FROM t ORDER BY k

-- A schema change commits the transaction first.
a> BEGIN
a> INSERT INTO t VALUES (8, 80)
a> SAVEPOINT s
a> CREATE TABLE u (k INT PRIMARY KEY)
a> SHOW transaction_status
a> ROLLBACK TO SAVEPOINT s
a> COMMIT
a> SELECT * FROM t WHERE k = 8
a> BEGIN
a> CREATE TABLE u (k INT PRIMARY KEY)
a> SHOW transaction_status
a> ROLLBACK
a> BEGIN READ ONLY
a> DROP TABLE u
a> DROP TABLE u
a> ROLLBACK
a> BEGIN
a> SELECT 1/0
a> DROP TABLE u
a> ROLLBACK
a> BEGIN
a> SAVEPOINT cockroach_restart
a> RELEASE SAVEPOINT cockroach_restart
a> DROP TABLE u
a> COMMIT
a> BEGIN
a> SET CLUSTER SETTING kv.closed_timestamp.target_duration = '3s'
a> ROLLBACK

-- If it cannot commit, nothing is changed, and the transaction has failed.
a> BEGIN
a> SELECT * FROM t WHERE k = 8
b> UPDATE t SET v = 81 WHERE k = 8
a> INSERT INTO t VALUES (9, 90)
a> DROP TABLE u
a> SHOW transaction_status
a> COMMIT
a> SELECT * FROM u
a> SELECT * FROM t WHERE k = 9

-- With the setting off it is refused.
a> SET autocommit_before_ddl = off
a> BEGIN
a> INSERT INTO t VALUES (9, 90)
a> DROP TABLE u
a> COMMIT
a> SELECT * FROM u
a> RESET autocommit_before_ddl
a> DROP TABLE u

-- TRUNCATE is taken back like the rest; so are settings.
a> BEGIN
a> TRUNCATE t
a> SELECT count(*) FROM t
a> INSERT INTO t VALUES (7, 70)
a> ROLLBACK
a> SELECT count(*) FROM t
a> BEGIN
a> SET application_name = 'x'
a> SET LOCAL statement_timeout = '1s'
a> SHOW statement_timeout
a> COMMIT
a> SHOW statement_timeout
a> SHOW application_name
a> BEGIN
a> SET application_name = 'y'
a> ROLLBACK
a> SHOW application_name
a> SET LOCAL application_name = 'z'
a> BEGIN
a> DISCARD ALL
a> ROLLBACK
