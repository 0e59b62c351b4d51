-- Where tenants' ledgers are kept. Without rows here: each tenant has a file of its own.
create table shards (
    name text not null primary key,
    url text not null,
    open bigint not null
);

alter table tenants add column shard text;
