SHOW application_name

SET application_name = 'me'

SHOW application_name

RESET application_name

SET nosuch = 1

SHOW nosuch

SHOW timezone

SET timezone = 'Europe/Berlin'

SELECT timestamptz '2024-07-01 12:00:00+00', timestamptz '2024-01-01 12:00:00', timestamptz '2024-07-01 12:00:00+00' AT TIME ZONE 'America/New_York'

SET TIME ZONE -5

SELECT timestamptz '2024-07-01 12:00:00+00'

SET timezone = 'Nowhere/Else'

RESET timezone

SET extra_float_digits = 0

SELECT 0.1::FLOAT + 0.2::FLOAT

SET extra_float_digits = 9

SET statement_timeout = '10s'

SHOW statement_timeout

SHOW transaction isolation level

SHOW server_version

SET server_version = '1'

SET client_encoding = 'LATIN1'

SET my.custom = 'v'

SHOW my.custom

SELECT current_setting('my.custom'), current_setting('no.such', true)

SHOW database

SET database = nosuch

SET search_path = public, other

SHOW search_path

RESET ALL

SHOW search_path

DISCARD ALL

DEALLOCATE ALL

VACUUM
