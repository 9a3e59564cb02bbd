-- Who is there, what runs, and what is open. Each letter is a session on a node of its own.
a> CREATE TABLE t (k INT PRIMARY KEY, v INT)
a> INSERT INTO t VALUES (1, 10), (2, 20)
a> SET application_name = 'teller'
a> BEGIN
a> UPDATE t SET v = 11 WHERE k = 1
b> SET application_name = 'clerk'
b& UPDATE t SET v = 12 WHERE k = 1
c> SHOW application_name
c> SELECT node_id, user_name, application_name, active_queries, last_active_query, num_txns_executed FROM [SHOW SESSIONS]
c> SELECT node_id, status, kv_txn IS NULL AS no_txn, length(session_id) AS id, session_start < now() AS before FROM crdb_internal.cluster_sessions
c> SELECT node_id, query, application_name, distributed, phase, length(query_id) AS id, start < now() AS before FROM [SHOW CLUSTER QUERIES]
c> SELECT node_id, query FROM [SHOW LOCAL QUERIES]
c> SELECT node_id, application_name, num_stmts, num_retries, num_auto_retries FROM [SHOW TRANSACTIONS]
c> SELECT node_id, isolation_level, priority, application_name FROM crdb_internal.cluster_transactions
c> SELECT count(*) FROM crdb_internal.cluster_transactions t JOIN crdb_internal.cluster_locks l ON t.id = l.txn_id WHERE l.granted

-- A statement that waits for a lock is cancelled from another node; the lock's owner goes on.
c> CANCEL QUERIES (SELECT query_id FROM crdb_internal.cluster_queries WHERE application_name = 'clerk')
b.
c> CANCEL QUERIES (SELECT query_id FROM crdb_internal.cluster_queries WHERE application_name = 'clerk')
c> SELECT node_id, active_queries, last_active_query FROM [SHOW SESSIONS] WHERE application_name = 'clerk'
a> COMMIT
c> SELECT * FROM t
c> SHOW TRANSACTIONS

-- In a transaction of several statements the cancelled one fails it, as any error does.
a> BEGIN
a> UPDATE t SET v = 21 WHERE k = 2
b> BEGIN
b> SELECT v FROM t WHERE k = 1
b& SELECT v FROM t WHERE k = 2 FOR UPDATE
c> SELECT node_id, num_stmts FROM [SHOW TRANSACTIONS] WHERE application_name IN ('clerk', 'teller')
c> CANCEL QUERIES (SELECT query_id FROM [SHOW CLUSTER QUERIES] WHERE query LIKE '% FOR UPDATE' AND application_name = 'clerk')
b.
b> SELECT 1
b> ROLLBACK
a> ROLLBACK

-- What waits for a lock as it commits is cancelled, too, and leaves no lock.
a> BEGIN
a> UPDATE t SET v = 21 WHERE k = 2
b& INSERT INTO t VALUES (2, 22)
c> CANCEL QUERIES (SELECT query_id FROM [SHOW CLUSTER QUERIES] WHERE application_name = 'clerk')
b.
b> BEGIN
b> UPSERT INTO t VALUES (2, 22), (3, 33)
b& COMMIT
c> CANCEL QUERIES (SELECT query_id FROM [SHOW CLUSTER QUERIES] WHERE application_name = 'clerk')
b.
b> SHOW transaction_status
a> ROLLBACK
c> SELECT * FROM t FOR UPDATE NOWAIT

-- A write to more keys than are locked for it decides by itself how it ends: it goes on.
a> BEGIN
a> UPDATE t SET v = 21 WHERE k = 2
b& INSERT INTO t SELECT k, 22 FROM generate_series(2, 601) AS g(k)
c> CANCEL QUERIES (SELECT query_id FROM [SHOW CLUSTER QUERIES] WHERE application_name = 'clerk')
watch 30
a> DELETE FROM t WHERE k = 2
a> COMMIT
b.
b> DELETE FROM t WHERE k > 2
b> INSERT INTO t VALUES (2, 20) ON CONFLICT (k) DO UPDATE SET v = excluded.v
b> UPSERT INTO t VALUES (2, 20)

-- What a client did over counts as a retry of its transaction.
a> BEGIN
a> SAVEPOINT cockroach_restart
a> SELECT v FROM t WHERE k = 1
a> ROLLBACK TO SAVEPOINT cockroach_restart
a> SELECT v FROM t WHERE k = 1
c> SELECT num_stmts, num_retries, num_auto_retries FROM [SHOW TRANSACTIONS] WHERE application_name = 'teller'
a> ROLLBACK

-- So does what the gateway did over.
a> BEGIN
a> SELECT count(*) FROM t WHERE k = 1
b> UPDATE t SET v = 13 WHERE k = 1
a> UPDATE t SET v = 14 WHERE k = 1
c> SELECT num_stmts, num_retries, num_auto_retries, last_auto_retry_reason <> '' AS why FROM crdb_internal.cluster_transactions WHERE application_name = 'teller'
a> ROLLBACK

-- Ids that mean nothing.
c> CANCEL QUERY '00000000000000000000000000000001'
c> CANCEL QUERY IF EXISTS '00000000000000000000000000000001'
c> CANCEL QUERY '00000000000000000000000000000009'
c> CANCEL SESSION '00000000000000000000000000000002'
c> CANCEL SESSION IF EXISTS '00000000000000000000000000000002'
c> CANCEL QUERY 'x'
c> CANCEL QUERY '+0000000000000000000000000000001'
c> CANCEL SESSION 'ä'
c> CANCEL QUERY NULL
c> CANCEL QUERIES (SELECT 1)
c> CANCEL SESSIONS (SELECT '00000000000000000000000000000001', 'x')
c> CANCEL QUERIES VALUES (NULL::STRING), ('00000000000000000000000000000001')

-- The statement of a CANCEL is a statement like any other.
c> CANCEL QUERIES (SELECT query_id FROM crdb_internal.node_queries)

-- A node that does not answer has a row that says so.
down 0
c> SELECT node_id, session_id IS NULL AS unknown, active_queries FROM [SHOW SESSIONS] WHERE node_id <> 3
c> SELECT node_id, query FROM [SHOW QUERIES]
c> SELECT node_id, txn_string FROM crdb_internal.cluster_transactions WHERE txn_string IS NOT NULL
c> SELECT count(*) FROM crdb_internal.node_sessions
c> CANCEL QUERY '00000000000000000000000000000001'
c> CANCEL SESSION IF EXISTS '00000000000000000000000000000001'
up 0

-- Columns.
c> SHOW ALL CLUSTER SESSIONS
c> SELECT * FROM crdb_internal.cluster_queries WHERE node_id = 0
c> SELECT * FROM crdb_internal.node_sessions WHERE node_id = 0
c> SELECT * FROM crdb_internal.node_transactions WHERE node_id = 0
c> SELECT * FROM [SHOW QUERIES] WHERE node_id = 0

-- A session that is closed runs nothing more.
c> CANCEL SESSIONS (SELECT session_id FROM [SHOW SESSIONS] WHERE application_name = 'clerk')
b> SELECT 1
