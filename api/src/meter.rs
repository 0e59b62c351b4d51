//! What is measured, and the page that shows all metrics (Prometheus text).
//!
//! The handles of a metric are looked up once for each combination of labels and kept, because
//! the registry's own look-up allocates. Paths are the routes' patterns and methods the known
//! ones, so that a client cannot make labels up.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Duration;

use application::subscribers::{FollowerState, Subscribers};
use axum::http::{Method, StatusCode};
use chrono::{DateTime, Utc};
use metrics::{
    Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::crowd::Crowd;

/// The upper bounds of the duration histograms, in seconds.
const BUCKETS_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// How often recorded durations are sorted into their buckets if nobody reads them.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The process's registry: `metrics` has one a process.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Counts requests.
#[derive(Default)]
pub struct Meter {
    routes: RwLock<HashMap<String, Vec<Answers>>>,
}

/// The handles of one route's answers of one status.
struct Answers {
    method: &'static str,
    status: StatusCode,
    total: Counter,
    seconds: Histogram,
}

impl Meter {
    /// Records an answered request; `path` is the route's pattern.
    pub fn answered(&self, method: &Method, path: &str, status: StatusCode, took: Duration) {
        let method = known(method);
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let known = routes
            .get(path)
            .and_then(|answers| find(answers, method, status));
        if let Some(answers) = known {
            return answers.record(took);
        }
        drop(routes);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let route = routes.entry(path.to_owned()).or_default();
        if find(route, method, status).is_none() {
            route.push(Answers::new(method, path, status));
        }
        if let Some(answers) = find(route, method, status) {
            answers.record(took);
        }
    }

    /// Every metric as Prometheus text; gauges are taken now.
    pub fn render(&self, crowd: &Crowd, subscribers: &Subscribers, now: DateTime<Utc>) -> String {
        gauge!("http_requests_in_flight").set(crowd.len() as f64);
        measure(subscribers, now);
        recorder().map_or_else(String::new, PrometheusHandle::render)
    }
}

impl Answers {
    fn new(method: &'static str, path: &str, status: StatusCode) -> Self {
        let path = path.to_owned();
        Self {
            method,
            status,
            total: counter!(
                "http_requests_total",
                "method" => method, "path" => path.clone(), "status" => status.as_str().to_owned()
            ),
            seconds: histogram!(
                "http_request_duration_seconds", "method" => method, "path" => path
            ),
        }
    }

    fn record(&self, took: Duration) {
        self.total.increment(1);
        self.seconds.record(took);
    }
}

fn find<'a>(answers: &'a [Answers], method: &str, status: StatusCode) -> Option<&'a Answers> {
    answers
        .iter()
        .find(|answers| answers.status == status && answers.method == method)
}

/// The method as a label.
fn known(method: &Method) -> &'static str {
    const KNOWN: [(Method, &str); 7] = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::DELETE, "DELETE"),
        (Method::HEAD, "HEAD"),
        (Method::OPTIONS, "OPTIONS"),
        (Method::PATCH, "PATCH"),
    ];
    KNOWN
        .iter()
        .find(|(one, _)| one == method)
        .map_or("other", |(_, text)| text)
}

/// One subscriber's state, over all tenants.
#[derive(Default)]
struct Lag {
    events: u64,
    events_max: u64,
    /// The age of the oldest event that is not handled.
    age_max: Duration,
    stopped: u64,
}

fn measure(subscribers: &Subscribers, now: DateTime<Utc>) {
    let mut lags: HashMap<&'static str, Lag> = HashMap::new();
    for (name, _, progress) in subscribers.progress() {
        let lag = lags.entry(name).or_default();
        let age = progress
            .behind_since
            .and_then(|it| (now - it).to_std().ok());
        lag.events += progress.lag();
        lag.events_max = lag.events_max.max(progress.lag());
        lag.age_max = lag.age_max.max(age.unwrap_or_default());
        lag.stopped += u64::from(progress.state == FollowerState::Stopped);
    }
    for (name, lag) in lags {
        gauge!("subscriber_lag_events", "subscriber" => name).set(lag.events as f64);
        gauge!("subscriber_lag_events_max", "subscriber" => name).set(lag.events_max as f64);
        gauge!("subscriber_lag_seconds", "subscriber" => name).set(lag.age_max.as_secs_f64());
        gauge!("subscriber_stopped_tenants", "subscriber" => name).set(lag.stopped as f64);
    }
}

/// Begins to keep metrics; whoever measured before is not heard.
pub fn install() {
    let _ = recorder();
}

/// Sorts recorded durations into their buckets.
pub fn upkeep() {
    if let Some(handle) = recorder() {
        handle.run_upkeep();
    }
}

fn recorder() -> Option<&'static PrometheusHandle> {
    RECORDER
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS_SECONDS)
                .ok()?
                .build_recorder();
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).ok()?;
            describe();
            Some(handle)
        })
        .as_ref()
}

fn describe() {
    describe_counter!("http_requests_total", "Requests answered");
    describe_histogram!(
        "http_request_duration_seconds",
        "From the request's head to the answer's"
    );
    describe_gauge!("http_requests_in_flight", "Requests being worked on");
    describe_gauge!("http_connections", "Open connections");
    describe_gauge!(
        "subscriber_lag_events",
        "Events not yet handled, over all tenants"
    );
    describe_gauge!(
        "subscriber_lag_events_max",
        "Events not yet handled, of the tenant furthest behind"
    );
    describe_gauge!(
        "subscriber_lag_seconds",
        "The age of the oldest event not yet handled, over all tenants"
    );
    describe_broker();
    describe_gauge!(
        "subscriber_stopped_tenants",
        "Tenants for which a subscriber stands still until resumed"
    );
    describe_counter!(
        "usage_drift_total",
        "Tenants whose counts an audit found to differ from their ledger, by what holds them"
    );
    describe_counter!(
        "usage_audit_failures_total",
        "Tenants that an audit could not count"
    );
}

fn describe_broker() {
    describe_counter!(
        "broker_messages_published_total",
        "Messages that the broker has confirmed"
    );
    describe_counter!(
        "broker_messages_unroutable_total",
        "Messages that no queue was bound to, by type; they are published all the same"
    );
    describe_counter!(
        "broker_batches_repeated_total",
        "Batches that were not confirmed, and so are published again"
    );
    describe_counter!(
        "broker_connections_lost_total",
        "Connections to the broker that ended"
    );
    describe_gauge!("broker_connected", "Whether there is a connection");
    describe_gauge!("broker_blocked", "Whether the broker takes no messages");
}

/// Does [`upkeep`] every now and then.
pub async fn keep_up() {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        upkeep();
    }
}
