-- Of an answer that was a card, which one and at which version is enough: the rest is in its events.
update idempotency
set outcome = json_object(
        'value', json_object('id', outcome ->> '$.value.id'),
        'version', outcome -> '$.version')
where outcome ->> '$.value.holder' is not null;
