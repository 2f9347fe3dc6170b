-- +goose Up

-- Snapshots that are being made for a request with an idempotency key, which is
-- done once: what a kill leaves of one is nobody's.
CREATE TABLE snapshots_under_way (
    namespace TEXT COLLATE "binary" NOT NULL REFERENCES namespaces (name) ON DELETE CASCADE,
    key       TEXT COLLATE "binary" NOT NULL,
    workspace TEXT COLLATE "binary" NOT NULL,
    began_at  BIGINT NOT NULL,
    PRIMARY KEY (namespace, key)
);
