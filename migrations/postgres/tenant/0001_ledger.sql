-- A tenant's ledger, in a schema of its own: the search path of the migrating connection.
-- Times are microseconds since 1970 UTC.

create table events (
    position       bigint not null primary key,
    aggregate_type text   not null,
    aggregate_id   text   not null,
    sequence       bigint not null,
    event_type     text   not null,
    event_version  text   not null,
    -- json, not jsonb: it keeps the very text that the hash covers.
    payload        json   not null,
    metadata       json   not null,
    recorded_at    bigint not null,
    hash           bytea  not null
);

-- The id comes first so that an auditor's question for one aggregate, whose type is not named,
-- is served as well as loading is.
create unique index events_stream on events (aggregate_id, aggregate_type, sequence);

-- The one row that every append moves. `revision` counts the appends, also those without events:
-- an append that was decided at another revision stores nothing.
create table head (
    id                    bigint not null primary key check (id = 1),
    revision              bigint not null,
    position              bigint not null,
    hash                  bytea  not null,
    issued                bigint not null,
    active                bigint not null,
    suspended             bigint not null,
    revoked               bigint not null,
    expired               bigint not null,
    replaced              bigint not null,
    subscription_version  bigint not null,
    card_serials_reserved bigint not null
);

insert into head values (1, 0, 0, decode(repeat('00', 32), 'hex'), 0, 0, 0, 0, 0, 0, 0, 0);

-- What was answered under an idempotency key.
create table idempotency (
    key         text   not null primary key,
    fingerprint bytea  not null,
    outcome     text   not null,
    position    bigint not null,
    recorded_at bigint not null
);

-- How far each subscriber is whose effect lives in this schema.
create table checkpoints (
    subscriber text   not null primary key,
    position   bigint not null
);
