//! The biller that comes with the service: it takes messages, keeps each once, and bills what the
//! ledgers say.

use std::process::{Child, Command};
use std::time::Instant;

use chrono::{Days, TimeDelta};
use serde_json::json;

use crate::messages::{BROKER, published, publishing_to, virtual_host};
use crate::support::biller::{Biller, Report, about_today, recount, terminate};
use crate::support::billing_queue::{BillingQueue, DELIVERY_LIMIT, Published, message};
use crate::support::chance::Chance;
use crate::support::client::id;
use crate::support::messages::{Reader, settle};
use crate::support::rabbitmq::Broker;
use crate::support::service::command;
use crate::support::{Client, DEADLINE, Service, eventually, now};

/// A tenant to whom everything happens that is billed.
async fn eventful(service: &Service, plan: &str) -> Client {
    let tenant = service.tenant(plan).await;
    let landlord = service.landlord();
    let subscription = format!("/v1/landlord/tenants/{}/subscription", tenant.id());
    let mut cards = Vec::new();
    for name in ["Ada", "Grace", "Edsger", "Barbara"] {
        cards.push(tenant.issue_active(name).await);
    }
    tenant.change(&cards[0], "suspend").await.expect(200);
    tenant.change(&cards[0], "revoke").await.expect(200);
    let replace = format!("/v1/cards/{}/replace", id(&cards[1]));
    tenant.post(&replace, &json!({})).await.expect(201);
    let plan = format!("{subscription}/plan");
    for to in ["enterprise", "pro"] {
        let changed = landlord.put(&plan, &json!({ "plan": to })).await;
        changed.expect(200);
    }
    let yes = json!({ "value": true });
    let export = format!("{subscription}/features/export_csv");
    landlord.put(&export, &yes).await.expect(200);
    landlord.delete(&export).await;
    let branding = format!("{subscription}/features/custom_branding");
    landlord.put(&branding, &yes).await.expect(200);
    let suspend = format!("{subscription}/suspend");
    landlord.put(&suspend, &json!({})).await.expect(200);
    tenant
}

const TENANT: &str = "0199aaaa-0000-7000-8000-00000000beef";

