-- Reports of usage audits. `night` is the local date of one that was due at night: there is one a
-- night. Nobody has heard of an audit since `heard_at`, in microseconds since 1970-01-01 UTC.
create table usage_audits (
    id text not null primary key,
    night text unique,
    -- `running`, `finished` or `interrupted`.
    state text not null,
    heard_at bigint not null,
    report text not null
);

-- One runs at a time.
create unique index usage_audits_running on usage_audits (state) where state = 'running';
