#!/usr/bin/env python3
"""Counts the cards issued per tenant from the billing queue, and stops when it is empty.

A biller in another language needs the documented messages, and the queue for itself:
    billing.py amqp://guest:guest@localhost billing.sqlite
"""
import json
import sqlite3
import sys

import pika

address, file = sys.argv[1:]
books = sqlite3.connect(file)
books.execute("create table if not exists seen (id text primary key, tenant text, type text)")

connection = pika.BlockingConnection(pika.URLParameters(address))
channel = connection.channel()
channel.basic_qos(prefetch_count=100)

# Ends when nothing has come for a second; what is not acknowledged by then comes again.
for delivery, properties, body in channel.consume("digital-card.billing", inactivity_timeout=1):
    if delivery is None:
        break
    try:
        event = json.loads(body)
        row = (properties.message_id, str(event["tenantid"]), str(event["type"]))
        if event["specversion"] != "1.0" or event["id"] != properties.message_id:
            raise ValueError("not as documented")
    except (ValueError, KeyError, TypeError) as error:
        print(f"{properties.message_id}: {error}", file=sys.stderr)
        channel.basic_reject(delivery.delivery_tag, requeue=False)  # to the dead letters
        continue
    with books:  # one transaction, on disk before the acknowledgement
        books.execute("insert or ignore into seen values (?, ?, ?)", row)
    channel.basic_ack(delivery.delivery_tag)
connection.close()

counted = "select tenant, count(*) from seen where type = 'card.issued.v1' group by 1 order by 1"
for tenant, cards in books.execute(counted):
    print(f"{tenant},{cards}")
