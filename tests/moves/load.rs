//! Clients that issue cards while their tenant is moved, and what they must find afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinHandle;

use super::deployment::Deployment;
use crate::support::client::{id, try_send};
use crate::support::recount::everything_agrees;
use crate::support::{Client, eventually, unique};

const CLIENTS: usize = 8;

/// Clients that issue cards through all nodes, each again until it is acknowledged.
pub struct Load {
    over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    pub refused: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub fn begin(deployment: &Deployment, tenant: &Client) -> Self {
        let mut load = Self {
            over: Arc::default(),
            acknowledged: Arc::default(),
            refused: Arc::default(),
            clients: Vec::new(),
        };
        for nth in 0..CLIENTS {
            let base = deployment.nodes[nth % 2].base();
            let client = tenant.clone().at(base);
            let over = Arc::clone(&load.over);
            let (acknowledged, refused) =
                (Arc::clone(&load.acknowledged), Arc::clone(&load.refused));
            load.clients.push(tokio::spawn(async move {
                let mut issued = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    issued.push(issue(&client, &refused).await);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                issued
            }));
        }
        load
    }

    /// How often a client was answered.
    pub fn answers(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst) + self.refused.load(Ordering::SeqCst)
    }

    pub async fn answer_more(&self, count: u64) {
        let target = self.answers() + count;
        eventually("the nodes answer", || async {
            (self.answers() >= target).then_some(())
        })
        .await;
    }

    /// Waits until so many more are acknowledged.
    pub async fn more(&self, count: u64) {
        let target = self.acknowledged.load(Ordering::SeqCst) + count;
        eventually("the load makes progress", || async {
            (self.acknowledged.load(Ordering::SeqCst) >= target).then_some(())
        })
        .await;
    }

    /// The ids of all cards that were acknowledged.
    pub async fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        let mut issued = Vec::new();
        for client in self.clients {
            issued.extend(client.await.expect("a client of the load"));
        }
        issued
    }
}

/// Issues a card; a 503 is asked again, under the same key, until it is not.
pub async fn issue(client: &Client, refused: &AtomicU64) -> String {
    let (path, key) = ("/v1/cards", unique("issue"));
    let body = json!({ "holder": { "name": key } });
    let mut rhythm = tokio::time::interval(Duration::from_millis(10));
    loop {
        rhythm.tick().await;
        let answer = try_send(client.command(Method::POST, path, &key, &body)).await;
        let answer = answer.expect("the nodes go on");
        if answer.status == 503 {
            assert!(answer.headers.contains_key("retry-after"), "{answer}");
            refused.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        answer.expect(201);
        return id(&answer.json()).to_owned();
    }
}

/// Every acknowledged card is there, once, at both nodes, and everything agrees.
pub async fn nothing_is_lost(deployment: &Deployment, tenant: &Client, issued: &[String]) {
    for node in &deployment.nodes {
        let tenant = tenant.clone().at(node.base());
        let events = eventually("the node has caught up", || async {
            let usage = tenant.get("/v1/usage").await;
            let listed = tenant.get("/v1/cards").await;
            (usage.status == 200 && listed.status == 200).then_some(())
        });
        events.await;
        let events = everything_agrees(node, &tenant).await;
        let cards: BTreeSet<_> = events
            .iter()
            .filter(|event| event["type"] == "CardIssued")
            .map(|event| event["aggregate_id"].as_str().expect("a card"))
            .collect();
        for card in issued {
            assert!(
                cards.contains(&**card),
                "{card} was acknowledged and is lost"
            );
        }
        assert_eq!(cards.len(), issued.len(), "cards that nobody asked for");
    }
}
