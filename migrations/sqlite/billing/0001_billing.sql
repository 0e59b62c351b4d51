-- What a biller has received: each message once, as it was said.
create table received (
    tenant text not null,
    sequence bigint not null,
    name text not null,
    at bigint not null,
    data text not null,
    primary key (tenant, sequence)
) without rowid;

-- What it could not read, and has put aside.
create table rejected (
    message_id text not null primary key,
    reason text not null,
    at bigint not null
) without rowid;
