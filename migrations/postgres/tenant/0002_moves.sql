-- Not null while the ledger is being moved to another shard: at its old place, and at its new one
-- until it is used from there. No append goes into such a ledger, and only such a one is dropped.
alter table head add column moved_to text;
