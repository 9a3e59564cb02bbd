SELECT 1 + 2 * 3, 7 / 2, 7 % 3, -5, 2 ^ 10, 7.0 / 2, 1 / 3.0

SELECT 1 / 0

SELECT 9223372036854775807 + 1

SELECT 300::INT2 * 300::INT2

SELECT 'a' || 'b' || 1, 'x' LIKE '_', 'abc' LIKE 'a%', 'ABC' ILIKE 'a%', 'abc' ~ '^a.c$', 'a%' LIKE 'a\%'

SELECT NULL AND false, NULL OR true, NOT NULL::BOOL, NULL = NULL, NULL IS NULL, 1 IS DISTINCT FROM NULL

SELECT 1 IN (1, 2), 3 IN (1, NULL), 1 NOT IN (2, 3), 2 BETWEEN 1 AND 3, (1, 2) = (1, 2), (1, 2) < (1, 3)

SELECT CASE WHEN 1 > 2 THEN 'a' ELSE 'b' END, CASE 3 WHEN 3 THEN 'three' END, coalesce(NULL, 2), nullif(1, 1), greatest(1, 5, 3), least(2, NULL, 1)

SELECT length('héllo'), upper('abc'), lower('ABC'), substring('hello' FROM 2 FOR 3), position('l' IN 'hello'), trim('  x '), replace('aXbX', 'X', '-'), split_part('a,b,c', ',', 2), lpad('7', 3, '0'), repeat('ab', 2), reverse('abc'), concat('a', NULL, 1), left('hello', 2), right('hello', 2), initcap('hi there')

SELECT abs(-3), round(2.567, 2), ceil(1.2), floor(-1.2), sqrt(16.0), power(2, 3), mod(7, 3), sign(-2.5), trunc(2.9)

SELECT md5('a'), to_hex(255), chr(65), ascii('A'), regexp_replace('foo123', '[0-9]+', 'X'), starts_with('abc', 'ab')

SELECT now(), current_date, current_timestamp = now()

SELECT date '2024-02-29' + 1, date '2024-03-01' - date '2024-02-01', timestamp '2024-01-31 10:00' + interval '1 month', timestamptz '2024-01-01 00:00+02', interval '1 day 02:03:04'

SELECT date_trunc('month', timestamp '2024-05-17 10:11:12'), extract(year FROM date '2024-05-17'), extract(epoch FROM timestamptz '1970-01-02'), date_part('dow', date '2024-05-17'), to_char(timestamp '2024-05-17 10:11:12', 'YYYY-MM-DD HH24:MI:SS')

SELECT '{"a": [1, 2, {"b": null}]}'::JSONB, '{"b":1,"a":2}'::JSONB -> 'a', '{"a":{"b":"x"}}'::JSONB #>> '{a,b}', '{"a":1}'::JSONB @> '{"a":1}', jsonb_typeof('[1]')

SELECT ARRAY[1, 2, 3], ARRAY[1, 2][1], array_length(ARRAY[1, 2], 1), 2 = ANY(ARRAY[1, 2]), ARRAY['a', NULL, 'b c'], '{1,2}'::INT[]

SELECT 'abc'::INT

SELECT '12'::INT + 1, 3.7::INT, '1e3'::FLOAT, 1.5::DECIMAL(3,0), 'true'::BOOL, 12345::STRING

SELECT 'x' + 1

SELECT nosuch(1)

SELECT length(1)

SELECT 1e400::FLOAT

SELECT '2024-13-01'::DATE

SELECT 'NaN'::FLOAT, 'inf'::FLOAT, 1e20::FLOAT, 0.1::FLOAT + 0.2::FLOAT, 1.0::FLOAT4 / 3

SELECT pg_typeof(1), pg_typeof('a'::STRING), pg_typeof(1.5), pg_typeof(now()), version() LIKE '%CockroachDB%', current_database(), current_schema(), current_user

SELECT gen_random_uuid() <> gen_random_uuid(), unique_rowid() < unique_rowid()

SELECT 'ab' 'cd'

SELECT true::INT, 1::BOOL, b'ab', '\x6162'::BYTES, 'a'::"char"
