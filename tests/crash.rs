//! `kill -9` in the middle of a load: nothing acknowledged is lost, nothing is doubled.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};

use crate::support::client::{id, try_send};
use crate::support::recount::everything_agrees;
use crate::support::{Answer, Chance, Client, Service};

const ROUNDS: u64 = 20;
const CLIENTS: usize = 16;
/// The service is killed after so many acknowledgements of the round, drawn anew each time.
const ACKNOWLEDGED_MAX: u64 = 150;
/// How the holders of cards that are active from the start are called.
const ACTIVE: &str = "Active";

/// A command and what became of it, as its client knows.
#[derive(Clone)]
struct Sent {
    method: Method,
    path: String,
    body: Value,
    acknowledged: Option<Answer>,
}

impl Sent {
    /// Whether it makes a card: a new one, or one that takes another's place.
    fn issues(&self) -> bool {
        self.path == "/v1/cards" || self.path.ends_with("/replace")
    }
}

/// Everything sent so far, by idempotency key.
type Log = Arc<Mutex<HashMap<String, Sent>>>;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_in_the_middle_of_a_load_lose_and_double_nothing() {
    let mut chance = Chance::of("SEED");
    let mut service = Service::start();
    let tenant = service.tenant("pro").await;
    let log: Log = Arc::default();

    for round in 0..ROUNDS {
        let target = 1 + chance.below(ACKNOWLEDGED_MAX);
        let extra = Duration::from_micros(chance.below(8_000));
        let load = Load::start(&tenant.clone().at(service.base()), &log, round);
        load.acknowledged(target).await;
        // Somewhere inside a commit rather than always right after an acknowledgement.
        let _ = tokio::time::timeout(extra, std::future::pending::<()>()).await;
        service.kill();
        load.stop().await;
        service.restart();
        let tenant = tenant.clone().at(service.base());
        check_round(&service, &tenant, &log, round).await;
    }

    let tenant = tenant.at(service.base());
    retry_everything(&tenant, &log).await;
    let events = everything_agrees(&service, &tenant).await;
    let log = log.lock().await;
    let issuances = log.values().filter(|sent| sent.issues()).count();
    let issued = events.iter().filter(|event| event["type"] == "CardIssued");
    assert_eq!(
        issued.count(),
        issuances,
        "each key issued exactly one card"
    );
}

/// What must be true after every restart.
async fn check_round(service: &Service, tenant: &Client, log: &Log, round: u64) {
    let events = everything_agrees(service, tenant).await;
    assert_appends_are_whole(&events);
    let listed = tenant.all("/v1/cards?limit=500").await;
    let mut times_listed: HashMap<&str, u32> = HashMap::new();
    for card in &listed {
        *times_listed.entry(id(card)).or_default() += 1;
    }
    let log = log.lock().await;
    for sent in log.values().filter(|sent| sent.issues()) {
        if let Some(answer) = &sent.acknowledged {
            let times = times_listed.get(id(&answer.json())).copied();
            assert_eq!(
                times,
                Some(1),
                "round {round}: an acknowledged card: {answer}"
            );
        }
    }
}

/// What one command records together is there together: a card that is active from the start, and
/// the two cards of a replacement.
fn assert_appends_are_whole(events: &[Value]) {
    for (event, next) in events.iter().zip(events[1..].iter().chain([&Value::Null])) {
        let payload = event["payload"]
            .as_object()
            .and_then(|it| it.values().next());
        let payload = payload.unwrap_or_else(|| panic!("an event's content: {event}"));
        if event["type"] == "CardReplaced" {
            assert_eq!(next["type"], "CardIssued", "half a replacement: {event}");
            assert_eq!(next["aggregate_id"], payload["by"], "{event}");
        }
        let holder = payload["holder"]["name"].as_str().unwrap_or_default();
        if event["type"] == "CardIssued" && holder.starts_with(ACTIVE) {
            let began_active = payload["replaces"].is_string()
                || (next["type"] == "CardActivated"
                    && next["aggregate_id"] == event["aggregate_id"]);
            assert!(began_active, "half an issuance: {event}");
        }
    }
}

