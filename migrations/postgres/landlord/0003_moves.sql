-- Moves of tenants between shards that are under way.
create table moves (
    tenant_id text collate "C" not null primary key,
    source text not null,
    target text not null,
    -- `copying`, `switched` or `undoing`.
    stage text not null,
    -- The process that is at it: what another one has begun cannot be ended by this one.
    mover text not null
);
