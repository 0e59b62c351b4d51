-- A tenant's ledger. Portable subset: text, bigint, blob; times are microseconds since 1970 UTC.

-- `position` is the rowid: reading on from a position is a range of the table itself.
create table events (
    position       integer primary key,
    aggregate_type text   not null,
    aggregate_id   text   not null,
    sequence       bigint not null,
    event_type     text   not null,
    event_version  text   not null,
    payload        text   not null,
    metadata       text   not null,
    recorded_at    bigint not null,
    hash           blob   not null
);

-- The id comes first so that an auditor's question for one aggregate, whose type is not named,
-- is served as well as loading is.
create unique index events_stream on events (aggregate_id, aggregate_type, sequence);

-- The one row that every append locks and moves.
create table head (
    id                    integer primary key check (id = 1),
    position              bigint not null,
    hash                  blob   not null,
    issued                bigint not null,
    active                bigint not null,
    suspended             bigint not null,
    revoked               bigint not null,
    expired               bigint not null,
    replaced              bigint not null,
    subscription_version  bigint not null,
    card_serials_reserved bigint not null
);

insert into head values (1, 0, zeroblob(32), 0, 0, 0, 0, 0, 0, 0, 0);

-- What was answered under an idempotency key.
create table idempotency (
    key         text   not null primary key,
    fingerprint blob   not null,
    outcome     text   not null,
    position    bigint not null,
    recorded_at bigint not null
);

-- How far each subscriber is whose effect lives in this database.
create table checkpoints (
    subscriber text   not null primary key,
    position   bigint not null
);
