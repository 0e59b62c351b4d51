//! A tenant carried from one service to another: by a file, or with the whole data directory.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::recount::{everything_agrees, ndjson, verify};
use crate::support::service::{command, run};
use crate::support::store::Directory;
use crate::support::{Answer, Client, Options, Service, Store, unique};

/// Where a service is that tenants come to.
struct Destination(Arc<Store>);

impl Destination {
    fn new() -> Self {
        Self(Arc::new(Store::new()))
    }

    fn import(&self, file: &Path) -> (ExitStatus, String) {
        let import = ["tenants", "import", "--store", &self.0.url()];
        run(command().args(import).arg(file))
    }

    #[track_caller]
    fn imports(&self, file: &Path) -> String {
        let (status, said) = self.import(file);
        assert!(status.success(), "{said}");
        said
    }

    #[track_caller]
    fn refuses(&self, file: &Path, says: &str) {
        let (status, said) = self.import(file);
        assert!(!status.success(), "{said}");
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 1, "one clear line: {said}");
        assert!(said.contains(says), "{says}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }

    fn serve(&self) -> Service {
        Service::node_of(&self.0, Options::default())
    }
}

fn export(service: &Service, tenant: &str, file: &Path) -> (ExitStatus, String) {
    let export = [
        "tenants",
        "export",
        "--store",
        &service.store().url(),
        tenant,
    ];
    run(command().args(export).arg(file))
}

/// A request and its answer, to be repeated elsewhere.
struct Asked {
    path: &'static str,
    key: String,
    body: Value,
    answer: Answer,
}

impl Asked {
    async fn by(client: &Client, path: &'static str, body: Value) -> Self {
        let key = unique("asked");
        let answer = client.post_once(path, &key, &body).await;
        answer.expect(201);
        Self {
            path,
            key,
            body,
            answer,
        }
    }

    /// The same request has the same answer, and happens once; but a tenant is where it is now.
    async fn again(&self, client: &Client) {
        let again = client.post_once(self.path, &self.key, &self.body).await;
        assert!(again.expect(201).is_replayed(), "{again}");
        let [mut again, mut first] = [again.json(), self.answer.json()];
        for answer in [&mut again, &mut first] {
            if let Some(fields) = answer.as_object_mut() {
                fields.remove("shard");
            }
        }
        assert_eq!(again, first);
    }
}

/// A tenant with cards in several states, on a stopped service.
struct Lived {
    service: Service,
    tenant: Client,
    issued: Asked,
    key_made: Asked,
    history: String,
}

/// What the tenant's exported file has in it.
fn exported(lived: &Lived) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tenant.ndjson");
    let (status, said) = export(&lived.service, lived.tenant.id(), &file);
    assert!(status.success(), "{said}");
    fs::read_to_string(&file).expect("a file")
}

async fn lived_in() -> Lived {
    let mut service = Service::start();
    let tenant = service.tenant("enterprise").await;
    let body = json!({ "holder": { "name": "Zoë \"Ω\" \u{1f4b3}" } });
    let issued = Asked::by(&tenant, "/v1/cards", body).await;
    let feature = format!(
        "/v1/landlord/tenants/{}/subscription/features/api_access",
        tenant.id()
    );
    let granted = service
        .landlord()
        .put(&feature, &json!({ "value": true }))
        .await;
    granted.expect(200);
    let body = json!({ "role": "tenant_viewer", "name": "for reading" });
    let key_made = Asked::by(&tenant, "/v1/api-keys", body).await;
    for (nth, verb) in ["suspend", "revoke"].iter().enumerate() {
        let card = tenant.issue_active(&format!("Carried {nth}")).await;
        tenant.change(&card, verb).await.expect(200);
    }
    let path = format!("/v1/cards/{}/replace", issued.answer.text("id"));
    tenant.post(&path, &json!({})).await.expect(201);
    let history = ndjson(&service, tenant.id()).await;
    service.terminate();
    service.stopped();
    Lived {
        service,
        tenant,
        issued,
        key_made,
        history,
    }
}

