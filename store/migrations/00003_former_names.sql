-- +goose Up

-- What workspaces were called before: a list by name that has begun goes on by
-- the names of its beginning. "until" is the rename, by the counter renames, that
-- ended it.
CREATE TABLE former_names (
    id    TEXT COLLATE "binary" NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    until BIGINT NOT NULL,
    name  TEXT COLLATE "binary" NOT NULL,
    at    BIGINT NOT NULL,
    PRIMARY KEY (id, until)
);
CREATE INDEX former_names_by_until ON former_names (until);
CREATE INDEX former_names_by_age ON former_names (at);
INSERT INTO counters (name, value) VALUES ('renames', 0);
