-- +goose Up

-- The same text runs on SQLite and PostgreSQL: TEXT and BIGINT alone, flags as
-- 0 or 1, instants as microseconds since 1970. The collation "binary" is built
-- into SQLite and made for PostgreSQL before this runs: lists and ranges have the
-- same order on both, whatever the locale of the database.

CREATE TABLE counters (
    name  TEXT COLLATE "binary" PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('events', 0), ('audit', 0), ('enqueued', 0);

CREATE TABLE namespaces (
    name       TEXT COLLATE "binary" PRIMARY KEY,
    revision   BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    since      BIGINT NOT NULL, -- events up to this seq are of an earlier namespace of that name
    document   TEXT NOT NULL
);

CREATE TABLE workspaces (
    id                TEXT COLLATE "binary" PRIMARY KEY,
    namespace         TEXT COLLATE "binary" NOT NULL REFERENCES namespaces (name),
    name              TEXT COLLATE "binary" NOT NULL,
    state             TEXT COLLATE "binary" NOT NULL,
    running           BIGINT NOT NULL, -- counts as running in its namespace's quota
    cpus              BIGINT NOT NULL,
    memory_mib        BIGINT NOT NULL,
    disk_mib          BIGINT NOT NULL,
    image             TEXT COLLATE "binary" NOT NULL,
    durable           BIGINT NOT NULL,
    stopped_by_caller BIGINT NOT NULL,
    created_at        BIGINT NOT NULL,
    expires_at        BIGINT,
    revision          BIGINT NOT NULL,
    document          TEXT NOT NULL
);
CREATE UNIQUE INDEX workspaces_name ON workspaces (namespace, name) WHERE name <> '';
CREATE INDEX workspaces_by_use ON workspaces (namespace, running, cpus, memory_mib, disk_mib);
CREATE INDEX workspaces_by_age ON workspaces (created_at, id);
CREATE INDEX workspaces_by_namespace_age ON workspaces (namespace, created_at, id);
CREATE INDEX workspaces_by_name ON workspaces (name, id);
CREATE INDEX workspaces_by_namespace_name ON workspaces (namespace, name, id);
CREATE INDEX workspaces_by_state ON workspaces (state, created_at, id);

CREATE TABLE workspace_metadata (
    id    TEXT COLLATE "binary" NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key   TEXT COLLATE "binary" NOT NULL,
    value TEXT COLLATE "binary" NOT NULL,
    PRIMARY KEY (id, key)
);
CREATE INDEX workspace_metadata_by_value ON workspace_metadata (key, value, id);

-- Requests that were made before, by idempotency key.
CREATE TABLE requests (
    namespace  TEXT COLLATE "binary" NOT NULL REFERENCES namespaces (name) ON DELETE CASCADE,
    key        TEXT COLLATE "binary" NOT NULL,
    digest     TEXT NOT NULL,
    workspaces TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, key)
);
CREATE INDEX requests_by_age ON requests (created_at);

CREATE TABLE keys (
    id         TEXT COLLATE "binary" PRIMARY KEY,
    name       TEXT NOT NULL,
    namespace  TEXT COLLATE "binary" NOT NULL, -- empty: an admin's; it outlives its namespace, revoked
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    used_at    BIGINT,
    digest     TEXT NOT NULL
);
CREATE INDEX keys_by_namespace ON keys (namespace, created_at);

CREATE TABLE snapshots (
    id         TEXT COLLATE "binary" PRIMARY KEY,
    namespace  TEXT COLLATE "binary" NOT NULL REFERENCES namespaces (name),
    name       TEXT COLLATE "binary" NOT NULL,
    created_at BIGINT NOT NULL,
    document   TEXT NOT NULL
);
CREATE UNIQUE INDEX snapshots_name ON snapshots (namespace, name) WHERE name <> '';
CREATE INDEX snapshots_by_namespace ON snapshots (namespace, created_at, id);

CREATE TABLE events (
    seq       BIGINT PRIMARY KEY,
    namespace TEXT COLLATE "binary" NOT NULL,
    workspace TEXT COLLATE "binary" NOT NULL,
    type      TEXT COLLATE "binary" NOT NULL,
    at        BIGINT NOT NULL,
    document  TEXT NOT NULL
);
CREATE INDEX events_by_namespace ON events (namespace, seq);
CREATE INDEX events_by_workspace ON events (workspace, seq);
CREATE INDEX events_by_age ON events (at);

CREATE TABLE webhooks (
    id         TEXT COLLATE "binary" PRIMARY KEY,
    namespace  TEXT COLLATE "binary" NOT NULL, -- empty: events of all
    active     BIGINT NOT NULL,
    types      TEXT COLLATE "binary" NOT NULL, -- empty, or ,a,b,
    since      BIGINT NOT NULL,                -- events up to this seq were before its time
    created_at BIGINT NOT NULL,
    document   TEXT NOT NULL
);

CREATE TABLE deliveries (
    webhook  TEXT COLLATE "binary" NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    seq      BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    status   BIGINT NOT NULL,
    error    TEXT NOT NULL,
    sent_at  BIGINT,
    done_at  BIGINT,
    next_at  BIGINT,
    PRIMARY KEY (webhook, seq)
);
CREATE INDEX deliveries_undone ON deliveries (webhook, seq) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_by_event ON deliveries (seq);

CREATE TABLE audit (
    seq       BIGINT PRIMARY KEY,
    namespace TEXT COLLATE "binary" NOT NULL,
    at        BIGINT NOT NULL,
    document  TEXT NOT NULL
);
CREATE INDEX audit_by_namespace ON audit (namespace, seq);
CREATE INDEX audit_by_age ON audit (at);
