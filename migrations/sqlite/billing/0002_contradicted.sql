-- Which messages came again and said something else than what was kept; since when that matters.
create table contradicted (
    tenant text not null,
    sequence bigint not null,
    at bigint not null,
    primary key (tenant, sequence)
) without rowid;
