"""The tables, functions and roles of the server, as SQL that an administrator can read and run."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
CHANNEL: Final = "edge_app"

_SQL: Final = """\
-- edge-app {program}: the tables of a fleet, version {version}. Read it, then run it in the fleet's own database:
--   psql -v ON_ERROR_STOP=1 -d fleet -f fleet.sql
-- It needs no superuser: a role that may create in this database, and CREATEROLE for the three roles below.
--
-- What lies here: a random number for each person, a record sealed with a key that only the doors have, and a trail of
-- what changed when by which login. No name, template or picture can be read here, nor two people compared.
--
-- Then make a login for every machine:
--   CREATE ROLE front_door LOGIN PASSWORD '...' IN ROLE edge_app_door;
--   CREATE ROLE office LOGIN PASSWORD '...' IN ROLE edge_app_office;
--   CREATE ROLE privacy_officer LOGIN PASSWORD '...' IN ROLE edge_app_auditor;
-- and in pg_hba.conf let them in over TLS alone (postgresql.conf: ssl = on, password_encryption = scram-sha-256):
--   hostssl fleet +edge_app_door,+edge_app_office,+edge_app_auditor all scram-sha-256
--   hostnossl fleet all all reject

BEGIN;

DO $$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['edge_app_door', 'edge_app_office', 'edge_app_auditor'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = wanted) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
    END IF;
  END LOOP;
END $$;

CREATE SCHEMA edge_app;
REVOKE ALL ON SCHEMA edge_app FROM PUBLIC;
GRANT USAGE ON SCHEMA edge_app TO edge_app_door, edge_app_office, edge_app_auditor;

-- One row. The first office that connects fills in what is NULL. `key_check` tells one key from another.
CREATE TABLE edge_app.fleet (
  one            boolean PRIMARY KEY DEFAULT true CHECK (one),
  schema_version integer NOT NULL,
  fleet_id       bytea CHECK (octet_length(fleet_id) = 16),
  key_check      bytea CHECK (octet_length(key_check) = 16),
  model_id       text,
  model_version  text,
  dimensions     integer CHECK (dimensions BETWEEN 1 AND 65536),
  revision       bigint NOT NULL DEFAULT 0
);
INSERT INTO edge_app.fleet (schema_version) VALUES ({version});

-- Everybody who ever was in the gallery. `gone` stays for good, so that a door that was off for a year learns of it.
CREATE TABLE edge_app.person (
  uid      bytea PRIMARY KEY CHECK (octet_length(uid) = 16),
  revision bigint NOT NULL UNIQUE,
  gone     boolean NOT NULL,
  sealed   bytea NOT NULL CHECK (octet_length(sealed) <= 16777216)
);
ALTER TABLE edge_app.person ALTER COLUMN sealed SET STORAGE EXTERNAL;  -- sealed bytes do not compress

-- What changed: never rewritten. `stamp` shows a door that the server was put back to an earlier state.
CREATE TABLE edge_app.trail (
  revision  bigint PRIMARY KEY,
  at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  login     name NOT NULL DEFAULT session_user,
  machine   text NOT NULL CHECK (length(machine) <= 80),
  happening text NOT NULL CHECK (happening IN ('enroll', 'change', 'forget')),
  words     text NOT NULL DEFAULT '' CHECK (length(words) <= 1000),
  uid       bytea NOT NULL,
  stamp     uuid NOT NULL DEFAULT gen_random_uuid()
);

-- How far every machine is.
CREATE TABLE edge_app.machine (
  name     text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 80),
  login    name NOT NULL,
  revision bigint NOT NULL,
  reported timestamptz NOT NULL,
  visit    bytea NOT NULL
);

ALTER TABLE edge_app.fleet ENABLE ROW LEVEL SECURITY;
ALTER TABLE edge_app.person ENABLE ROW LEVEL SECURITY;
ALTER TABLE edge_app.trail ENABLE ROW LEVEL SECURITY;
ALTER TABLE edge_app.machine ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON edge_app.person TO edge_app_door, edge_app_office;
GRANT SELECT ON edge_app.machine TO edge_app_door, edge_app_office, edge_app_auditor;
GRANT SELECT ON edge_app.trail TO edge_app_auditor;
CREATE POLICY reads ON edge_app.person FOR SELECT TO edge_app_door, edge_app_office USING (true);
CREATE POLICY own ON edge_app.machine FOR SELECT TO edge_app_door USING (login = session_user);
CREATE POLICY every ON edge_app.machine FOR SELECT TO edge_app_office, edge_app_auditor USING (true);
CREATE POLICY reads ON edge_app.trail FOR SELECT TO edge_app_auditor USING (true);

