//! The table of cards in a SQLite ledger's file: an append takes it along, and is never lost by it.

use std::ops::Deref;
use std::sync::Arc;

use application::ports::checkpoints::Turn;
use application::ports::{TenantStore, Unavailable};
use async_trait::async_trait;
use domain::card::Status;
use domain::ids::TenantId;
use futures::future::join_all;
use infrastructure::checkpoints::FileCheckpoints;
use infrastructure::database::Database;
use infrastructure::projections::cards::companion::folded;
use infrastructure::projections::cards::{
    CardsProjection, CardsReadModel, LiveCards, TenantDatabases,
};
use sqlx::Executor;

use crate::kept::Kept;
use crate::world::*;

/// A ledger in whose file cards are kept, and who keeps them when no append does.
struct Cards {
    world: SqliteUnderTest,
    kept: Kept,
}

impl Deref for Cards {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.kept
    }
}

struct TheFile(Arc<Database>, Arc<LiveCards>);

#[async_trait]
impl TenantDatabases for TheFile {
    async fn database(&self, _: TenantId) -> Result<Arc<Database>, Unavailable> {
        Ok(Arc::clone(&self.0))
    }

    async fn cards(&self, _: TenantId) -> Result<Arc<LiveCards>, Unavailable> {
        Ok(Arc::clone(&self.1))
    }
}

impl Cards {
    /// A table that is as old as the file.
    async fn start() -> Self {
        let mut world = SqliteUnderTest::start().await;
        let made = CardsReadModel::open(Arc::clone(&world.database)).await;
        made.expect("the table");
        world.reopen().await;
        let start = subscription(world.tenant(), 0, vec![started("pro")]);
        committed(world.ledger().append(start).await);
        Self::of(world).await
    }

    async fn of(world: SqliteUnderTest) -> Self {
        let database = Arc::clone(&world.database);
        let cards = CardsReadModel::open(Arc::clone(&database)).await;
        let store = TenantStore {
            tenant: world.tenant(),
            ledger: world.ledger(),
            cards: Arc::new(cards.expect("the table")),
            checkpoints: Arc::new(FileCheckpoints::new(Arc::clone(&database))),
        };
        let file = TheFile(database, world.cards());
        let subscriber = Box::new(CardsProjection::new(Arc::new(file)));
        let kept = Kept { store, subscriber };
        Self { world, kept }
    }

    async fn execute(&self, statement: &str) {
        let mut writer = self.world.database.writer().await.expect("the writer");
        writer.execute(statement).await.expect("executed");
    }

    async fn rows(&self) -> Vec<String> {
        let rows = "select concat_ws('|', id, status, holder_name, replaces, replaced_by, version, \
                    search) from cards order by id";
        let rows = sqlx::query_scalar(rows).fetch_all(self.world.database.readers());
        rows.await.expect("rows")
    }

    /// What is in the table is what building it anew makes of the ledger.
    async fn assert_as_built_anew(&self) {
        let taken_along = self.rows().await;
        self.build_anew().await;
        assert_eq!(self.rows().await, taken_along);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_append_has_done_to_cards_is_shown_when_it_is_answered() {
    let cards = Cards::start().await;
    let (one, two) = (cards.issue().await, cards.issue().await);
    assert_eq!(
        cards.shown(one).await.map(|it| it.status),
        Some(Status::Issued)
    );
    cards.activate(&[one, two]).await;
    committed(cards.ledger().append(replace(two, 2, Status::Active)).await);
    assert_eq!(
        cards.shown(one).await.map(|it| it.status),
        Some(Status::Active)
    );
    let old = cards.shown(two).await.expect("a card");
    assert_eq!((old.status, old.version), (Status::Replaced, 3));
    let new = cards.shown(old.replaced_by.expect("another")).await;
    assert_eq!(new.expect("a card").replaces, None, "the event says none");
    assert_eq!(
        cards.turn().await,
        Turn::HereFrom(cards.ledger().head().position)
    );
    cards.assert_as_built_anew().await;
    let later = cards.ledger().read(3, 10).await.expect("events");
    assert!(folded(vec![], &later).is_none(), "rows were not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_cards_than_a_text_takes_go_along_as_well() {
    let cards = Cards::start().await;
    let streams = |_| card(new_id(), 0, vec![issued()]);
    let many = append((0..700).map(streams).collect());
    committed(cards.ledger().append(many).await);
    let burst = (0..600).map(|_| cards.ledger().append(issue()));
    join_all(burst).await.into_iter().for_each(|answer| {
        committed(answer);
    });
    assert_eq!(cards.rows().await.len(), 1_300);
    cards.assert_as_built_anew().await;
    assert_sound(cards.ledger()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_written_costs_no_append_and_catches_up() {
    let cards = Cards::start().await;
    let one = cards.issue().await;
    for (action, table) in [("abort", "cards"), ("fail", "checkpoints")] {
        cards
            .execute(&format!(
                "create trigger broken before insert on {table} \
                 begin select raise({action}, 'broken'); end"
            ))
            .await;
        let missed = cards.issue().await;
        assert_eq!(cards.turn().await, Turn::Here);
        assert_eq!(cards.shown(missed).await, None);
        let again = cards.issue().await;
        cards.execute("drop trigger broken").await;
        let not_along = cards.issue().await;
        assert_eq!(cards.shown(not_along).await, None);
        cards.catch_up().await;
        let along = cards.issue().await;
        for id in [one, missed, again, not_along, along] {
            assert!(cards.shown(id).await.is_some());
        }
    }
    cards.assert_as_built_anew().await;
    assert_sound(cards.ledger()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_costs_no_append() {
    let cards = Cards::start().await;
    let one = cards.issue().await;
    cards.execute("update cards set status = 'none such'").await;
    cards.activate(&[one]).await;
    assert_eq!(cards.turn().await, Turn::Here);
    cards.build_anew().await;
    assert_eq!(
        cards.shown(one).await.map(|it| it.status),
        Some(Status::Active)
    );
    let along = cards.issue().await;
    assert!(cards.shown(along).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_younger_than_the_ledger_is_taken_along_when_it_has_caught_up() {
    let world = on_plan::<SqliteUnderTest>("pro").await;
    let before = issue();
    committed(world.ledger().append(before).await);
    let cards = Cards::of(world).await;
    let not_along = cards.issue().await;
    assert_eq!(cards.shown(not_along).await, None);
    cards.catch_up().await;
    let along = cards.issue().await;
    assert!(cards.shown(not_along).await.is_some());
    assert!(cards.shown(along).await.is_some());
    cards.assert_as_built_anew().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subscriber_also_handles_what_comes_while_it_waits_for_the_file() {
    let world = on_plan::<SqliteUnderTest>("pro").await;
    let cards = Cards::of(world).await;
    let first = cards.ledger().read(0, 10).await.expect("events");
    let later = cards.issue().await;
    let handled = cards.subscriber.handle(&cards.store, &first).await;
    assert_eq!(handled.expect("handled"), 2);
    assert!(cards.shown(later).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_no_card_moves_the_table_all_the_same() {
    let cards = Cards::start().await;
    let change = subscription(cards.world.tenant(), 1, vec![upgraded("pro", "enterprise")]);
    let position = committed(cards.ledger().append(change).await);
    assert_eq!(cards.turn().await, Turn::HereFrom(position));
    assert_eq!(
        cards.subscriber.checkpoint(&cards.store).await.ok(),
        Some(position)
    );
}
