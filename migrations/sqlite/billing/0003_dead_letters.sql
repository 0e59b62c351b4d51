-- How many messages the broker's dead letters held when they were last looked at.
create table dead_letters (
    only integer primary key check (only = 1),
    messages bigint not null
);