-- Everything is written through the functions below, which run with the rights of whoever made them.

-- What a machine asks first, and once a second after that.
CREATE FUNCTION edge_app.head(known bigint)
RETURNS TABLE (schema_version integer, fleet_id bytea, key_check bytea, model_id text, model_version text,
               dimensions integer, revision bigint, stamp uuid, may_write boolean, clock double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = edge_app, pg_catalog, pg_temp AS $$
  SELECT f.schema_version, f.fleet_id, f.key_check, f.model_id, f.model_version, f.dimensions, f.revision,
         (SELECT t.stamp FROM trail t WHERE t.revision = known),
         pg_has_role(session_user, 'edge_app_office', 'MEMBER'),
         extract(epoch FROM clock_timestamp())::double precision
  FROM fleet f
$$;

-- The first office says which fleet this is. False: another was first.
CREATE FUNCTION edge_app.found(fleet_id bytea, key_check bytea, model_id text, model_version text, dimensions integer)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = edge_app, pg_catalog, pg_temp AS $$
BEGIN
  UPDATE fleet f SET fleet_id = $1, key_check = $2, model_id = $3, model_version = $4, dimensions = $5
  WHERE f.fleet_id IS NULL;
  RETURN FOUND;
END $$;

-- Changes by an office that knows everything up to revision `known`. NULL: it does not, and changes nothing.
-- The row of `fleet` is locked until the end, so that revisions appear in the order of their numbers.
CREATE FUNCTION edge_app.put(known bigint, machine text, uids bytea[], gones boolean[], seals bytea[], told text[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = edge_app, pg_catalog, pg_temp AS $$
DECLARE
  now_at bigint;
  was_gone boolean;
BEGIN
  SELECT f.revision INTO now_at FROM fleet f FOR UPDATE;
  IF now_at <> known THEN
    RETURN NULL;
  END IF;
  FOR i IN 1 .. cardinality(uids) LOOP
    SELECT p.gone INTO was_gone FROM person p WHERE p.uid = uids[i];
    CONTINUE WHEN gones[i] AND was_gone;
    IF was_gone THEN
      RAISE EXCEPTION 'a person who was forgotten stays forgotten';
    END IF;
    now_at := now_at + 1;
    INSERT INTO person AS p VALUES (uids[i], now_at, gones[i], seals[i])
    ON CONFLICT (uid) DO UPDATE SET revision = excluded.revision, gone = excluded.gone, sealed = excluded.sealed;
    INSERT INTO trail (revision, machine, happening, words, uid) VALUES
      (now_at, machine, CASE WHEN gones[i] THEN 'forget' WHEN was_gone IS NULL THEN 'enroll' ELSE 'change' END,
       told[i], uids[i]);
  END LOOP;
  UPDATE fleet SET revision = now_at;
  PERFORM pg_notify('{channel}', now_at::text);
  RETURN now_at;
END $$;

-- How far a machine is. False: another machine reports under this name, or another login owns it.
CREATE FUNCTION edge_app.report(machine text, known bigint, visits bytea[], visit bytea, takes_over boolean)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = edge_app, pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO machine AS m VALUES ($1, session_user, $2, clock_timestamp(), $4)
  ON CONFLICT (name) DO UPDATE
    SET revision = excluded.revision, reported = excluded.reported, visit = excluded.visit
    WHERE m.login = session_user AND ($5 OR m.visit = ANY ($3));
  RETURN FOUND;
END $$;

-- Who is how far behind: a door sees its own line, an office and an auditor see all.
CREATE VIEW edge_app.status WITH (security_invoker = true) AS
  SELECT m.name, m.login, m.revision, extract(epoch FROM clock_timestamp() - m.reported)::double precision AS silent_s
  FROM edge_app.machine m;
GRANT SELECT ON edge_app.status TO edge_app_door, edge_app_office, edge_app_auditor;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA edge_app FROM PUBLIC;
GRANT EXECUTE ON FUNCTION edge_app.head(bigint) TO edge_app_door, edge_app_office, edge_app_auditor;
GRANT EXECUTE ON FUNCTION edge_app.report(text, bigint, bytea[], bytea, boolean) TO edge_app_door, edge_app_office;
GRANT EXECUTE ON FUNCTION edge_app.found(bytea, bytea, text, text, integer) TO edge_app_office;
GRANT EXECUTE ON FUNCTION edge_app.put(bigint, text, bytea[], boolean[], bytea[], text[]) TO edge_app_office;

COMMIT;
"""


def server_sql(program: str) -> str:
    """The whole script; `program` is the version of this app, for its first line."""
    return _SQL.format(program=program, version=VERSION, channel=CHANNEL)
