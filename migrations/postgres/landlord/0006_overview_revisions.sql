-- Counted up whenever the row is stored: whoever has stored it last need not read it to fold on.
alter table tenant_overviews add column revision bigint not null default 0;
