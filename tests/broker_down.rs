//! The broker goes away, says nothing, takes nothing, or hangs up: cards are issued all the same, the
//! backlog can be seen, and everything is told in order by itself once the broker is back.

use std::sync::LazyLock;

use lapin::options::ExchangeDeleteOptions;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::messages::{broker_line, ready_errors};
use crate::support::messages::{Reader, in_order, settle};
use crate::support::proxy::{Fate, Proxy, Which};
use crate::support::rabbitmq::Broker;
use crate::support::{Client, Options, Service, eventually};

/// A node that bad things happen to, to one test at a time.
async fn broker() -> MutexGuard<'static, Broker> {
    static BROKER: LazyLock<Mutex<Broker>> = LazyLock::new(|| Mutex::new(Broker::start()));
    BROKER.lock().await
}

/// A service, a tenant, and whoever reads of it.
struct Told {
    service: Service,
    tenant: Client,
    reader: Reader,
}

impl Told {
    async fn by_way_of(url: &str, broker: &Broker) -> Self {
        let service = Service::start_with(Options::default().with("AMQP_URL", url));
        let tenant = service.tenant("pro").await;
        let reader = Reader::of_tenant(&broker.url(), tenant.id()).await;
        // Before the reader was there, only the tenant was.
        let mut told = Self {
            service,
            tenant,
            reader,
        };
        let first = told.issue(1).await;
        told.reader.up_to(first).await;
        told
    }

    /// Issues cards as if nothing was wrong; the last position.
    async fn issue(&self, cards: usize) -> u64 {
        let body = serde_json::json!({ "holder": { "name": "Whatever the broker does" } });
        let mut last = 0;
        for _ in 0..cards {
            last = self
                .tenant
                .post("/v1/cards", &body)
                .await
                .expect(201)
                .position();
        }
        last
    }

    /// How many events are to be told of, and for how many seconds the oldest has been.
    async fn lag(&self) -> Option<(f64, f64)> {
        let gauge = async |name| {
            let of_broker = format!("{name}{{subscriber=\"broker\"}}");
            self.service.gauge(&of_broker).await
        };
        let events = gauge("subscriber_lag_events").await?;
        Some((events, gauge("subscriber_lag_seconds").await?))
    }

    /// Waits until it can be seen that messages wait; why, as staff sees it.
    async fn behind(&self) -> Value {
        eventually("it is seen that the broker is away", || async {
            let errors = ready_errors(&self.service).await;
            let told = |code| errors.iter().any(|error| error["code"] == code);
            let seen = told("unreachable") && told("behind");
            let line = broker_line(&self.service, &self.tenant).await?;
            let (events, seconds) = self.lag().await?;
            let behind = line["lag"].as_u64() > Some(0) && events > 0.0 && seconds > 0.0;
            (seen && behind).then_some(line)
        })
        .await
    }

    /// Everything up to a position comes, in order, from the second card on.
    async fn all_up_to(&mut self, last: u64) {
        let told = self.reader.up_to(last).await;
        // What was told before may come again when a connection is lost.
        let new: Vec<_> = in_order(&told).into_iter().filter(|it| *it > 2).collect();
        assert_eq!(new, (3..=last).collect::<Vec<_>>());
        eventually("nothing is left to be told of", || async {
            let ready = ready_errors(&self.service).await.is_empty();
            let line = broker_line(&self.service, &self.tenant).await?;
            let nothing = line["lag"] == 0 && self.lag().await? == (0.0, 0.0);
            (ready && nothing).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_is_told_the_rest_when_it_is_back() {
    let broker = broker().await;
    let mut told = Told::by_way_of(&broker.url(), &broker).await;
    settle().await;
    told.issue(50).await;
    broker.crash();
    told.issue(50).await;
    let line = told.behind().await;
    assert!(
        line["last_error"]
            .as_str()
            .is_some_and(|it| it.contains("broker")),
        "{line}"
    );
    assert!(line["behind_since"].is_string(), "{line}");
    broker.start_again();
    let last = told.issue(50).await;
    told.all_up_to(last).await;
    let output = told.service.output();
    let warnings = output.lines().filter(|line| line.contains("WARN"));
    assert!(warnings.count() < 30, "one a try:\n{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_alarm_blocks_the_broker_cards_are_issued() {
    let broker = broker().await;
    let mut told = Told::by_way_of(&broker.url(), &broker).await;
    broker.ctl("set_vm_memory_high_watermark 0.00000001");
    told.issue(50).await;
    told.behind().await;
    let output = told.service.output();
    assert!(output.contains("the broker takes no messages"), "{output}");
    assert_eq!(told.service.counted("broker_blocked").await, 1);
    broker.ctl("set_vm_memory_high_watermark 0.6");
    let last = told.issue(50).await;
    told.all_up_to(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_stops_in_time_though_the_broker_takes_nothing() {
    let broker = broker().await;
    let mut told = Told::by_way_of(&broker.url(), &broker).await;
    broker.ctl("set_vm_memory_high_watermark 0.00000001");
    let last = told.issue(20).await;
    told.behind().await;
    told.service.terminate();
    let begun = std::time::Instant::now();
    let (status, said) = told.service.stopped();
    assert!(status.success(), "{said}");
    assert!(
        begun.elapsed().as_secs() < 10,
        "{:?}: {said}",
        begun.elapsed()
    );
    broker.ctl("set_vm_memory_high_watermark 0.6");
    told.service.restart();
    told.tenant = told.tenant.at(told.service.base());
    told.all_up_to(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_broker_closes_is_opened_again() {
    let broker = broker().await;
    let told = Told::by_way_of(&broker.url(), &broker).await;
    // Publishing to an exchange that is not there closes the channel.
    let exchange = "digital-card.events".into();
    let options = ExchangeDeleteOptions::default();
    let deleted = told.reader.channel().exchange_delete(exchange, options);
    deleted.await.expect("gone");
    told.issue(20).await;
    eventually("everything is published", || async {
        let line = broker_line(&told.service, &told.tenant).await?;
        (line["lag"] == 0).then_some(())
    })
    .await;
    assert!(told.service.counted("broker_connections_lost_total").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_made_anew() {
    let broker = broker().await;
    let proxy = Proxy::before_port(broker.port()).await;
    let url = format!("amqp://guest:guest@{}/%2f?heartbeat=1", proxy.address());
    let mut told = Told::by_way_of(&url, &broker).await;
    proxy.decide(Which::All, Fate::Silent);
    let last = told.issue(20).await;
    told.all_up_to(last).await;
    let lost = told.service.counted("broker_connections_lost_total").await;
    assert!(lost > 0, "its heartbeats tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_at_the_start_keeps_nobody_waiting() {
    let broker = broker().await;
    broker.crash();
    let service = Service::start_with(Options::default().with("AMQP_URL", broker.url()));
    let tenant = service.tenant("pro").await;
    tenant.issue("Meanwhile").await;
    broker.start_again();
    eventually("everything is published", || async {
        let line = broker_line(&service, &tenant).await?;
        (line["lag"] == 0).then_some(())
    })
    .await;
    assert_eq!(service.counted("broker_messages_published_total").await, 2);
}