/// Everything is on the new service as it was on the old one, and life goes on.
async fn has_moved(lived: &Lived, new: &Service) {
    let tenant = lived.tenant.clone().at(new.base());
    assert_eq!(ndjson(new, tenant.id()).await, lived.history);
    everything_agrees(new, &tenant).await;
    lived.issued.again(&tenant).await;
    lived.key_made.again(&tenant).await;
    let viewer = new.client(lived.key_made.answer.text("api_key"));
    viewer.get("/v1/cards").await.expect(200);
    for nth in 0..50 {
        tenant.issue(&format!("After {nth}")).await;
    }
    let cards = tenant.all("/v1/cards?limit=500").await;
    let mut numbers: Vec<_> = cards.iter().map(|card| card["number"].as_str()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), cards.len(), "a card number was given twice");
    everything_agrees(new, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_tenant_lives_on_where_it_is_imported() {
    let lived = lived_in().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tenant.ndjson");
    let (status, said) = export(&lived.service, lived.tenant.id(), &file);
    assert!(status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let files = fs::read_dir(directory.path()).expect("listed").count();
    assert_eq!(files, 1, "nothing else is left");

    let text = fs::read_to_string(&file).expect("a file");
    assert!(!text.contains(lived.tenant.key()), "a secret is in it");
    let (verified, said) = verify(&text);
    assert!(verified, "{said}");
    let events = lived.history.lines().count();
    assert!(said.contains(&format!("{events} events")), "{said}");

    let without_end = text.trim_end().rsplit_once('\n').expect("lines").0;
    let renamed = text.replacen("Carried 1", "Carried 2", 1);
    for (changed, says) in [(without_end, "cut off"), (&renamed, "does not cover")] {
        let (verified, said) = verify(changed);
        assert!(!verified && said.contains(says), "{says}: {said}");
    }

    let destination = Destination::new();
    let said = destination.imports(&file);
    assert!(said.contains(&format!("{events} events")), "{said}");
    // Again, before and after it has served: nothing more happens.
    assert!(destination.imports(&file).contains("here already"));
    let mut new = destination.serve();
    has_moved(&lived, &new).await;
    new.terminate();
    new.stopped();
    assert!(destination.imports(&file).contains("here already"));

    // The old service has moved on meanwhile: that is another history.
    let mut service = lived.service;
    service.restart();
    let tenant = lived.tenant.clone().at(service.base());
    tenant.issue("Left behind").await;
    service.terminate();
    service.stopped();
    let (status, said) = export(&service, lived.tenant.id(), &file);
    assert!(status.success(), "{said}");
    destination.refuses(&file, "another history");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_exported_by_its_slug_through_a_pipe() {
    let lived = lived_in().await;
    let record = lived.history.lines().next().expect("an event").to_owned();
    let (status, said) = export(&lived.service, "nobody", Path::new("-"));
    assert!(!status.success() && said.contains("nobody"), "{said}");
    let (status, said) = export(&lived.service, lived.tenant.id(), Path::new("-"));
    assert!(status.success(), "{said}");
    assert!(said.contains(&record), "{said}");
    let header = said.lines().find(|line| line.contains("\"slug\""));
    let header: Value = serde_json::from_str(header.expect("a header")).expect("JSON");
    let slug = header["tenant"]["slug"].as_str().expect("a slug");
    let (status, _) = export(&lived.service, slug, Path::new("/dev/null/no"));
    assert!(!status.success());
    let (status, by_slug) = export(&lived.service, slug, Path::new("-"));
    assert!(status.success());
    assert!(by_slug.contains(&record), "{by_slug}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_answers_has_nothing_of_a_holder() {
    let lived = lived_in().await;
    let whole = exported(&lived);
    let answers: Vec<_> = whole
        .lines()
        .filter(|line| line.starts_with("{\"outcome\""))
        .collect();
    let issued = lived.issued.answer.text("id").to_owned();
    assert!(answers.iter().any(|line| line.contains(&issued)));
    for line in answers {
        assert!(!line.contains("holder") && !line.contains("Zoë"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_whole_is_refused_and_nothing_is_left() {
    let lived = lived_in().await;
    let whole = exported(&lived);
    let directory = tempfile::tempdir().expect("a directory");
    let lines: Vec<_> = whole.lines().collect();
    let without = |nth: usize| {
        let mut lines = lines.clone();
        lines.remove(nth);
        lines.join("\n")
    };
    let swapped = {
        let mut lines = lines.clone();
        lines.swap(3, 4);
        lines.join("\n")
    };
    let end = lines.len() - 1;
    let destination = Destination::new();
    for (what, text, says) in [
        ("empty", String::new(), "not an exported tenant"),
        (
            "a download",
            lived.history.clone(),
            "not an exported tenant",
        ),
        ("without its end", without(end), "cut off"),
        (
            "cut in a line",
            format!("{}\n{{\"posit", lines[..4].join("\n")),
            "cut off",
        ),
        ("without an event", without(2), "position 3 where 2 must be"),
        ("without the first outcome", without(end - 2), "was changed"),
        ("events swapped", swapped, "position 4 where 3"),
        (
            "another name",
            whole.replacen("Carried 1", "Carried 2", 1),
            "does not cover",
        ),
        (
            "another outcome",
            whole.replacen(
                "{\"outcome\":{\"key\":\"tenant:",
                "{\"outcome\":{\"key\":\"other:",
                1,
            ),
            "was changed",
        ),
        (
            "a key of the landlord",
            whole.replacen("tenant_viewer", "landlord", 1),
            "cannot be this tenant's",
        ),
        (
            "a later version",
            whole.replacen("\"version\":1", "\"version\":2", 1),
            "version is 2",
        ),
        ("more after its end", format!("{whole}{{}}\n"), "more after"),
        (
            "something else",
            "hello\n".repeat(3),
            "not an exported tenant",
        ),
    ] {
        assert_ne!(text, whole, "{what}");
        let bad = directory.path().join("bad.ndjson");
        fs::write(&bad, &text).expect("written");
        destination.refuses(&bad, says);
    }
    destination.refuses(Path::new("/nowhere/at/all"), "/nowhere/at/all");
    let new = destination.serve();
    assert!(new.landlord().all("/v1/landlord/tenants").await.is_empty());
    new.client(lived.tenant.key())
        .get("/v1/cards")
        .await
        .expect(401);
    drop(new);
    let file = directory.path().join("tenant.ndjson");
    fs::write(&file, &whole).expect("written");
    destination.imports(&file);
    has_moved(&lived, &destination.serve()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_is_taken_and_a_directory_in_use_are_refused() {
    let lived = lived_in().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tenant.ndjson");
    let (status, said) = export(&lived.service, lived.tenant.id(), &file);
    assert!(status.success(), "{said}");
    let text = fs::read_to_string(&file).expect("a file");
    let header: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let slug = header["tenant"]["slug"].as_str().expect("a slug");
    let destination = Destination::new();
    let mut new = destination.serve();
    let body = json!({ "name": "First", "slug": slug, "plan": "free" });
    let taken = new.landlord().post("/v1/landlord/tenants", &body).await;
    taken.expect(201);
    match &*destination.0 {
        Store::Directory(_) => destination.refuses(&file, "in use by another"),
        // Also a running service's.
        Store::Database(_) => destination.refuses(&file, "slug"),
    }
    new.terminate();
    new.stopped();
    destination.refuses(&file, "slug");
}

#[tokio::test]
async fn the_catalogue_comes_with_a_whole_data_directory_unless_there_is_another() {
    let source = Directory::new();
    let data = source.path();
    let mut service = Service::node_of(&Arc::new(Store::Directory(source)), Options::default());
    let landlord = service.landlord();
    let plan = json!({ "price_level": 1, "rank": 5, "features": { "max_cards": 7 } });
    let path = "/v1/landlord/plans/tiny";
    landlord.put(path, &plan).await.expect(200);
    let kill = "/v1/landlord/features/cards.stats/kill-switch";
    let killed = landlord.put(kill, &json!({ "reason": "slow" })).await;
    let shown = landlord.get(path).await.json();
    service.terminate();
    service.stopped();

    let destination = Destination::new();
    assert!(
        destination
            .imports(&data)
            .contains("imported: the catalogue")
    );
    assert!(!destination.imports(&data).contains("the catalogue"));
    let mut new = destination.serve();
    assert_eq!(new.landlord().get(path).await.json(), shown);
    let feature = new
        .landlord()
        .get("/v1/landlord/features/cards.stats")
        .await;
    assert_eq!(feature.json(), killed.json());
    new.landlord().delete(kill).await.expect(200);
    new.terminate();
    new.stopped();
    let said = destination.imports(&data);
    assert!(said.contains("the catalogue here was changed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_data_directory_is_imported_and_again() {
    let source = Directory::new();
    let data = source.path();
    let source = Arc::new(Store::Directory(source));
    let mut service = Service::node_of(&source, Options::default());
    let mut tenants = Vec::new();
    for plan in ["free", "pro", "enterprise"] {
        let tenant = service.tenant(plan).await;
        let body = json!({ "holder": { "name": "Moved" }, "activate": true });
        let issued = Asked::by(&tenant, "/v1/cards", body).await;
        tenants.push((tenant, issued));
    }
    let auditor = service.with_role("auditor", None).await;
    let body = json!({ "name": "Late", "slug": unique("late"), "plan": "pro" });
    let late = Asked::by(&service.landlord(), "/v1/landlord/tenants", body).await;
    let destination = Destination::new();
    destination.refuses(&data, "in use by another");
    service.terminate();
    service.stopped();
    let nothing = tempfile::tempdir().expect("a directory");
    destination.refuses(nothing.path(), "not the data directory");

    // One that is broken is named; the others come.
    let broken = data
        .join("tenants")
        .join(format!("{}.db", tenants[0].0.id()));
    let kept = fs::read(&broken).expect("a file");
    fs::write(&broken, "not a database".repeat(1_000)).expect("broken");
    let (status, said) = destination.import(&data);
    assert!(!status.success(), "{said}");
    assert!(said.contains("1 of 4 tenants failed"), "{said}");
    let of_broken: Vec<_> = said
        .lines()
        .filter(|line| line.contains(tenants[0].0.id()))
        .collect();
    assert_eq!(of_broken.len(), 1, "{said}");

    fs::write(&broken, kept).expect("mended");
    let said = destination.imports(&data);
    assert_eq!(said.matches("here already").count(), 3, "{said}");
    assert_eq!(said.matches("imported").count(), 1, "{said}");

    let new = destination.serve();
    for (tenant, issued) in &tenants {
        let tenant = tenant.clone().at(new.base());
        issued.again(&tenant).await;
        everything_agrees(&new, &tenant).await;
        tenant.issue("After").await;
    }
    let path = format!("/v1/audit/tenants/{}/events", tenants[0].0.id());
    auditor.at(new.base()).get(&path).await.expect(200);
    late.again(&new.landlord()).await;
    assert_eq!(new.landlord().all("/v1/landlord/tenants").await.len(), 4);
}
