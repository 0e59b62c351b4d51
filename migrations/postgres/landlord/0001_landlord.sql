-- The landlord's records, and what it sees of its tenants. Times are microseconds since
-- 1970-01-01 UTC, flags 0 or 1, ids text. Ids are compared byte by byte, as SQLite does, whatever
-- the database's language is. No foreign keys: a tenant's events know nothing of the landlord's
-- records.

create table tenants (
    id text collate "C" not null primary key,
    name text not null,
    slug text not null unique,
    -- Name and slug, folded for searching in any case.
    search text not null,
    first_plan text not null,
    isolation text not null,
    created_at bigint not null,
    ready bigint not null
);

create table api_keys (
    id text collate "C" not null primary key,
    hash bytea not null,
    role text not null,
    tenant_id text,
    name text not null,
    created_at bigint not null,
    revoked_at bigint
);

create table idempotency (
    key text collate "C" not null primary key,
    fingerprint bytea not null,
    outcome text not null,
    recorded_at bigint not null
);

-- The read model. Its row is its own checkpoint: `position` moves with what it says, so both are
-- there or neither.
create table tenant_overviews (
    tenant_id text collate "C" not null primary key,
    position bigint not null,
    plan text,
    subscription text not null,
    usage text not null,
    -- The agenda's hint: the earliest moment that may need attention.
    next_due_at bigint,
    -- The same, of the events after position `recent_since` alone.
    recent_due_at bigint,
    recent_since bigint not null
);

create index tenant_overviews_plan on tenant_overviews (plan, tenant_id);
create index tenant_overviews_next_due_at on tenant_overviews (next_due_at, tenant_id)
    where next_due_at is not null;
