CREATE TABLE d (id INT PRIMARY KEY, name STRING)

CREATE TABLE e (id INT PRIMARY KEY, did INT, pay INT)

INSERT INTO d VALUES (1, 'dev'), (2, 'ops'), (3, 'empty')

INSERT INTO e VALUES (1, 1, 100), (2, 1, 200), (3, 2, 50), (4, NULL, 70)

SELECT name FROM d WHERE id IN (SELECT did FROM e) ORDER BY id

SELECT name FROM d WHERE id NOT IN (SELECT did FROM e)

SELECT name FROM d WHERE id NOT IN (SELECT did FROM e WHERE did IS NOT NULL)

SELECT name FROM d WHERE EXISTS (SELECT 1 FROM e WHERE e.did = d.id AND pay > 150)

SELECT name FROM d WHERE NOT EXISTS (SELECT 1 FROM e WHERE e.did = d.id)

SELECT name, (SELECT sum(pay) FROM e WHERE e.did = d.id) AS total FROM d ORDER BY id

SELECT (SELECT max(pay) FROM e), (SELECT 1 WHERE false)

SELECT (SELECT id FROM e)

SELECT (SELECT id, did FROM e WHERE id = 1)

SELECT id FROM e WHERE pay > (SELECT avg(pay) FROM e) ORDER BY id

SELECT id FROM e WHERE pay >= ALL (SELECT pay FROM e)

SELECT id FROM e WHERE pay = ANY (SELECT pay FROM e WHERE did = 1) ORDER BY id

SELECT ARRAY(SELECT id FROM e ORDER BY id DESC)

SELECT did, (SELECT name FROM d WHERE d.id = e.did) AS name, count(*) FROM e GROUP BY did ORDER BY did

SELECT name FROM d WHERE (SELECT count(*) FROM e WHERE e.did = d.id AND pay > (SELECT min(pay) FROM e x WHERE x.did = d.id)) > 0

SELECT x.id FROM (SELECT id FROM e WHERE did = 1) x WHERE x.id > (SELECT min(id) FROM e)

UPDATE e SET pay = pay + (SELECT count(*) FROM d) WHERE did = (SELECT id FROM d WHERE name = 'ops') RETURNING id, pay

DELETE FROM e WHERE did IN (SELECT id FROM d WHERE name = 'dev')

SELECT id FROM e ORDER BY id

INSERT INTO d SELECT (SELECT max(id) FROM d) + 1, 'new'

SELECT * FROM d ORDER BY id

SELECT (1, 2) IN (SELECT 1, 2), (1, 3) IN (SELECT 1, 2)

SELECT id, CASE WHEN EXISTS (SELECT 1 FROM e WHERE e.did = d.id) THEN 'used' ELSE 'free' END FROM d ORDER BY id
