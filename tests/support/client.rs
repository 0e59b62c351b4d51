//! A small client: one method a verb, answers that say what they were when they surprise.

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::unique;

/// A client with a key (or none).
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    /// The tenant's id, where the key has one and the test knows it.
    tenant: Option<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub asked: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(base: &str, key: Option<&str>) -> Self {
        Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client"),
            base: base.to_owned(),
            key: key.map(str::to_owned),
            tenant: None,
        }
    }

    pub fn of_tenant(mut self, id: &str) -> Self {
        self.tenant = Some(id.to_owned());
        self
    }

    /// The same client after the service came back on another port.
    pub fn at(mut self, base: &str) -> Self {
        self.base = base.to_owned();
        self
    }

    pub fn id(&self) -> &str {
        self.tenant.as_deref().expect("a tenant's client")
    }

    pub fn key(&self) -> &str {
        self.key.as_deref().expect("a client with a key")
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// A command under an idempotency key of its own.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_once(path, &unique("key"), body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.put_once(path, &unique("key"), body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// A command under this idempotency key.
    pub async fn post_once(&self, path: &str, key: &str, body: &Value) -> Answer {
        send(self.command(Method::POST, path, key, body)).await
    }

    pub async fn put_once(&self, path: &str, key: &str, body: &Value) -> Answer {
        send(self.command(Method::PUT, path, key, body)).await
    }

    pub fn command(
        &self,
        method: Method,
        path: &str,
        key: &str,
        body: &Value,
    ) -> reqwest::RequestBuilder {
        self.request(method, path)
            .header("Idempotency-Key", key)
            .json(body)
    }

    /// A new card, as the answer shows it.
    pub async fn issue(&self, name: &str) -> Value {
        self.issue_as(&json!({ "holder": { "name": name } })).await
    }

    pub async fn issue_active(&self, name: &str) -> Value {
        self.issue_as(&json!({ "holder": { "name": name }, "activate": true }))
            .await
    }

    pub async fn issue_as(&self, body: &Value) -> Value {
        let answer = self.post("/v1/cards", body).await;
        answer.expect(201);
        answer.json()
    }

    /// A transition of a card: `suspend`, `revoke`…
    pub async fn change(&self, card: &Value, verb: &str) -> Answer {
        self.put(&format!("/v1/cards/{}/{verb}", id(card)), &json!({}))
            .await
    }

    pub async fn usage(&self) -> Value {
        self.get("/v1/usage").await.expect(200).json()
    }

    /// Every item of a list, page after page.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        let sign = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = match &cursor {
                Some(cursor) => self.get(&format!("{path}{sign}cursor={cursor}")).await,
                None => self.get(path).await,
            };
            let page = page.expect(200).json();
            items.extend(page["items"].as_array().expect("items").iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return items,
            }
        }
    }
}

/// The id of what an answer shows.
pub fn id(shown: &Value) -> &str {
    shown["id"].as_str().expect("an id")
}

/// Sends a request that must be answered.
pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    try_send(request).await.expect("an answer")
}

/// Sends a request to a service that may be gone.
pub async fn try_send(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let (client, request) = request.build_split();
    let request = request.expect("a request");
    let asked = format!("{} {}", request.method(), request.url());
    let response = client.execute(request).await?;
    Ok(Answer {
        asked,
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await?.to_vec(),
    })
}

impl Answer {
    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Fails unless this is a problem document of this status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        self.expect(status);
        let problem = self.any_problem();
        assert_eq!(problem["code"], code, "{self}");
        problem
    }

    /// Fails unless this is a whole problem document.
    #[track_caller]
    pub fn any_problem(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self}");
        for field in ["type", "title", "detail", "code", "request_id"] {
            let text = problem[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "no {field}: {self}");
        }
        problem
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// A field of the body that is a text.
    #[track_caller]
    pub fn text(&self, field: &str) -> &'static str {
        let json = self.json();
        let text = json[field].as_str();
        let text = text.unwrap_or_else(|| panic!("no {field}: {self}"));
        // Tests are short: what one reads may stay until it ends.
        Box::leak(text.to_owned().into_boxed_str())
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name}: {self}"))
            .to_str()
            .expect("a readable header")
    }

    pub fn is_replayed(&self) -> bool {
        self.headers
            .get("idempotent-replayed")
            .is_some_and(|value| value == "true")
    }

    /// The `Ledger-Position`.
    #[track_caller]
    pub fn position(&self) -> u64 {
        self.header("ledger-position").parse().expect("a position")
    }

    /// The version in the `ETag`.
    #[track_caller]
    pub fn version(&self) -> u64 {
        let tag = self.header("etag");
        let version = tag
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        version
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("the ETag is {tag}, not a quoted version: {self}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        let shown: String = body.chars().take(2000).collect();
        write!(f, "{} answered {}: {shown}", self.asked, self.status)
    }
}
