//! What the service says and does when the broker is not what it needs: closed to it, with queues of
//! another kind, or with queues of others that take nothing.

use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::messages::{BROKER, broker_line, published, publishing_to, ready_errors, virtual_host};
use crate::support::billing_queue::BillingQueue;
use crate::support::messages::{Reader, in_order};
use crate::support::service::{command, run};
use crate::support::{Client, Options, Service, eventually, unique};

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_is_bound_to_is_counted_and_no_error() {
    let service = Service::start_with(publishing_to(&virtual_host()));
    let tenant = service.tenant("pro").await;
    for index in 0..5 {
        tenant.issue_active(&format!("Unheard {index}")).await;
    }
    published(&service, &tenant).await;
    let unroutable = "broker_messages_unroutable_total{type=\"card.activated.v1\"}";
    let metrics = service.stranger().get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.expect(200).body).into_owned();
    assert!(metrics.contains(&format!("{unroutable} 5")), "{metrics}");
    assert_eq!(service.counted("broker_messages_unroutable_total").await, 5);
    assert_eq!(service.counted("broker_messages_published_total").await, 11);
    assert_eq!(service.counted("broker_batches_repeated_total").await, 0);
    assert!(ready_errors(&service).await.is_empty());
    assert!(!service.output().contains("WARN"), "{}", service.output());
}

