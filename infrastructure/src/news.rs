//! News of the landlord's records between nodes: notifications of its database on PostgreSQL.
//!
//! They are told by the transaction that changes a record (see `landlord.rs`), and heard here over
//! one connection a node. A file serves one node, for which nothing is news.

use application::news::{LandlordNews, News};
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::listener::{Heard, listen};

pub(crate) const CHANNEL: &str = "digital_card_landlord";

/// Tells `news` what is notified in the landlord's database, until stopped; at the start, and
/// whenever something may have been missed, everything.
pub async fn hear_news(database: PgConnectOptions, news: LandlordNews, stop: CancellationToken) {
    let hear = |heard: Heard<'_>| match heard {
        Heard::Beginning => news.tell(News::Everything),
        Heard::Word("") => {}
        Heard::Word(word) => news.tell(parse(word)),
    };
    stop.run_until_cancelled(listen(database, CHANNEL, hear))
        .await;
}

/// As it is notified.
pub(crate) fn word(news: News) -> String {
    match news {
        News::Everything => "everything".to_owned(),
        News::Tenant(id) => format!("tenant {id}"),
        News::Key(id) => format!("key {id}"),
        News::Shards => "shards".to_owned(),
    }
}

/// What a word says; everything, if it is a newer program's.
fn parse(word: &str) -> News {
    let news = match word.split_once(' ') {
        Some(("tenant", id)) => id.parse().ok().map(News::Tenant),
        Some(("key", id)) => id.parse().ok().map(News::Key),
        None if word == "shards" => Some(News::Shards),
        _ => None,
    };
    news.unwrap_or(News::Everything)
}
