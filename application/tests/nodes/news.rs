//! News of the landlord's records: what this node remembers follows them.

use std::sync::Arc;
use std::time::Duration;

use application::error::Error;
use application::keys::NewKey;
use application::news::News;
use application::ports::Random as _;
use application::scope::Role;
use application::shards::{Shard, UrlReference};
use domain::ids::TenantId;

use crate::node::{Counter, Node, Records, acme, command, key, name, seed, slug, tenant};

#[tokio::test(start_paused = true)]
async fn a_key_made_elsewhere_opens_here_and_one_revoked_elsewhere_opens_nothing() {
    let node = Node::start(Records::default());
    node.records.change(|it| it.keys.push(key(1)));
    node.hear(News::Key(key(1).id)).await;
    assert!(node.opens(1));
    node.records.change(|it| it.keys.clear());
    node.hear(News::Key(key(1).id)).await;
    assert!(!node.opens(1));
    assert_eq!(node.records.all_read(), 0, "one row is read, not all");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_recorded_elsewhere_is_known_here_and_ready_when_it_is_there() {
    let node = Node::start(Records::default());
    node.records.change(|it| it.tenants.push(tenant(1)));
    node.hear(News::Tenant(tenant(1).id)).await;
    assert_eq!(node.knows(1), Some(tenant(1)));
    node.records.change(|it| it.tenants[0].ready = true);
    node.hear(News::Tenant(tenant(1).id)).await;
    assert!(node.knows(1).expect("known").ready);
    assert_eq!(node.records.all_read(), 0, "one row is read, not all");
}

#[tokio::test(start_paused = true)]
async fn a_shard_recorded_elsewhere_is_known_here() {
    let node = Node::start(Records::default());
    let shard = Shard {
        name: slug("second"),
        url: UrlReference::Store,
        open: true,
    };
    node.records.change(|it| it.shards.push(shard.clone()));
    node.hear(News::Shards).await;
    assert_eq!(node.application.shards.all(), [shard]);
}

#[tokio::test(start_paused = true)]
async fn everything_takes_the_place_of_what_was_remembered() {
    let node = Node::start(Records {
        keys: vec![key(1), key(2)],
        tenants: vec![tenant(1)],
        ..Records::default()
    });
    node.records.change(|it| {
        it.keys = vec![key(2), key(3)];
        it.tenants = vec![tenant(2)];
    });
    node.hear(News::Everything).await;
    assert_eq!([1, 2, 3].map(|n| node.opens(n)), [false, true, true]);
    assert_eq!(node.knows(1), None);
    assert_eq!(node.knows(2), Some(tenant(2)));
}

#[tokio::test(start_paused = true)]
async fn a_configured_key_opens_whatever_the_records_say() {
    let node = Node::start(Records::default());
    node.application.keys.put_configured(key(1));
    node.hear(News::Everything).await;
    node.hear(News::Key(key(1).id)).await;
    assert!(node.opens(1));
    let listed = node.application.all_keys(&command().scope).await;
    assert_eq!(listed.expect("keys"), [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_read_later_and_holds_up_nothing_else() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        tenants_fail: 20,
        ..Records::default()
    });
    node.records.change(|it| {
        it.keys.clear();
        it.tenants.push(tenant(1));
    });
    node.news.tell(News::Tenant(tenant(1).id));
    node.hear(News::Key(key(1).id)).await;
    assert!(!node.opens(1));
    assert_eq!(node.knows(1), None);
    node.until(|node| node.knows(1).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn tenants_that_cannot_be_read_keep_no_revoked_key_in_force() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        tenants_fail: usize::MAX,
        ..Records::default()
    });
    node.records.change(|it| it.keys.clear());
    node.hear(News::Everything).await;
    node.until(|node| !node.opens(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_asked_for_again() {
    let node = Node::start(Records::default());
    node.records.change(|it| it.keys.push(key(1)));
    node.records.hold();
    node.news.tell(News::Key(key(1).id));
    node.records.asked().await;
    tokio::time::advance(Duration::from_secs(6)).await;
    node.records.asked().await;
    node.records.release();
    node.until(|node| node.opens(1)).await;
}

#[tokio::test(start_paused = true)]
async fn more_news_than_can_wait_is_everything() {
    let node = Node::start(Records::default());
    let many: Vec<_> = (0..5_000).map(key).collect();
    node.records.change(|it| it.keys = many.clone());
    for key in &many {
        node.news.tell(News::Key(key.id));
    }
    node.until(|node| node.opens(4_999)).await;
    assert!(node.opens(0));
    assert_eq!(node.records.all_read(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_made_here_while_everything_is_read_stays() {
    let node = Node::start(Records::default());
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    let application = Arc::clone(&node.application);
    let made = node.meanwhile(async move {
        let new = NewKey {
            role: Role::Auditor,
            name: name("audit"),
            tenant: None,
        };
        let made = application.create_key(&command(), new, &seed()).await;
        made.expect("made").value.secret
    });
    let secret = made.await.expect("no panic");
    node.hear(News::Key(key(9).id)).await;
    assert!(node.application.keys.authenticate(&secret).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_first_key_of_a_tenant_made_here_while_everything_is_read_stays() {
    let node = Node::start(Records::default());
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    let application = Arc::clone(&node.application);
    let made = node.meanwhile(async move {
        // There are no stores here, so the tenant is recorded but not made ready.
        let (command, seed) = (command(), seed());
        let made = application.provision_tenant(&command, acme(), &seed);
        made.await
    });
    assert!(matches!(
        made.await.expect("no panic"),
        Err(Error::Unavailable(_))
    ));
    node.hear(News::Key(key(9).id)).await;
    let listed = node.application.all_keys(&command().scope).await;
    assert_eq!(listed.expect("keys").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_made_here_while_its_record_is_read_stays_known() {
    let node = Node::start(Records::default());
    let id = TenantId::new(Counter::default().id());
    node.records.hold();
    node.news.tell(News::Tenant(id));
    node.records.asked().await;
    let application = Arc::clone(&node.application);
    let made = node.meanwhile(async move {
        let (command, seed) = (command(), seed());
        let made = application.provision_tenant(&command, acme(), &seed);
        made.await.map(|_| ())
    });
    made.await.expect("no panic").expect_err("no stores");
    let known = node.application.directory.get(id);
    assert!(known.is_some_and(|tenant| !tenant.ready));
}

#[tokio::test(start_paused = true)]
async fn a_key_revoked_here_while_everything_is_read_opens_nothing() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        ..Records::default()
    });
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    let application = Arc::clone(&node.application);
    let revoked =
        node.meanwhile(async move { application.revoke_key(&command().scope, key(1).id).await });
    revoked.await.expect("no panic").expect("revoked");
    node.hear(News::Key(key(9).id)).await;
    assert!(!node.opens(1));
}

#[tokio::test(start_paused = true)]
async fn who_hears_that_a_key_is_revoked_already_can_rely_on_it() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        ..Records::default()
    });
    node.records.change(|it| it.keys.clear());
    let scope = command().scope;
    let revoked = node.application.revoke_key(&scope, key(1).id).await;
    assert!(matches!(revoked, Err(Error::NotFound("key"))));
    assert!(!node.opens(1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_it_also_while_it_waits_for_an_answer() {
    let node = Node::start(Records::default());
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    node.stop.cancel();
    node.following.await.expect("no panic");
}
