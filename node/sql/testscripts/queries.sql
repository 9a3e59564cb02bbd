CREATE TABLE p (id INT PRIMARY KEY, grp STRING, n INT, x FLOAT)

INSERT INTO p VALUES (1, 'a', 10, 1.5), (2, 'a', 20, 2.5), (3, 'b', NULL, 0.5), (4, 'b', 5, NULL), (5, NULL, 7, 7)

CREATE TABLE q (pid INT, note STRING, PRIMARY KEY (pid, note))

INSERT INTO q VALUES (1, 'one'), (1, 'uno'), (3, 'three'), (9, 'nine')

SELECT grp, count(*), sum(n), avg(n), min(n), max(x) FROM p GROUP BY grp ORDER BY grp

SELECT grp, count(*) FROM p GROUP BY grp HAVING count(*) > 1 ORDER BY 2 DESC, 1

SELECT count(*), count(n), count(DISTINCT grp), sum(n) FILTER (WHERE n > 6), string_agg(grp, ',' ORDER BY id DESC), array_agg(n ORDER BY id), bool_and(n > 1) FROM p

SELECT count(*), sum(n) FROM p WHERE false

SELECT grp FROM p GROUP BY n

SELECT id, sum(n) FROM p

SELECT id, grp, count(*) FROM p GROUP BY id ORDER BY id LIMIT 2

SELECT DISTINCT grp FROM p ORDER BY grp

SELECT DISTINCT ON (grp) grp, id FROM p ORDER BY grp, id DESC

SELECT n + 1 AS m FROM p ORDER BY m DESC NULLS LAST

SELECT id FROM p ORDER BY n, id DESC

SELECT p.id, q.note FROM p JOIN q ON p.id = q.pid ORDER BY 1, 2

SELECT p.id, q.note FROM p LEFT JOIN q ON p.id = q.pid ORDER BY 1, 2

SELECT p.id, q.pid FROM p RIGHT JOIN q ON p.id = q.pid ORDER BY 2, 1

SELECT p.id, q.pid FROM p FULL JOIN q ON p.id = q.pid ORDER BY 1, 2

SELECT count(*) FROM p, q

SELECT a.id, b.id FROM p a JOIN p b ON a.id < b.id AND a.grp = b.grp ORDER BY 1

SELECT * FROM p JOIN q USING (id)

SELECT id, note FROM p JOIN (SELECT pid AS id, note FROM q) s USING (id) ORDER BY id, note

SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v(n, s)

VALUES (1, 'x'), (2, NULL) ORDER BY 1 DESC

SELECT 1 UNION SELECT 2 UNION SELECT 1 ORDER BY 1

SELECT 1 UNION ALL SELECT 1

SELECT grp FROM p INTERSECT SELECT 'a'

SELECT id FROM p EXCEPT SELECT pid FROM q ORDER BY 1

SELECT 1 UNION SELECT 'a'

SELECT * FROM generate_series(1, 3)

SELECT i, i * i AS sq FROM generate_series(1, 10, 3) AS g(i)

SELECT generate_series(1, 3) AS g, 'x' AS c

SELECT unnest(ARRAY['a', 'b']), generate_series(1, 3)

SELECT * FROM generate_series(1, 2) WITH ORDINALITY

WITH big AS (SELECT id, n FROM p WHERE n >= 10) SELECT sum(n) FROM big

SELECT id FROM p LIMIT 2

SELECT id FROM p ORDER BY id OFFSET 3

SELECT id FROM p LIMIT -1

SELECT p.* FROM p WHERE id = 1

SELECT q.note, p.id FROM q, p WHERE q.pid = p.id AND p.n > 5 AND q.note LIKE 'u%'

SELECT max(n) - min(n) AS spread, round(avg(x)::DECIMAL, 2) FROM p

SELECT grp || '!' AS g, sum(n) FROM p GROUP BY g ORDER BY g

SELECT id FROM p WHERE id = 2.0

EXPLAIN SELECT * FROM p WHERE id = 2

EXPLAIN SELECT p.id FROM p JOIN q ON p.id = q.pid WHERE p.id > 2 ORDER BY n

EXPLAIN SELECT id FROM p ORDER BY id DESC LIMIT 1
