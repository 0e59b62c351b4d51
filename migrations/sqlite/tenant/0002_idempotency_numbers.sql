-- What was answered under idempotency keys, numbered in the order of the answers.
alter table idempotency rename to idempotency_by_key;

create table idempotency (
    number      integer primary key,
    key         text   not null,
    fingerprint blob   not null,
    outcome     text   not null,
    position    bigint not null,
    recorded_at bigint not null
);

insert into idempotency (key, fingerprint, outcome, position, recorded_at)
select key, fingerprint, outcome, position, recorded_at
from idempotency_by_key
order by position, key;

drop table idempotency_by_key;

-- Where to find a key: 28 bits of its hash, then 35 of the number. Clients' keys come in no
-- order, so this takes many at a time, sorted; it has all numbers up to the checkpoint
-- `idempotency_index`.
create table idempotency_index (
    entry integer primary key
);

insert into checkpoints values ('idempotency_index', 0);
