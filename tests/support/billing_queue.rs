//! The billing queue as tests use it: what is put into it, and what has become of that.

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions,
};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use super::{Options, Service, eventually};

const EXCHANGE: &str = "digital-card.events";
const DEAD: &str = "digital-card.billing.dead-letters";
const QUEUE: &str = "digital-card.billing";
/// How often a message may come back before it goes to the dead letters.
pub const DELIVERY_LIMIT: usize = 20;

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its type.
    pub name: String,
    /// Its property `message_id`.
    pub id: String,
    /// Its body.
    pub body: String,
}

/// A way to a broker where everything is declared by the service.
pub struct BillingQueue {
    channel: Channel,
    _connection: Connection,
}

impl BillingQueue {
    /// Has everything declared first.
    pub async fn declared(url: &str) -> Self {
        let service = Service::start_with(Options::default().with("AMQP_URL", url));
        eventually("the publisher has declared everything", || async {
            (service.counted("broker_connected").await == 1).then_some(())
        })
        .await;
        Self::at(url).await
    }

    /// With what is there already.
    pub async fn at(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker");
        let channel = connection.create_channel().await.expect("a channel");
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        confirm.await.expect("confirms");
        Self {
            channel,
            _connection: connection,
        }
    }

    /// Publishes messages in this order, each confirmed.
    pub async fn publish(&self, messages: &[Published]) {
        assert!(self.try_publish(messages).await, "confirmed");
    }

    /// The same; whether all are confirmed. A queue that is not back yet refuses.
    pub async fn try_publish(&self, messages: &[Published]) -> bool {
        let mut confirms = Vec::new();
        for message in messages {
            let (tenant, _) = message.id.split_once('/').expect("an id");
            let properties = BasicProperties::default()
                .with_message_id(message.id.as_str().into())
                .with_content_type("application/cloudevents+json".into())
                .with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let routing_key = format!("{}.{tenant}", message.name);
            let (exchange, body) = (EXCHANGE.into(), message.body.as_bytes());
            let channel = &self.channel;
            let confirm =
                channel.basic_publish(exchange, routing_key.into(), options, body, properties);
            confirms.push(confirm.await.expect("published"));
        }
        let mut all = true;
        for confirm in confirms {
            all &= confirm.await.expect("an answer").is_ack();
        }
        all
    }

    /// The ids of the dead letters, which are taken.
    pub async fn dead_letters(&self) -> Vec<String> {
        let mut ids = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(letter) = self
            .channel
            .basic_get(DEAD.into(), options)
            .await
            .expect("a queue")
        {
            let id = letter.properties.message_id().clone();
            ids.push(id.map(|id| id.to_string()).unwrap_or_default());
        }
        ids
    }

    /// Gives the first message back, as a biller does that cannot take it now; its id, if one came.
    pub async fn give_back(&self) -> Option<String> {
        let got = self
            .channel
            .basic_get(QUEUE.into(), BasicGetOptions::default());
        let got = got.await.expect("a queue")?;
        let id = got
            .properties
            .message_id()
            .as_ref()
            .map(ToString::to_string);
        let options = BasicRejectOptions { requeue: true };
        let given_back = got.delivery.acker.reject(options).await;
        given_back.expect("given back");
        id
    }

    /// Takes the first message; its id, if one came.
    pub async fn take(&self) -> Option<String> {
        let got = self
            .channel
            .basic_get(QUEUE.into(), BasicGetOptions::default());
        let got = got.await.expect("a queue")?;
        let acked = got.delivery.acker.ack(BasicAckOptions::default()).await;
        acked.expect("taken");
        got.delivery
            .properties
            .message_id()
            .as_ref()
            .map(ToString::to_string)
    }
}

/// A message of a tenant.
pub fn message(tenant: &str, sequence: usize, name: &str, time: &str, data: &Value) -> Published {
    let id = format!("{tenant}/{sequence}");
    let body = json!({
        "specversion": "1.0",
        "id": id,
        "source": "/digital-card",
        "type": name,
        "subject": tenant,
        "time": time,
        "datacontenttype": "application/json",
        "tenantid": tenant,
        "sequence": sequence,
        "data": data,
    });
    Published {
        name: name.to_owned(),
        id,
        body: body.to_string(),
    }
}