/// A tenant of whom only messages exist: it starts, and is issued so many cards.
fn heard_of(cards: usize) -> Vec<Published> {
    let time = now().to_rfc3339();
    let plan = json!({ "plan": { "key": "pro", "version": 1, "price_level": 1, "rank": 1 } });
    let started = message(TENANT, 1, "subscription.started.v1", &time, &plan);
    let issued = (2..cards + 2)
        .map(|sequence| message(TENANT, sequence, "card.issued.v1", &time, &json!({})));
    std::iter::once(started).chain(issued).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bill_from_messages_equals_the_recount_of_the_ledgers() {
    let url = virtual_host();
    let mut service = Service::start_with(publishing_to(&url));
    let mut tenants = Vec::new();
    for plan in ["free", "pro", "enterprise"] {
        tenants.push(eventful(&service, plan).await);
    }
    for tenant in &tenants {
        let republish = format!("/v1/landlord/tenants/{}/republish", tenant.id());
        let half = json!({ "from": 6 });
        let asked = service.landlord().post(&republish, &half).await;
        asked.expect(200);
        published(&service, tenant).await;
    }
    let biller = Biller::of(&url);
    let billed = biller.report(&[]).done();
    service.terminate();
    service.stopped();
    let recount = recount(&service);
    assert_eq!(billed.lines, recount.lines, "{}", billed.notes);
    for tenant in &tenants {
        let quantity = |charge| billed.quantity(tenant.id(), charge);
        assert_eq!(quantity("cards_issued"), (5, true));
        assert_eq!(quantity("peak_in_circulation"), (4, true));
        assert_eq!(quantity("plan_days"), (1, true));
        assert_eq!(quantity("add_on_days"), (1, true));
    }
    assert!(!billed.notes.contains("repeated: 0"), "{}", billed.notes);
    let queue = BillingQueue::at(&url).await;
    assert!(queue.take().await.is_none(), "all is acknowledged");
    let of_one = biller.report(&["--tenant", tenants[0].id()]).done().lines;
    let mut lines = of_one.lines().skip(1);
    assert!(lines.all(|line| line.starts_with(tenants[0].id())));
    assert!(of_one.lines().count() > 4, "{of_one}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_biller_killed_in_the_middle_bills_nothing_twice() {
    const CARDS: usize = 6_000;
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let biller = Biller::of(&url);
    queue.publish(&heard_of(CARDS)).await;
    let mut chance = Chance::of("BILLING_SEED");
    let mut kept = 0;
    for _ in 0..5 {
        let mut child: Child = biller.command(&[]).spawn().expect("the binary starts");
        let enough = kept + 1 + usize::try_from(chance.below(1_000)).expect("small");
        eventually("some messages are kept", || async {
            (biller.kept().await >= enough).then_some(())
        })
        .await;
        child.kill().expect("killed");
        child.wait().expect("gone");
        kept = biller.kept().await;
    }
    assert!(kept <= CARDS, "it was killed in the middle: {kept}");
    let report = biller.report(&[]).done();
    assert_eq!(report.quantity(TENANT, "cards_issued"), (CARDS, true));
    let peak = report.quantity(TENANT, "peak_in_circulation");
    assert_eq!(peak, (CARDS, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_somebody_else_takes_from_is_not_billed() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let other = Reader::at(&url, "digital-card.billing".to_owned()).await;
    queue.publish(&heard_of(10)).await;
    let biller = Biller::of(&url);
    for arguments in [&[][..], &["--follow"]] {
        let report = biller.report(arguments).in_doubt("has 1 other consumers");
        assert_eq!(report.lines, "", "no bill is made of a part");
    }
    assert_eq!(biller.kept().await, 0);
    drop(other);
    let report = biller.report(&[]).done();
    assert_eq!(report.quantity(TENANT, "cards_issued"), (10, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_ends_though_messages_go_on_coming() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let messages = heard_of(20_000);
    let (waiting, coming) = messages.split_at(300);
    queue.publish(waiting).await;
    let biller = Biller::of(&url);
    let mut child = biller.command(&["--idle-s", "5"]).spawn().expect("starts");
    let deadline = Instant::now() + DEADLINE;
    let mut coming = coming.iter();
    let ended = loop {
        let next = coming
            .next()
            .expect("more than can be published until then");
        queue.publish(std::slice::from_ref(next)).await;
        if let Some(status) = child.try_wait().expect("it is known") {
            break status.success();
        }
        assert!(Instant::now() < deadline, "it goes on");
    };
    assert!(ended);
    assert!(biller.kept().await >= waiting.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_ends_among_the_dead_letters_and_the_rest_flows_on() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let biller = Biller::of(&url);
    let messages = heard_of(10);
    let mut broken = messages.clone();
    broken[4].body = "{\"holder\": \"Ada Lovelace\"".to_owned();
    queue.publish(&broken).await;
    let report = biller.report(&[]);
    let told = format!("message \"{TENANT}/5\" was rejected: the envelope: line 1");
    let report = report.in_doubt(&told).in_doubt("rejected messages: 1");
    assert!(!report.notes.contains("Lovelace"), "{}", report.notes);
    assert_eq!(report.quantity(TENANT, "cards_issued"), (9, false));
    eventually("the biller sees that there is a dead letter", || async {
        let report = biller.report(&[]);
        report.notes.contains("dead letters: 1").then_some(())
    })
    .await;
    assert_eq!(queue.dead_letters().await, [messages[4].id.as_str()]);

    // Published again, as it should have been, it heals the bill.
    queue.publish(&messages[4..5]).await;
    let healed = biller.report(&[]).done();
    assert!(
        healed.notes.contains("new: 1 (late: 1)"),
        "{}",
        healed.notes
    );
    assert_eq!(healed.quantity(TENANT, "cards_issued"), (10, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rejected_of_others_is_not_held_against_a_tenant_and_can_be_forgotten() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let mut messages = heard_of(3);
    let others = [
        format!("{}/7", TENANT.replace("beef", "cafe")),
        "nobody/1".to_owned(),
    ];
    let broken = others.each_ref().map(|id| Published {
        name: "card.issued.v1".to_owned(),
        id: id.clone(),
        body: "{}".to_owned(),
    });
    messages.extend(broken);
    queue.publish(&messages).await;
    let biller = Biller::of(&url);
    let told = |id: &str| format!("message {id:?} was rejected");
    let report = biller.report(&[]).in_doubt("rejected messages: 2");
    let report = report
        .in_doubt(&told(&others[0]))
        .in_doubt(&told("nobody/1"));
    assert_eq!(report.quantity(TENANT, "cards_issued"), (3, true));
    let of_one = biller.report(&["--tenant", TENANT]).done();
    assert!(of_one.notes.contains(&told("nobody/1")), "{}", of_one.notes);
    assert!(
        !of_one.notes.contains(&told(&others[0])),
        "{}",
        of_one.notes
    );
    eventually("they are dead letters", || async {
        let report = biller.report(&["--tenant", TENANT]).done();
        report.notes.contains("holds 2 messages").then_some(())
    })
    .await;
    assert_eq!(queue.dead_letters().await, others);
    biller.report(&[]).in_doubt("rejected messages: 2");
    let report = biller.report(&["--forget-rejected"]).done();
    let forgotten = format!("forgotten: {}", told("nobody/1"));
    assert!(report.notes.contains(&forgotten), "{}", report.notes);
    biller.report(&[]).done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_and_says_something_else_is_a_doubt() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let (time, name) = (now().to_rfc3339(), "card.issued.v1");
    let mut messages = heard_of(1);
    messages.push(message(TENANT, 3, name, &time, &json!({})));
    queue.publish(&messages).await;
    // The same to a bill: a newer publisher says more about it.
    let more = json!({ "more": true });
    queue
        .publish(&[message(TENANT, 3, name, &time, &more)])
        .await;
    let biller = Biller::of(&url);
    let report = biller.report(&[]).done();
    let counted = "repeated: 1 (saying something else: 0)";
    assert!(report.notes.contains(counted), "{}", report.notes);

    let earlier = (now() - TimeDelta::hours(1)).to_rfc3339();
    queue
        .publish(&[message(TENANT, 3, name, &earlier, &json!({}))])
        .await;
    let told = "message 3 came again and said something else";
    let report = biller.report(&[]).in_doubt(told);
    assert_eq!(report.quantity(TENANT, "cards_issued"), (2, false));
    biller.report(&["--report-only"]).in_doubt(told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_breaks_its_consumer_too_often_ends_among_the_dead_letters() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let messages = heard_of(3);
    queue.publish(&messages).await;
    let first = messages[0].id.as_str();
    let mut given_back = 0;
    while given_back < DELIVERY_LIMIT {
        let id = queue.give_back().await.expect("a message");
        given_back += usize::from(id == first);
    }
    // Its last chance is the biller's, which does not touch it but says so.
    let biller = Biller::of(&url);
    let told = format!("message \"{first}\" was rejected: handed out 20 times in vain");
    let report = biller.report(&[]).in_doubt(&told);
    let report = report.in_doubt(&format!("tenant {TENANT}: messages are missing before 2"));
    assert_eq!(report.quantity(TENANT, "cards_issued"), (3, false));
    eventually("it is a dead letter", || async {
        let dead = queue.dead_letters().await;
        (!dead.is_empty()).then(|| assert_eq!(dead, [first]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_too_often_the_broker_itself_buries_and_the_rest_flows_on() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let messages = heard_of(3);
    // Not the first, which would be missed by itself.
    let (first, second) = (&messages[..1], &messages[1..2]);
    queue.publish(second).await;
    for _ in 0..=DELIVERY_LIMIT {
        queue.give_back().await.expect("a message");
    }
    queue.publish(first).await;
    queue.publish(&messages[2..]).await;
    // The rest flows on. Which message is missing nobody knows, so it may be anybody's.
    let biller = Biller::of(&url);
    let told = "dead letters: 1";
    eventually("the biller sees that there is a dead letter", || async {
        biller.report(&[]).notes.contains(told).then_some(())
    })
    .await;
    for arguments in [&[][..], &["--tenant", TENANT], &["--report-only"]] {
        let report = biller.report(arguments).in_doubt(told);
        assert_eq!(report.quantity(TENANT, "cards_issued"), (2, false));
    }
    assert!(queue.take().await.is_none(), "all is acknowledged");
    assert_eq!(queue.dead_letters().await, [second[0].id.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_this_biller_does_not_know_is_kept_and_told() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    let mut messages = heard_of(2);
    let (time, data) = (now().to_rfc3339(), json!({ "new": true }));
    let newer = ["subscription.renamed.v1", "card.issued.v2"];
    for (sequence, name) in (4..).zip(newer) {
        messages.push(message(TENANT, sequence, name, &time, &data));
    }
    queue.publish(&messages).await;
    let biller = Biller::of(&url);
    let report = biller.report(&[]);
    let report = newer.into_iter().fold(report, |report, name| {
        report.in_doubt(&format!("is of the type {name}, which this program"))
    });
    assert_eq!(report.quantity(TENANT, "cards_issued"), (2, false));
    assert_eq!(biller.kept().await, 5);
    assert!(queue.take().await.is_none(), "all is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_following_biller_outlives_the_broker_and_can_be_asked_meanwhile() {
    let broker = Broker::start();
    let queue = BillingQueue::declared(&broker.url()).await;
    let biller = Biller::of(&broker.url());
    let messages = heard_of(40);
    let (before, after) = messages.split_at(20);
    queue.publish(before).await;
    let following = biller.command(&["--follow"]).spawn().expect("it starts");
    let kept = |count: usize| {
        let biller = &biller;
        eventually("the messages are kept", move || async move {
            (biller.kept().await == count).then_some(())
        })
    };
    kept(20).await;
    let second = biller.report(&[]);
    second.in_doubt("in use by another biller");
    settle().await;
    broker.crash();
    let meanwhile = biller.report(&["--report-only"]).done();
    assert_eq!(meanwhile.quantity(TENANT, "cards_issued"), (19, true));
    broker.start_again();
    eventually("the queue is back", || async {
        let queue = BillingQueue::at(&broker.url()).await;
        queue.try_publish(after).await.then_some(())
    })
    .await;
    kept(41).await;
    terminate(following);
    let report = biller.report(&["--report-only"]).done();
    assert_eq!(report.quantity(TENANT, "cards_issued"), (40, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_in_a_line_without_the_password() {
    let url = virtual_host();
    let written = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(written.path(), format!("{url}\n")).expect("written");
    let closed = "amqp://guest:opensesame@127.0.0.1:1".to_owned();
    let refused = url.replace("guest:guest", "guest:opensesame");
    for (address, why) in [
        (url, "no queue digital-card.billing"),
        (refused, "ACCESS_REFUSED"),
        (closed, "Connection refused"),
        ("opensesame".to_owned(), "AMQP_URL: must be amqp://"),
    ] {
        let report = Biller::of(&address).report(&[]).in_doubt(why);
        let said = report.notes + &report.lines;
        assert!(!said.contains("opensesame"), "{said}");
    }
    let biller = Biller::of("");
    let mut by_file = about_today(&biller.file(), &[]);
    by_file.env("AMQP_URL_FILE", written.path());
    Report::of(by_file).in_doubt("no queue digital-card.billing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_biller_takes_messages_from_an_encrypted_broker_if_its_authority_vouches_for_it() {
    let queue = BillingQueue::declared(&virtual_host()).await;
    drop(queue);
    let biller = Biller::of(&BROKER.tls_url());
    let distrusted = biller.report(&[]);
    distrusted.in_doubt("the broker: connecting");
    BillingQueue::declared(&BROKER.url()).await;
    let mut trusting = biller.command(&[]);
    trusting.env("AMQP_CA_FILE", BROKER.authority());
    let report = Report::of(trusting);
    assert!(report.notes.contains("messages: new: "), "{}", report.notes);
}

#[test]
fn what_cannot_be_billed_is_refused() {
    let biller = Biller::of("amqp://127.0.0.1:1");
    let mut unbegun = command();
    let (from, to) = (now().date_naive(), now().date_naive() + Days::new(3));
    unbegun.args(["billing-report", "--report-only"]).args([
        "--from",
        &from.to_string(),
        "--to",
        &to.to_string(),
    ]);
    Report::of(unbegun).in_doubt("--to: must not be later than");
    let missing = biller.report(&["--report-only"]);
    missing.in_doubt("billing.db: No such file");
    std::fs::write(biller.file(), "not a database".repeat(1_000)).expect("written");
    biller.report(&["--report-only"]).in_doubt("not a database");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_another_language_needs_nothing_but_the_messages() {
    let url = virtual_host();
    let Some(python) = python() else {
        eprintln!("no Python with pika: the foreign client is not tried");
        return;
    };
    let service = Service::start_with(publishing_to(&url));
    let tenant = eventful(&service, "pro").await;
    published(&service, &tenant).await;
    let queue = BillingQueue::at(&url).await;
    queue.publish(&heard_of(7)).await;
    queue.publish(&heard_of(7)[3..]).await;
    let directory = tempfile::tempdir().expect("a directory");
    let script = crate::house::root().join("tests/consumers/billing.py");
    let mut client = Command::new(python);
    client
        .arg(script)
        .arg(&url)
        .arg(directory.path().join("seen"));
    let report = Report::of(client).done();
    let counted = format!("{TENANT},7\n{},5\n", tenant.id());
    assert_eq!(report.lines, counted, "{}", report.notes);
    assert!(queue.take().await.is_none(), "all is acknowledged");
}

/// A Python that has pika.
fn python() -> Option<&'static str> {
    let has = |python: &&str| {
        let asked = Command::new(python).args(["-c", "import pika"]).output();
        asked.is_ok_and(|asked| asked.status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has)
}

/// The lines as people read them.
#[tokio::test(flavor = "multi_thread")]
async fn the_lines_are_also_text() {
    let url = virtual_host();
    let queue = BillingQueue::declared(&url).await;
    queue.publish(&heard_of(2)).await;
    let biller = Biller::of(&url);
    biller.report(&[]).done();
    let today = now().date_naive();
    let (from, to) = (today, today + Days::new(1));
    let mut text = command();
    text.args(["billing-report", "--report-only", "--file"])
        .arg(biller.file())
        .args(["--from", &from.to_string(), "--to", &to.to_string()]);
    let report = Report::of(text).done();
    let expected = format!(
        "{from} to {to} (UTC)\ntenant {TENANT}\n  \
         plan_days                    1  pro (level 1)\n  \
         cards_issued                 2\n  \
         peak_in_circulation          2\n"
    );
    assert_eq!(report.lines, expected, "{}", report.notes);
    let extent = format!("tenant {TENANT}: messages up to 3, of {today}T");
    assert!(report.notes.contains(&extent), "{}", report.notes);
}
