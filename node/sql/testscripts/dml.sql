CREATE TABLE t (id INT PRIMARY KEY, a INT, b STRING DEFAULT 'd')

INSERT INTO t VALUES (1, 10, 'x'), (2, 20, DEFAULT), (3, NULL, NULL)

SELECT * FROM t

INSERT INTO t VALUES (1, 0, 'dup')

INSERT INTO t VALUES (7, 0, 'a'), (7, 0, 'b')

INSERT INTO t (id) VALUES (4) RETURNING *

INSERT INTO t (id, nosuch) VALUES (4, 1)

INSERT INTO t VALUES (1, 2, 'x', 4)

INSERT INTO t (id, a) VALUES (9)

INSERT INTO t (a) VALUES (1)

INSERT INTO t (id, a) VALUES (5, 'abc')

INSERT INTO t (id, b) VALUES (5, 5)

INSERT INTO t SELECT id + 100, a, b FROM t WHERE id < 3

SELECT * FROM t ORDER BY id DESC

UPSERT INTO t VALUES (1, 11, 'up')

UPSERT INTO t (id, a) VALUES (2, 22), (50, 5)

SELECT * FROM t WHERE id IN (1, 2, 50)

UPSERT INTO t VALUES (1, 1, 'a'), (1, 2, 'b')

INSERT INTO t VALUES (1, 5, 'c') ON CONFLICT DO NOTHING

INSERT INTO t VALUES (1, 5, 'c'), (60, 6, 'n') ON CONFLICT (id) DO UPDATE SET a = t.a + excluded.a, b = excluded.b RETURNING *

UPDATE t SET a = a + 1 WHERE id = 1 RETURNING id, a

UPDATE t SET a = NULL, b = 'z' WHERE id > 100

UPDATE t SET id = id + 1 WHERE id IN (1, 2, 3)

SELECT * FROM t

UPDATE t SET id = 50 WHERE id = 60

UPDATE t SET nosuch = 1

UPDATE t SET id = NULL WHERE id = 4

UPDATE t SET a = 1 / 0 WHERE id = 50

UPDATE t SET (a, b) = (7, 'seven') WHERE id = 50 RETURNING *

DELETE FROM t WHERE a IS NULL RETURNING id

DELETE FROM t ORDER BY id LIMIT 1

DELETE FROM t

SELECT count(*) FROM t

INSERT INTO t SELECT i, i % 3, 'r' || i FROM generate_series(1, 1500) AS g(i)

SELECT count(*), min(id), max(id), sum(a), avg(a) FROM t

SELECT id FROM t WHERE id > 1495

SELECT id FROM t ORDER BY id DESC LIMIT 3

SELECT id FROM t ORDER BY id LIMIT 2 OFFSET 700

INSERT INTO t SELECT i, 0, '' FROM generate_series(2000, 9000) AS g(i)

CREATE TABLE u (id INT PRIMARY KEY, n INT)

INSERT INTO u VALUES (1, 100), (2, 200)

UPDATE t SET a = u.n FROM u WHERE t.id = u.id RETURNING t.id, t.a, u.n

DELETE FROM t USING u WHERE t.id = u.id

SELECT count(*) FROM t

INSERT INTO u DEFAULT VALUES

INSERT INTO u VALUES (3, 1) RETURNING 1 / 0

SELECT * FROM u

CREATE TABLE large (k INT PRIMARY KEY, v TEXT)

INSERT INTO large SELECT i, repeat('x', 4000) FROM generate_series(1, 3000) AS g(i)

SELECT count(*), min(k), max(k), sum(length(v)) FROM large

INSERT INTO large SELECT i, 'y' FROM generate_series(4200, 2900, -1) AS g(i)

INSERT INTO large SELECT 3001 + i % 1500, 'y' FROM generate_series(1, 2000) AS g(i)

INSERT INTO large SELECT k + 3000, v FROM large WHERE k <= 1100

SELECT count(*), max(k) FROM large

SELECT generate_series(1, 9223372036854775807) LIMIT 2

SELECT a, generate_series(a, 3) FROM generate_series(1, 4) AS a

SELECT generate_series(NULL, 3), generate_series(9223372036854775806, 9223372036854775807)

DELETE FROM large WHERE k > 4000

DELETE FROM large WHERE v LIKE 'x%' LIMIT 10

SELECT count(*), min(k) FROM large

DELETE FROM large

SELECT count(*) FROM large
