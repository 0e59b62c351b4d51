//! What one gets from the libraries in their stock way, to compare with: axum, a `PostgresCqrs`
//! with a `GenericQuery` that keeps a view, one aggregate a card. No tenants, keys, quota, chain
//! or idempotency.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::GenericQuery;
use cqrs_es::{Aggregate, DomainEvent, EventEnvelope, View};
use postgres_es::{PostgresCqrs, PostgresViewRepository, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

/// As many as our service has.
const CONNECTIONS: u32 = 16;

/// The tables that the libraries expect.
const TABLES: &str = "
    create table events (
        aggregate_type text not null, aggregate_id text not null, sequence bigint not null,
        event_type text not null, event_version text not null,
        payload json not null, metadata json not null,
        primary key (aggregate_type, aggregate_id, sequence)
    );
    create table card_view (
        view_id text not null primary key, version bigint not null, payload json not null
    )";

#[derive(Deserialize)]
struct Holder {
    name: String,
    email: Option<String>,
}

struct Issue {
    number: String,
    holder: Holder,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
enum CardEvent {
    Issued {
        number: String,
        name: String,
        email: Option<String>,
    },
}

impl DomainEvent for CardEvent {
    fn event_type(&self) -> String {
        "Issued".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Card {
    issued: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the card is issued already")]
struct IssuedAlready;

impl Aggregate for Card {
    const TYPE: &'static str = "card";
    type Command = Issue;
    type Event = CardEvent;
    type Error = IssuedAlready;
    type Services = ();

    async fn handle(
        &mut self,
        issue: Issue,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), IssuedAlready> {
        if self.issued {
            return Err(IssuedAlready);
        }
        let issued = CardEvent::Issued {
            number: issue.number,
            name: issue.holder.name,
            email: issue.holder.email,
        };
        sink.write(issued, self).await;
        Ok(())
    }

    fn apply(&mut self, _: CardEvent) {
        self.issued = true;
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct CardView {
    number: String,
    name: String,
    email: Option<String>,
}

impl View<Card> for CardView {
    fn update(&mut self, event: &EventEnvelope<Card>) {
        let CardEvent::Issued {
            number,
            name,
            email,
        } = &event.payload;
        self.number.clone_from(number);
        self.name.clone_from(name);
        self.email.clone_from(email);
    }
}

#[derive(Deserialize)]
struct IssueBody {
    holder: Holder,
}

#[derive(Serialize)]
struct IssuedBody {
    id: String,
}

/// Serves on an empty database until the process ends.
pub async fn serve(database: &str) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect(database)
        .await?;
    pool.execute(TABLES).await?;
    let views = PostgresViewRepository::<CardView, Card>::new("card_view", pool.clone());
    let query = GenericQuery::new(Arc::new(views));
    let cqrs = Arc::new(postgres_cqrs(pool, vec![Box::new(query)], ()));
    let routes = Router::new()
        .route("/v1/cards", post(issue))
        .with_state(cqrs);
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let listener = tokio::net::TcpListener::bind(any).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes).await.context("serving")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the stock way has no port for chance"
)]
async fn issue(
    State(cqrs): State<Arc<PostgresCqrs<Card>>>,
    Json(body): Json<IssueBody>,
) -> Result<(StatusCode, Json<IssuedBody>), StatusCode> {
    let id = Uuid::now_v7();
    let number = id.simple().to_string();
    let holder = body.holder;
    let id = id.to_string();
    match cqrs.execute(&id, Issue { number, holder }).await {
        Ok(()) => Ok((StatusCode::CREATED, Json(IssuedBody { id }))),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