/// Acknowledged or not: the same request again has the first outcome, and happens once.
async fn retry_everything(tenant: &Client, log: &Log) {
    let mut log = log.lock().await;
    for (key, sent) in log.iter_mut() {
        let request = tenant.command(sent.method.clone(), &sent.path, key, &sent.body);
        let again = try_send(request).await.expect("an answer");
        assert_eq!(again.status / 100, 2, "{again}");
        match &sent.acknowledged {
            Some(first) => {
                assert!(again.is_replayed(), "{again}");
                assert_eq!(again.body, first.body, "another outcome than the first");
                assert_eq!(again.position(), first.position());
            }
            None => sent.acknowledged = Some(again),
        }
    }
}

/// Clients that issue, activate and replace cards until the service is gone.
struct Load {
    acknowledged: Arc<AtomicU64>,
    rang: Arc<Notify>,
    over: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(tenant: &Client, log: &Log, round: u64) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (rang, over) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let clients = (0..CLIENTS)
            .map(|number| {
                let (tenant, log) = (tenant.clone(), Arc::clone(log));
                let acknowledged = Arc::clone(&acknowledged);
                let (rang, over) = (Arc::clone(&rang), Arc::clone(&over));
                tokio::spawn(async move {
                    for index in 0_u64.. {
                        let name = format!("{round}-{number}-{index}");
                        let active = index % 2 == 0;
                        let Some(card) = issue(&tenant, &log, &name, active).await else {
                            break;
                        };
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                        rang.notify_one();
                        let done = match index % 4 {
                            1 => activate(&tenant, &log, &card, &name).await,
                            2 => replace(&tenant, &log, &card, &name).await,
                            _ => Some(()),
                        };
                        if done.is_none() {
                            break;
                        }
                        if over.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                })
            })
            .collect();
        Self {
            acknowledged,
            rang,
            over,
            clients,
        }
    }

    async fn acknowledged(&self, target: u64) {
        let enough = async {
            while self.acknowledged.load(Ordering::SeqCst) < target {
                self.rang.notified().await;
            }
        };
        let waited = tokio::time::timeout(crate::support::DEADLINE, enough).await;
        waited.expect("the load makes progress");
    }

    async fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("a client of the load");
        }
    }
}

async fn issue(tenant: &Client, log: &Log, name: &str, active: bool) -> Option<Value> {
    let prefix = if active { ACTIVE } else { "Issued" };
    let holder = json!({ "name": format!("{prefix} {name}") });
    let body = json!({ "holder": holder, "activate": active });
    let sent = Sent {
        method: Method::POST,
        path: "/v1/cards".to_owned(),
        body,
        acknowledged: None,
    };
    let answer = command(tenant, log, &format!("issue-{name}"), sent).await?;
    assert_eq!(answer.status, 201, "{answer}");
    Some(answer.json())
}

async fn activate(tenant: &Client, log: &Log, card: &Value, name: &str) -> Option<()> {
    let sent = Sent {
        method: Method::PUT,
        path: format!("/v1/cards/{}/activate", id(card)),
        body: json!({}),
        acknowledged: None,
    };
    let answer = command(tenant, log, &format!("activate-{name}"), sent).await?;
    assert_eq!(answer.status, 200, "{answer}");
    Some(())
}

async fn replace(tenant: &Client, log: &Log, card: &Value, name: &str) -> Option<()> {
    let sent = Sent {
        method: Method::POST,
        path: format!("/v1/cards/{}/replace", id(card)),
        body: json!({}),
        acknowledged: None,
    };
    let answer = command(tenant, log, &format!("replace-{name}"), sent).await?;
    assert_eq!(answer.status, 201, "{answer}");
    Some(())
}

/// Sends a command and remembers it; `None` when the service is gone.
async fn command(tenant: &Client, log: &Log, key: &str, sent: Sent) -> Option<Answer> {
    log.lock().await.insert(key.to_owned(), sent.clone());
    let request = tenant.command(sent.method, &sent.path, key, &sent.body);
    let answer = try_send(request).await.ok()?;
    let mut log = log.lock().await;
    log.get_mut(key).expect("just put there").acknowledged = Some(answer.clone());
    Some(answer)
}
