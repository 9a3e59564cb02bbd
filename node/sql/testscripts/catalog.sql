CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(5) NOT NULL DEFAULT 'x')

SELECT relname, relkind FROM pg_catalog.pg_class WHERE relnamespace = 2200 ORDER BY 1

SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = 'public'

SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute WHERE attrelid = 't'::REGCLASS AND attnum > 0 ORDER BY attnum

SELECT table_name, column_name, data_type, is_nullable, column_default, character_maximum_length FROM information_schema.columns WHERE table_schema = 'public' ORDER BY ordinal_position

SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'

SELECT datname FROM pg_database ORDER BY 1

SELECT oid, typname, typarray FROM pg_type WHERE typname IN ('int8', 'text', 'uuid') ORDER BY oid

SELECT 't'::REGCLASS, 'pg_class'::REGCLASS::OID, 23::REGTYPE

SELECT 'nosuch'::REGCLASS

SELECT conname, contype, conkey FROM pg_constraint

SHOW INDEXES FROM t

SHOW CONSTRAINTS FROM t

SHOW SCHEMAS

SELECT current_schemas(true), pg_table_is_visible('t'::REGCLASS)
