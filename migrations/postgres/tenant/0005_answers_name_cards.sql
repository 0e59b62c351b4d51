-- Of an answer that was a card, which one and at which version is enough: the rest is in its events.
update idempotency
set outcome = json_build_object(
        'value', json_build_object('id', outcome::json #>> '{value,id}'),
        'version', outcome::json -> 'version')::text
where outcome::json #>> '{value,holder}' is not null;
