-- Which node's turn it is to handle the tenant's events, and until when (microseconds since 1970
-- UTC), for subscribers whose effect is elsewhere. Null for the others.
alter table checkpoints add column holder text, add column held_until bigint;
