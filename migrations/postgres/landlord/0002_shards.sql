-- Where tenants' ledgers are kept. `url` says where each node finds the shard's address, so that
-- no password is kept here; `open` is 1 if new tenants are placed there.
create table shards (
    name text not null primary key,
    url text not null,
    open bigint not null
);

alter table tenants add column shard text;
