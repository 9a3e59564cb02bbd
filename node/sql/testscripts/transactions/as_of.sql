a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10)
advance 10000
a> UPDATE t SET v = 20
a> SELECT v FROM t
a> SELECT v FROM t AS OF SYSTEM TIME '-5s'
a> SELECT v FROM t AS OF SYSTEM TIME '-5s'::interval
a> SELECT v FROM t AS OF SYSTEM TIME follower_read_timestamp()
a> SELECT v FROM t AS OF SYSTEM TIME with_max_staleness('7s')
a> SELECT v FROM t AS OF SYSTEM TIME with_min_timestamp(now() - '8s'::interval)
a> SELECT v FROM t AS OF SYSTEM TIME with_max_staleness('7s', false)
a> SELECT v FROM t AS OF SYSTEM TIME with_max_staleness('7s', true)
a> SELECT v FROM t AS OF SYSTEM TIME '2024-01-01 00:00:05'
a> SELECT v FROM t AS OF SYSTEM TIME 1704067205000000000.0000000000
a> SELECT v, cluster_logical_timestamp() FROM t AS OF SYSTEM TIME 1704067205000000000.0000000000
a> SELECT v, cluster_logical_timestamp() > 1704067206000000000 FROM t
a> BEGIN AS OF SYSTEM TIME 1704067205000000000.0000000000
a> SELECT cluster_logical_timestamp()
a> SELECT v, cluster_logical_timestamp() FROM t
a> ROLLBACK
a> SELECT v FROM t AS OF SYSTEM TIME '1h'
a> SELECT v FROM t AS OF SYSTEM TIME 'nonsense'
a> SELECT v FROM t AS OF SYSTEM TIME '-5s' FOR UPDATE
a> BEGIN AS OF SYSTEM TIME '-5s'
a> SELECT v FROM t
a> SHOW transaction_read_only
a> INSERT INTO t VALUES (2, 2)
a> ROLLBACK
a> BEGIN
a> SET TRANSACTION AS OF SYSTEM TIME '-5s'
a> SELECT v FROM t
a> COMMIT
a> BEGIN AS OF SYSTEM TIME '-5s', READ WRITE
a> BEGIN
a> SELECT v FROM t
a> SELECT v FROM t AS OF SYSTEM TIME '-5s'
a> ROLLBACK
a> SELECT follower_read_timestamp() < now(), cluster_logical_timestamp() > 1704067200000000000
a> SET default_transaction_use_follower_reads = on
a> SELECT v FROM t
a> BEGIN READ ONLY
a> SELECT v FROM t
a> COMMIT
a> BEGIN
a> SELECT v FROM t
a> COMMIT

-- The catalog is that of the time that is read at.
a> RESET default_transaction_use_follower_reads
advance 10000
a> CREATE TABLE later (k INT PRIMARY KEY)
a> INSERT INTO later VALUES (1)
a> SELECT * FROM later AS OF SYSTEM TIME '-5s'
a> BEGIN AS OF SYSTEM TIME '-5s'
a> SELECT * FROM later
a> ROLLBACK
advance 10000
a> SELECT * FROM later AS OF SYSTEM TIME '-5s'
a> DROP TABLE later
a> CREATE TABLE later (name TEXT PRIMARY KEY, n INT)
a> INSERT INTO later VALUES ('x', 1)
a> SELECT * FROM later
a> SELECT * FROM later AS OF SYSTEM TIME '-5s'
b> SELECT * FROM later AS OF SYSTEM TIME '-5s'
a> SELECT name FROM later AS OF SYSTEM TIME '-5s'
a> BEGIN AS OF SYSTEM TIME '-5s'
a> SELECT * FROM later
a> SELECT count(*) FROM pg_attribute WHERE attrelid = 'later'::regclass AND attnum > 0
a> SHOW TABLES
a> COMMIT
a> SET default_transaction_use_follower_reads = on
a> SELECT * FROM later
advance 10000
a> SELECT * FROM later
a> RESET default_transaction_use_follower_reads
a> TRUNCATE later
a> SELECT * FROM later
a> SELECT * FROM later AS OF SYSTEM TIME '-5s'
a> DROP TABLE later
a> SELECT * FROM later
a> SELECT * FROM later AS OF SYSTEM TIME '-5s'
a> SELECT * FROM t AS OF SYSTEM TIME '-100h'

-- A gateway that was counted out can read what was before.
down 0
advance 20000
a> SELECT v FROM t
a> SELECT v FROM t AS OF SYSTEM TIME '-30s'
a> SELECT v FROM t AS OF SYSTEM TIME '-15s'
up 0
