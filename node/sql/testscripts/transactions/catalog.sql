-- A transaction keeps the version of the catalog that it used.
a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> CREATE TABLE u (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10)
a> BEGIN
a> SELECT * FROM t
b> DROP TABLE t
a> SELECT * FROM t
a> INSERT INTO u VALUES (1, 1)
a> COMMIT
b> DROP TABLE t
a> SELECT * FROM u

-- A gateway that was counted out can neither read nor commit by what it knew.
a> BEGIN
a> INSERT INTO u VALUES (2, 2)
down 0
b> TRUNCATE u
a> SELECT * FROM u
a> ROLLBACK
up 0
a> SELECT * FROM u
a> BEGIN
a> INSERT INTO u VALUES (3, 3)
down 0
b> DROP TABLE u
a> COMMIT
a> SHOW transaction_status
up 0
a> SELECT * FROM u
