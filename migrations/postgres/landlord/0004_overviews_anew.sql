-- What is known of each tenant is folded anew from its ledger: the rows now say when a
-- subscription is next due, and where its rights come from.
delete from tenant_overviews;
