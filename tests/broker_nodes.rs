//! Several nodes and one broker: whichever reaches it tells of what all of them do.

use std::sync::Arc;

use serde_json::json;

use crate::messages::{BROKER, broker_line, published, publishing_to, virtual_host};
use crate::support::messages::Reader;
use crate::support::proxy::Proxy;
use crate::support::store::Database;
use crate::support::{Service, Store, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_reach_the_broker_leaves_its_tenants_to_one_that_does() {
    let (url, proxy) = (virtual_host(), Proxy::before_port(BROKER.port()).await);
    let by_proxy = url.replace(
        &format!(":{}/", BROKER.port()),
        &format!(":{}/", proxy.address().port()),
    );
    assert_ne!(by_proxy, url);
    let store = Arc::new(Store::Database(Database::new()));
    let one = Service::node_of(&store, publishing_to(&by_proxy));
    let tenant = one.tenant("pro").await;
    tenant.issue("Told by the one").await;
    published(&one, &tenant).await;
    let other = Service::node_of(&store, publishing_to(&url));
    let mut reader = Reader::of_tenant(&url, tenant.id()).await;

    drop(proxy);
    let body = json!({ "holder": { "name": "Told by the other" } });
    let issued = tenant.post("/v1/cards", &body).await;
    reader.up_to(issued.expect(201).position()).await;
    published(&other, &tenant).await;
    // The one hears that it is done, and is behind no longer.
    eventually("nothing is left to be told of", || async {
        let line = broker_line(&one, &tenant).await?;
        (line["lag"] == 0).then_some(())
    })
    .await;
}
