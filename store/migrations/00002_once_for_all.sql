-- +goose Up

-- An idempotency key is of whatever is made, not of workspaces alone.
ALTER TABLE requests RENAME COLUMN workspaces TO made;
