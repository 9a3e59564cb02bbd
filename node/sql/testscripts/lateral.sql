CREATE TABLE a (id INT PRIMARY KEY, n INT, tags STRING[])

CREATE TABLE b (id INT, part INT, v STRING, PRIMARY KEY (id, part))

INSERT INTO a VALUES (1, 2, ARRAY['x','y']), (2, 0, ARRAY[]), (3, 3, ARRAY['z']), (4, NULL, NULL)

INSERT INTO b VALUES (1, 1, 'one'), (1, 2, 'two'), (3, 1, 'three'), (3, 2, 'four'), (3, 3, 'five')

-- The right side reads the left one.

SELECT a.id, s.v FROM a, LATERAL (SELECT v FROM b WHERE b.id = a.id ORDER BY part DESC LIMIT 2) AS s ORDER BY 1, 2

SELECT a.id, s.c FROM a CROSS JOIN LATERAL (SELECT count(*) AS c FROM b WHERE b.id = a.id) s ORDER BY 1

SELECT a.id, s.v FROM a LEFT JOIN LATERAL (SELECT v FROM b WHERE b.id = a.id) s ON s.v LIKE 'f%' ORDER BY 1, 2

SELECT a.id, s.v FROM a JOIN LATERAL (SELECT v FROM b WHERE b.id = a.id) s ON a.n = 3 AND s.v <> 'four' ORDER BY 1, 2

SELECT a.id, doubled FROM a CROSS JOIN LATERAL (SELECT a.n * 2) AS s (doubled) WHERE a.id > 1 AND doubled IS NOT NULL ORDER BY 1

SELECT a.id, g FROM a, generate_series(1, a.n) AS g ORDER BY 1, 2

SELECT a.id, t.tag, t.ordinality FROM a, unnest(a.tags) WITH ORDINALITY AS t (tag) ORDER BY 1, 3

SELECT a.id, x, y FROM a, LATERAL (SELECT n + 1 AS x) s, LATERAL (SELECT x + 1 AS y) t ORDER BY 1

SELECT a.id, (SELECT sum(s.d) FROM b, LATERAL (SELECT b.part + a.n AS d) s WHERE b.id = a.id) FROM a ORDER BY 1

SELECT a.id FROM a WHERE EXISTS (SELECT 1 FROM b, LATERAL (SELECT b.part * a.id AS p) s WHERE b.id = a.id AND s.p = 6)

EXPLAIN SELECT * FROM a, LATERAL (SELECT v FROM b WHERE b.id = a.id) s WHERE a.id = 3

-- LATERAL that reads nothing is an ordinary join.

SELECT a.id, s.one FROM a, LATERAL (SELECT 1 AS one) s ORDER BY 1 LIMIT 2

EXPLAIN SELECT * FROM a, LATERAL (SELECT 1 AS one) s

-- The probe by which pgbench looks for its tables.

CREATE TABLE pgbench_accounts (aid INT NOT NULL, bid INT, abalance INT, filler CHAR(84)) WITH (fillfactor=100)

select o.n, p.partstrat, pg_catalog.count(i.inhparent) from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on (n.oid = c.relnamespace) cross join lateral (select pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n) left join pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid) left join pg_catalog.pg_inherits as i on (c.oid = i.inhparent) where c.relname = 'pgbench_accounts' and o.n is not null group by 1, 2 order by 1 asc limit 1

-- Not possible.

SELECT * FROM a, (SELECT a.id) s

SELECT * FROM a RIGHT JOIN LATERAL (SELECT a.id) s ON true

SELECT * FROM LATERAL (SELECT b.id) s, b

SELECT * FROM a JOIN LATERAL (SELECT a.id AS id) s USING (id)

SELECT * FROM a JOIN LATERAL (SELECT a.n AS m) s ON s.m = (SELECT max(part) FROM b WHERE b.id = a.id)
