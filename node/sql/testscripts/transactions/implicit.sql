-- A single statement runs again by itself, and locks what it changes.
a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10)
a> INSERT INTO t VALUES (1, 11)
a> BEGIN
a> UPDATE t SET v = 11
b& UPDATE t SET v = v + 1 WHERE k = 1 RETURNING v
c& SELECT v FROM t WHERE k = 1 FOR UPDATE
a> COMMIT
b.
c.
a> BEGIN
a> DELETE FROM t WHERE k = 1
b& INSERT INTO t VALUES (1, 12)
a> COMMIT
b.
a> BEGIN
a> INSERT INTO t VALUES (2, 20)
b& UPSERT INTO t VALUES (2, 21)
c& INSERT INTO t VALUES (2, 22) ON CONFLICT (k) DO UPDATE SET v = excluded.v + t.v
a> COMMIT
b.
c.
a> SELECT k FROM t ORDER BY k
