//! Clients that take their time: cut off after the documented limits, and never at the expense
//! of others.

use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use crate::support::raw::{Connection, head};
use crate::support::{Client, Options, Service, eventually};

/// A service whose patience is a second each way.
fn impatient() -> Service {
    Service::start_with(
        Options::default()
            .with("HEADER_TIMEOUT_S", 1)
            .with("BODY_TIMEOUT_S", 1)
            .with("IDLE_TIMEOUT_S", 1)
            .with("WRITE_TIMEOUT_S", 1),
    )
}

/// The limits are a second; what is much longer was not cut off for its slowness.
const SOON: Duration = Duration::from_secs(6);

/// Sends a byte at a time, each well within any time limit between two bytes.
async fn drip(connection: &mut Connection, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut rhythm = tokio::time::interval(Duration::from_millis(100));
    for byte in bytes.iter().cycle() {
        rhythm.tick().await;
        if !connection.send([*byte]).await || begun.elapsed() > SOON {
            break;
        }
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let service = impatient();
    let mut silent = Connection::open(service.address()).await;
    assert!(silent.closed().await < SOON);

    let mut rests = Connection::open(service.address()).await;
    rests.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(rests.answer().await.expect("an answer").status, 200);
    assert!(rests.closed().await < SOON);
}

#[tokio::test]
async fn a_head_that_drips_is_cut_off() {
    let service = impatient();
    let mut connection = Connection::open(service.address()).await;
    connection.send("GET /healthz HTTP/1.1\r\nX-Drip: ").await;
    let took = drip(&mut connection, b"x").await;
    assert!(took < SOON, "still dripping after {took:?}");
}

#[tokio::test]
async fn a_body_that_drips_is_answered_408_and_cut_off() {
    let service = impatient();
    let tenant = service.tenant("free").await;
    let head = format!(
        "POST /v1/cards HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{{",
        tenant.key()
    );
    let mut connection = Connection::open(service.address()).await;
    connection.send(&head).await;
    let took = drip(&mut connection, b" ").await;
    assert!(took < SOON, "still dripping after {took:?}");

    let mut connection = Connection::open(service.address()).await;
    connection.send(&head).await;
    let answer = connection.answer().await.expect("an answer");
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.body.contains("request_timeout"), "{answer:?}");
    assert!(connection.closed().await < SOON);
}

#[tokio::test]
async fn a_reader_that_never_reads_is_cut_off() {
    let service = impatient();
    let tenant = service.tenant("pro").await;
    for index in 0..200 {
        tenant.issue(&format!("{index} {}", "x".repeat(190))).await;
    }
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_recv_buffer_size(4 * 1024)
        .expect("a small buffer");
    let address = service.address().parse().expect("an address");
    let mut connection = Connection::of(socket.connect(address).await.expect("connected"));
    let request = format!(
        "GET /v1/cards?limit=500 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        tenant.key()
    );
    // Far more answers than the buffers in between can hold.
    connection.send(request.repeat(200)).await;
    connections_fall_to(&service, 1).await;
    tenant.usage().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_do_not_starve_others() {
    let service = Service::start();
    let tenant = service.tenant("free").await;
    let mut slow = Vec::new();
    for index in 0..500 {
        let mut connection = Connection::open(service.address()).await;
        if index % 2 == 0 {
            connection.send("GET /healthz HTTP/1.1\r\nX-Slow: ").await;
        }
        slow.push(connection);
    }
    assert_served(&tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_full_of_slow_clients_serves_again_when_they_are_cut_off() {
    let service = Service::start_with(
        Options::default()
            .with("CONNECTIONS_MAX", 20)
            .with("HEADER_TIMEOUT_S", 1)
            .with("IDLE_TIMEOUT_S", 1),
    );
    let tenant = service.tenant("free").await;
    let mut slow = Vec::new();
    for _ in 0..60 {
        let mut connection = Connection::open(service.address()).await;
        connection.send("GET /healthz HTTP/1.1\r\nX-Slow: ").await;
        slow.push(connection);
    }
    let fresh = service.client(tenant.key());
    fresh.issue("After the crowd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_rest_make_room_for_others() {
    let service = Service::start_with(Options::default().with("CONNECTIONS_MAX", 20));
    let tenant = service.tenant("free").await;
    let mut slow = Vec::new();
    for index in 0..60 {
        let mut connection = Connection::open(service.address()).await;
        if index % 2 == 0 {
            connection.send("GET /healthz HTTP/1.1\r\nX-Slow: ").await;
        }
        slow.push(connection);
    }
    // Far sooner than a head's 10 seconds and a rest's 75.
    assert_served(&service.client(tenant.key())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_costs_one_connection_that_rests_not_all() {
    let service = Service::start_with(Options::default().with("CONNECTIONS_MAX", 10));
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut resting = Vec::new();
    for _ in 0..10 {
        let mut connection = Connection::open(service.address()).await;
        connection.send(request).await;
        connection.answer().await.expect("an answer");
        resting.push(connection);
    }
    service.stranger().get("/healthz").await.expect(200);
    let mut closed = 0;
    for mut connection in resting {
        connection.send(request).await;
        closed += u32::from(connection.answer().await.is_none());
    }
    assert_eq!(closed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_take_their_time_take_nobodys_place() {
    let service = Service::start_with(Options::default().with("REQUESTS_IN_FLIGHT_MAX", 10));
    let tenant = service.tenant("free").await;
    let extra = "Content-Type: application/json\r\nContent-Length: 5000\r\n";
    let head = head(&tenant, "POST /v1/cards HTTP/1.1", extra);
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut connection = Connection::open(service.address()).await;
        connection.send(format!("{head}{{")).await;
        slow.push(connection);
    }
    assert_served(&tenant).await;
}

async fn assert_served(tenant: &Client) {
    let begun = Instant::now();
    for index in 0..20 {
        tenant.issue(&format!("Served {index}")).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "20 cards took {took:?}");
}

/// Waits until the service counts no more than so many connections; the question is one.
async fn connections_fall_to(service: &Service, most: u64) {
    eventually("the connections are closed", || async {
        let open = service.gauge("http_connections").await?;
        (open <= most as f64).then_some(())
    })
    .await;
}
