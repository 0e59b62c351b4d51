//! The tenants' clients of a torture run: each command is tried on one node after the other, under
//! the same key, until it is answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::client::{id, try_send};
use crate::support::{Answer, Chance, Client, in_seconds};

/// Clients a tenant.
const CLIENTS: usize = 4;
/// A request that takes longer hangs.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// The pause before a command is tried again.
const PAUSE: Duration = Duration::from_millis(25);

/// Where the nodes are, by number: a node that comes back has another address.
pub type Addresses = Arc<Mutex<Vec<String>>>;

/// A command, as its client knows it.
#[derive(Clone)]
pub struct Sent {
    pub method: Method,
    pub path: String,
    pub body: Value,
    pub answer: Option<Answer>,
}

/// What a tenant has sent, by idempotency key.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<HashMap<String, Sent>>>);

impl Log {
    pub fn lock(&self) -> MutexGuard<'_, HashMap<String, Sent>> {
        self.0.lock().expect("no client panics with the log")
    }

    /// The cards whose issuance was acknowledged.
    pub fn acknowledged_cards(&self) -> Vec<String> {
        let log = self.lock();
        let issued = log.values().filter(|sent| sent.path == "/v1/cards");
        let issued = issued.filter_map(|sent| sent.answer.as_ref());
        let issued = issued.filter(|answer| answer.status == 201);
        issued.map(|answer| id(&answer.json()).to_owned()).collect()
    }
}

/// The clients of a tenant, at work until they are stopped.
pub struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `part` names the part of the run, so that its keys are its own.
    pub fn start(
        tenant: &Client,
        addresses: &Addresses,
        log: &Log,
        part: Part,
        chance: &mut Chance,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|number| {
                let worker = Worker {
                    tenant: tenant.clone(),
                    addresses: Arc::clone(addresses),
                    log: log.clone(),
                    over: Arc::clone(&over),
                    chance: chance.fork(),
                    ways: chance.fork(),
                    part,
                };
                tokio::spawn(worker.run(number))
            })
            .collect();
        Self { over, clients }
    }

    /// Waits for the answers under way.
    pub async fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("a client was always answered well");
        }
    }
}

/// What clients do in a part of a run.
#[derive(Clone, Copy)]
pub struct Part {
    pub name: &'static str,
    /// Whether cards are issued that expire by themselves.
    pub brief_cards: bool,
}

struct Worker {
    tenant: Client,
    addresses: Addresses,
    log: Log,
    over: Arc<AtomicBool>,
    /// What it does.
    chance: Chance,
    /// Which node it asks: how often it must ask is a matter of time.
    ways: Chance,
    part: Part,
}

impl Worker {
    async fn run(mut self, number: usize) {
        for turn in 0_u64.. {
            let name = format!("{}-{number}-{turn}", self.part.name);
            if self.over.load(Ordering::SeqCst) || self.live(&name).await.is_none() {
                return;
            }
        }
    }

    /// The life of a card; none if the run is over.
    async fn live(&mut self, name: &str) -> Option<()> {
        let mut body = json!({ "holder": { "name": format!("Holder {name}") } });
        if self.part.brief_cards && self.chance.below(10) == 0 {
            let seconds = 1 + self.chance.below(5);
            body["expires_at"] = in_seconds(i64::try_from(seconds).expect("a few")).into();
            self.insist(
                Method::POST,
                "/v1/cards".to_owned(),
                body,
                &format!("{name}-issue"),
            )
            .await?;
            return Some(());
        }
        let issued = self
            .insist(
                Method::POST,
                "/v1/cards".to_owned(),
                body,
                &format!("{name}-issue"),
            )
            .await?;
        if is_refused(&issued) {
            return Some(());
        }
        let card = issued.json();
        let verbs = match self.chance.below(4) {
            0 => &[][..],
            1 => &["activate"],
            2 => &["activate", "suspend"],
            _ => &["activate", "revoke"],
        };
        for verb in verbs {
            let path = format!("/v1/cards/{}/{verb}", id(&card));
            let key = format!("{name}-{verb}");
            self.insist(Method::PUT, path, json!({}), &key).await?;
        }
        Some(())
    }

    /// Tries until it is answered: done, or refused; none if the run is over.
    async fn insist(
        &mut self,
        method: Method,
        path: String,
        body: Value,
        key: &str,
    ) -> Option<Answer> {
        let sent = Sent {
            method,
            path,
            body,
            answer: None,
        };
        self.log.lock().insert(key.to_owned(), sent.clone());
        let mut rhythm = tokio::time::interval(PAUSE);
        while !self.over.load(Ordering::SeqCst) {
            let node = {
                let addresses = self.addresses.lock().expect("the addresses");
                let chosen = self.ways.below(addresses.len() as u64);
                addresses[usize::try_from(chosen).expect("a few nodes")].clone()
            };
            let tenant = self.tenant.clone().at(&node);
            let request = tenant.command(sent.method.clone(), &sent.path, key, &sent.body);
            let answer = timeout(ANSWERED_WITHIN, try_send(request)).await;
            // No answer at all is one of a node that was killed.
            if let Ok(answer) = answer.unwrap_or_else(|_| panic!("{key} hangs on {node}")) {
                match answer.status {
                    200 | 201 => {
                        self.remember(key, &answer);
                        return Some(answer);
                    }
                    _ if is_refused(&answer) => return Some(answer),
                    _ => assert_eq!(answer.status, 503, "{key}: {answer}"),
                }
            }
            rhythm.tick().await;
        }
        None
    }

    fn remember(&self, key: &str, answer: &Answer) {
        let mut log = self.log.lock();
        let sent = log.get_mut(key).expect("it was put there");
        sent.answer = Some(answer.clone());
    }
}

/// Every command again, on this node: what was acknowledged has its first outcome, and what was
/// not has one now, if only a refusal.
pub async fn repeat_everything(tenant: &Client, log: &Log) {
    let all: Vec<_> = log.lock().clone().into_iter().collect();
    let repeating = stream::iter(all).map(|(key, sent)| async move {
        let request = tenant.command(sent.method, &sent.path, &key, &sent.body);
        let again = try_send(request).await.expect("an answer");
        match &sent.answer {
            Some(first) => {
                assert!(again.is_replayed(), "{key}: {again}");
                assert_eq!(again.body, first.body, "{key}: another outcome");
                assert_eq!(again.position(), first.position(), "{key}");
            }
            None if is_refused(&again) => {}
            None => {
                assert_eq!(again.status / 100, 2, "{key}: {again}");
                log.lock().get_mut(&key).expect("known").answer = Some(again);
            }
        }
    });
    repeating.buffer_unordered(CLIENTS).collect::<()>().await;
}

/// Whether a command is refused as these clients' may be: there is no place for a card, or on this
/// node's clock its time is over.
fn is_refused(answer: &Answer) -> bool {
    match answer.status {
        402 => answer.any_problem()["code"] == "quota_exceeded",
        422 => answer.any_problem()["errors"][0]["code"] == "not_in_future",
        _ => false,
    }
}
