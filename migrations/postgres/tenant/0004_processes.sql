-- What processes remember of this ledger, and up to where they have followed it.
create table processes (
    name     text   not null primary key,
    position bigint not null,
    -- As the process writes it; empty if it has to follow the ledger again up to the position.
    state    text   not null
);

-- What happened before there was this process is nothing to tell now.
insert into processes (name, position, state)
select 'thresholds', position, '' from head;
