SHOW CLUSTER SETTINGS

SHOW ALL CLUSTER SETTINGS

SHOW CLUSTER SETTING kv.closed_timestamp.target_duration

SHOW CLUSTER SETTING sql.txn.read_committed_isolation.enabled

SHOW CLUSTER SETTING sql.defaults.results_buffer.size

SET CLUSTER SETTING kv.closed_timestamp.target_duration = '1m0.5s'

SHOW CLUSTER SETTING kv.closed_timestamp.target_duration

SET CLUSTER SETTING sql.txn.read_committed_isolation.enabled = off

SET CLUSTER SETTING sql.defaults.results_buffer.size TO 65536

SET CLUSTER SETTING server.shutdown.drain_wait = '8s'

SHOW CLUSTER SETTING server.shutdown.initial_wait

SELECT variable, value, origin FROM [SHOW ALL CLUSTER SETTINGS] WHERE origin = 'override'

SELECT variable, type, value, default_value FROM crdb_internal.cluster_settings WHERE variable LIKE 'server.%'

RESET CLUSTER SETTING kv.closed_timestamp.target_duration

SET CLUSTER SETTING server.shutdown.initial_wait = DEFAULT

SELECT variable, value FROM [SHOW ALL CLUSTER SETTINGS] WHERE origin = 'override'

SET CLUSTER SETTING kv.closed_timestamp.target_duration = -1

SET CLUSTER SETTING kv.closed_timestamp.target_duration = '1ms'

SET CLUSTER SETTING kv.closed_timestamp.target_duration = 3

SET CLUSTER SETTING sql.txn.read_committed_isolation.enabled = perhaps

SET CLUSTER SETTING kv.transaction.max_buffered_writes = '0 B'

SET CLUSTER SETTING kv.transaction.max_buffered_writes = 1 + 1

SET CLUSTER SETTING no.such = 1

SHOW CLUSTER SETTING no.such

RESET CLUSTER SETTING no.such