/// A queue that takes so many messages of a tenant and refuses what comes then.
async fn full_after(reader: &Reader, tenant: &Client, messages: i64) -> String {
    let queue = unique("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(messages));
    let refuse = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), refuse);
    let (name, options) = (|| queue.as_str().into(), QueueDeclareOptions::default());
    let declared = reader.channel().queue_declare(name(), options, arguments);
    declared.await.expect("a queue");
    let key = format!("#.{}", tenant.id()).into();
    let (exchange, options) = ("digital-card.events".into(), QueueBindOptions::default());
    let none = FieldTable::default();
    let bound = reader
        .channel()
        .queue_bind(name(), exchange, key, options, none);
    bound.await.expect("bound");
    queue
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_holds_up_the_tenants_it_is_bound_to_and_nobody_else() {
    let service = Service::start_with(publishing_to(&BROKER.url()));
    let (held_up, other) = (service.tenant("pro").await, service.tenant("pro").await);
    published(&service, &held_up).await;
    let mut reader = Reader::of_tenant(&BROKER.url(), held_up.id()).await;
    let full = full_after(&reader, &held_up, 2).await;
    for index in 0..6 {
        held_up.issue(&format!("Held up {index}")).await;
    }
    let why = eventually("it is told why", || async {
        let line = broker_line(&service, &held_up).await?;
        line["last_error"].as_str().map(str::to_owned)
    })
    .await;
    assert!(why.contains("refused"), "{why}");
    for index in 0..6 {
        other.issue(&format!("Not held up {index}")).await;
        published(&service, &other).await;
    }
    let line = broker_line(&service, &held_up).await.expect("a line");
    assert!(line["lag"].as_u64() > Some(0), "{line}");
    assert_eq!(service.counted("broker_connections_lost_total").await, 0);

    let options = QueueDeleteOptions::default();
    let deleted = reader.channel().queue_delete(full.into(), options).await;
    deleted.expect("gone");
    published(&service, &held_up).await;
    let told = reader.up_to(7).await;
    assert_eq!(in_order(&told), (2..=7).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_again_goes_on_from_where_it_failed() {
    let service = Service::start_with(publishing_to(&BROKER.url()));
    let tenant = service.tenant("pro").await;
    for index in 0..300 {
        tenant.issue_active(&format!("Again {index}")).await;
    }
    published(&service, &tenant).await;
    let mut reader = Reader::of_tenant(&BROKER.url(), tenant.id()).await;
    // It takes the first page of 512 events.
    let full = full_after(&reader, &tenant, 550).await;
    let path = format!("/v1/landlord/tenants/{}/republish", tenant.id());
    let asked = service.landlord().post(&path, &json!({ "from": 1 })).await;
    asked.expect(200);
    eventually("the rest was refused, several times", || async {
        let repeated = service.counted("broker_batches_repeated_total").await;
        (repeated >= 3).then_some(())
    })
    .await;
    let options = QueueDeleteOptions::default();
    let deleted = reader.channel().queue_delete(full.into(), options).await;
    deleted.expect("gone");
    tenant.issue("And on").await;
    let told = reader.up_to(603).await;
    let places = in_order(&told);
    assert_eq!(places, (1..=601).chain([603]).collect::<Vec<_>>());
    let times = |place: u64| told.iter().filter(|it| it.sequence == place).count();
    assert_eq!((times(1), times(512)), (1, 1), "what was confirmed");
    assert!(times(601) > 3, "what was refused by one queue");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_before_a_stop_is_not_told_again_after_it() {
    let mut service = Service::start_with(publishing_to(&BROKER.url()));
    let tenant = service.tenant("pro").await;
    published(&service, &tenant).await;
    let mut reader = Reader::of_tenant(&BROKER.url(), tenant.id()).await;
    for index in 0..20 {
        tenant.issue(&format!("Before {index}")).await;
    }
    let before = reader.up_to(21).await;
    service.terminate();
    service.stopped();
    service.restart();
    tenant.at(service.base()).issue("After").await;
    let after = reader.up_to(22).await;
    let places = before.iter().chain(&after).map(|told| told.sequence);
    assert_eq!(places.collect::<Vec<_>>(), (2..=22).collect::<Vec<_>>());
}

/// What consumers rely on, spelled out a second time: another argument would be refused by every broker
/// that has these queues.
#[tokio::test(flavor = "multi_thread")]
async fn the_queues_are_declared_as_they_always_were() {
    let url = virtual_host();
    BillingQueue::declared(&url).await;
    let reader = Reader::of(&url, &[]).await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let (billing, dead) = ("digital-card.billing", "digital-card.billing.dead-letters");
    let both = [
        (
            dead,
            vec![("x-delivery-limit", AMQPValue::LongLongInt(1_000_000))],
        ),
        (
            billing,
            vec![
                ("x-delivery-limit", AMQPValue::LongLongInt(20)),
                ("x-dead-letter-exchange", text(dead)),
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-overflow", text("reject-publish")),
            ],
        ),
    ];
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    for (queue, others) in both {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("quorum"));
        for (name, value) in others {
            arguments.insert(name.into(), value);
        }
        let channel = reader.channel();
        let declared = channel.queue_declare(queue.into(), durable, arguments);
        declared.await.expect("the same");
    }
    // The check can fail.
    let other = FieldTable::default();
    let declared = reader
        .channel()
        .queue_declare(billing.into(), durable, other);
    assert!(declared.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_kind_is_told_in_one_line_until_somebody_deletes_it() {
    let url = virtual_host();
    let other = Reader::of(&url, &[]).await;
    let billing = || "digital-card.billing".into();
    let (options, none) = (QueueDeclareOptions::default(), FieldTable::default());
    let declared = other
        .channel()
        .queue_declare(billing(), options, none)
        .await;
    declared.expect("a queue that is not durable");
    let service = Service::start_with(publishing_to(&url));
    let tenant = service.tenant("pro").await;
    tenant.issue("Not told yet").await;
    let troubled = eventually("it is told", || async {
        let errors = ready_errors(&service).await;
        errors
            .iter()
            .any(|it| it["code"] == "behind")
            .then_some(errors)
    })
    .await;
    assert_eq!(troubled[0]["field"], "subscribers.broker");
    let why = eventually("staff is told why", || async {
        let line = broker_line(&service, &tenant).await?;
        line["last_error"].as_str().map(str::to_owned)
    })
    .await;
    assert!(why.contains("with other arguments"), "{why}");
    assert!(why.contains("digital-card.billing"), "{why}");

    let options = QueueDeleteOptions::default();
    let deleted = other.channel().queue_delete(billing(), options).await;
    deleted.expect("gone");
    published(&service, &tenant).await;
    let output = service.output();
    let errors = output.lines().filter(|line| line.contains("ERROR"));
    assert_eq!(errors.count(), 1, "{output}");
    assert!(ready_errors(&service).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_authority_an_encrypted_broker_is_published_to() {
    let authority = BROKER.authority().display().to_string();
    let service =
        Service::start_with(publishing_to(&BROKER.tls_url()).with("AMQP_CA_FILE", authority));
    let tenant = service.tenant("free").await;
    tenant.issue("Encrypted").await;
    published(&service, &tenant).await;

    let other = Service::start_with(publishing_to(&BROKER.tls_url()));
    let tenant = other.tenant("free").await;
    tenant.issue("Not to whoever answers").await;
    eventually("it is told", || async {
        other.output().contains("certificate").then_some(())
    })
    .await;
    assert_eq!(other.counted("broker_messages_published_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_the_broker_is_in_no_log() {
    let place = BROKER.url().replace("guest:guest@", "");
    let place = place.trim_start_matches("amqp://");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("address");
    std::fs::write(&file, format!("amqp://guest:open-sesame@{place}\n")).expect("written");
    // The second is longer than the name of the broker's library.
    for log in ["trace", "info,lapin::io_loop=trace"] {
        let options = Options::default().with("AMQP_URL_FILE", file.display());
        tells_no_secret(options.with("RUST_LOG", log)).await;
    }
}

/// A service that the broker refuses because of its password.
async fn tells_no_secret(options: Options) {
    let service = Service::start_with(options);
    let tenant = service.tenant("free").await;
    tenant.issue("Refused").await;
    eventually("the broker refuses", || async {
        service
            .output()
            .contains("the broker refuses")
            .then_some(())
    })
    .await;
    let line = broker_line(&service, &tenant).await;
    let ready = ready_errors(&service).await;
    let said = format!("{}\n{line:?}\n{ready:?}", service.output());
    for secret in ["open-sesame", "b3Blbi1zZXNhbWU", "6f70656e2d736573616d65"] {
        assert!(!said.contains(secret), "{secret} is in\n{said}");
    }
    let bytes = "111, 112, 101, 110, 45, 115, 101, 115, 97, 109, 101";
    assert!(!said.contains(bytes), "its bytes are in\n{said}");
}

#[test]
fn a_broker_that_cannot_be_is_told_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let store = format!("sqlite:{}", directory.path().join("data").display());
    for (variables, knob) in [
        (
            vec![("AMQP_URL", "http://u:sesame@h".to_owned())],
            "AMQP_URL",
        ),
        (
            vec![("AMQP_URL", "amqp://u:sesame@[x/".to_owned())],
            "AMQP_URL",
        ),
        (
            vec![("AMQP_URL", "amqp://u:sesame@[::1]/".to_owned())],
            "AMQP_URL",
        ),
        (
            vec![("AMQP_URL_FILE", "/sesame/none".replace("sesame", "no"))],
            "AMQP_URL_FILE",
        ),
        (
            vec![("AMQP_URL_FILE", file("bad", "sesame"))],
            "AMQP_URL_FILE",
        ),
        (
            vec![
                ("AMQP_URL", "amqps://u:sesame@h".to_owned()),
                ("AMQP_CA_FILE", file("empty", "")),
            ],
            "AMQP_CA_FILE",
        ),
        (
            vec![
                ("AMQP_URL", "amqp://u:sesame@h".to_owned()),
                ("AMQP_CA_FILE", file("unused", "")),
            ],
            "AMQP_CA_FILE",
        ),
    ] {
        let (status, said) = run(command().env("STORE", &store).envs(variables));
        assert!(!status.success(), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.starts_with(&format!("digital-card: {knob}: ")),
            "{said}"
        );
        assert!(!said.contains("sesame"), "{said}");
    }
}
