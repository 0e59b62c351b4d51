//! The real binary as a child process on a store of its own, or one node of several on one store.
//!
//! Its output is kept, for the tests that read it and for the failure messages of the others.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::Client;
use super::{DEADLINE, Store, unique};

/// The landlord's key of every service the tests start.
pub const LANDLORD_KEY: &str = "landlord-key-of-the-tests-0123456789abcdef";

/// How a service is started; what is not said is the default.
#[derive(Clone, Default)]
pub struct Options {
    /// Environment variables.
    pub variables: Vec<(&'static str, String)>,
    /// The way to its store, if it is another than the store's own.
    pub way: Option<String>,
}

impl Options {
    /// With this environment variable.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.variables.push((name, value.to_string()));
        self
    }

    /// Reaching its store at this address.
    pub fn by_way_of(mut self, url: String) -> Self {
        self.way = Some(url);
        self
    }
}

/// A running (or killed) service.
pub struct Service {
    process: Option<Process>,
    store: Arc<Store>,
    options: Options,
}

struct Process {
    child: Child,
    output: Arc<Output>,
    base: String,
}

impl Service {
    /// One service for all tests that need nothing of their own but a tenant. It lives as long
    /// as a test holds it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Service>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().expect("the shared service could be started");
        match shared.upgrade() {
            Some(service) => service,
            None => {
                let service = Arc::new(Self::start());
                *shared = Arc::downgrade(&service);
                service
            }
        }
    }

    /// A service of one's own, on an empty store.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// The same, with options.
    pub fn start_with(options: Options) -> Self {
        Self::node_of(&Arc::new(Store::new()), options)
    }

    /// A node on this store, which may have others.
    pub fn node_of(store: &Arc<Store>, options: Options) -> Self {
        let process = Process::start(store, &options);
        Self {
            process: Some(process),
            store: Arc::clone(store),
            options,
        }
    }

    /// A service that `arguments` start on this store, with nothing else configured.
    pub fn spawn(arguments: &[&str], store: &Arc<Store>) -> Self {
        let mut command = command();
        command
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--store", &store.url()]);
        Self {
            process: Some(Process::spawn(&mut command)),
            store: Arc::clone(store),
            options: Options::default(),
        }
    }

    /// A service that this command starts; where its data is, the command says.
    pub fn started_by(command: &mut Command) -> Self {
        Self {
            process: Some(Process::spawn(command)),
            store: Arc::new(Store::files()),
            options: Options::default(),
        }
    }

    /// Starts again on the same store.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "stop it first");
        self.process = Some(Process::start(&self.store, &self.options));
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("a running service");
        process.child.kill().expect("killed");
        process.child.wait().expect("gone");
    }

    /// Asks the service to stop (SIGTERM); it goes on until it has.
    pub fn terminate(&self) {
        let pid = Pid::from_raw(self.running().child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("signalled");
    }

    /// Waits until the service has stopped by itself; how, and what it had said by then.
    pub fn stopped(&mut self) -> (ExitStatus, String) {
        let mut process = self.process.take().expect("a running service");
        let status = wait_for(&mut process.child, DEADLINE).unwrap_or_else(|| {
            panic!(
                "the service did not stop; it said:\n{}",
                process.output.all()
            )
        });
        (status, process.output.all())
    }

    /// Where its data is.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// `http://127.0.0.1:12345`
    pub fn base(&self) -> &str {
        &self.running().base
    }

    /// `127.0.0.1:12345`
    pub fn address(&self) -> &str {
        self.base().trim_start_matches("http://")
    }

    /// Everything it has said so far.
    pub fn output(&self) -> String {
        self.running().output.all()
    }

    /// A client without a key.
    pub fn stranger(&self) -> Client {
        Client::new(self.base(), None)
    }

    /// A client with this key.
    pub fn client(&self, key: &str) -> Client {
        Client::new(self.base(), Some(key))
    }

    /// The landlord.
    pub fn landlord(&self) -> Client {
        self.client(LANDLORD_KEY)
    }

    /// A new tenant on this plan: its administrator.
    pub async fn tenant(&self, plan: &str) -> Client {
        let slug = unique("t");
        let body = serde_json::json!({ "name": "A tenant", "slug": slug, "plan": plan });
        let made = self.landlord().post("/v1/landlord/tenants", &body).await;
        made.expect(201);
        self.client(made.text("api_key")).of_tenant(made.text("id"))
    }

    /// A key of this role: its client. The tenant is for the roles that have one.
    pub async fn with_role(&self, role: &str, tenant: Option<&str>) -> Client {
        let mut body = serde_json::json!({ "role": role, "name": role });
        if let Some(tenant) = tenant {
            body["tenant"] = tenant.into();
        }
        let made = self.landlord().post("/v1/landlord/api-keys", &body).await;
        made.expect(201);
        self.client(made.text("api_key"))
    }

    /// What `/metrics` shows.
    async fn metrics(&self) -> String {
        let metrics = self.stranger().get("/metrics").await;
        String::from_utf8(metrics.expect(200).body.clone()).expect("UTF-8")
    }

    /// A gauge that `/metrics` shows, by its name and labels.
    pub async fn gauge(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics().await;
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        metrics.lines().find_map(value)
    }

    /// The sum of a counter that `/metrics` shows.
    pub async fn counted(&self, name: &str) -> u64 {
        let text = self.metrics().await;
        let of_counter = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        let value = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
        text.lines().filter(of_counter).filter_map(value).sum()
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running service")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
            if std::thread::panicking() {
                eprintln!("the service had said:\n{}", process.output.last(60));
            }
        }
    }
}

impl Process {
    fn start(store: &Store, options: &Options) -> Self {
        let store = options.way.clone().unwrap_or_else(|| store.url());
        Self::spawn(
            command()
                .args(["serve", "--listen", "127.0.0.1:0", "--store", &store])
                .env("LANDLORD_API_KEY", LANDLORD_KEY)
                .envs(options.variables.iter().cloned()),
        )
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let output = Output::of(&mut child);
        let Some(base) = output.wait_for_address() else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the service does not listen; it said:\n{}", output.all());
        };
        Self {
            child,
            output,
            base,
        }
    }
}

/// The binary, with nothing of the environment that could configure it.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_digital-card"))
}

/// Runs the binary to its end; its status and what it said.
pub fn run(command: &mut Command) -> (ExitStatus, String) {
    run_within(command, DEADLINE)
}

/// Runs the binary to its end, which takes longer than one thing may.
pub fn run_within(command: &mut Command, deadline: Duration) -> (ExitStatus, String) {
    let mut child = command.spawn().expect("the binary starts");
    let output = Output::of(&mut child);
    let Some(status) = wait_for(&mut child, deadline) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("it did not end; it said:\n{}", output.all());
    };
    output.wait_for_end();
    (status, output.all())
}

/// Waits until a process has ended; how, if it did in time.
pub fn wait_for(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < deadline {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    None
}

/// What a process says, as it says it.
#[derive(Default)]
struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    said: Vec<String>,
    ended: usize,
}

impl Output {
    fn of(child: &mut Child) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        Self::read(Arc::clone(&output), stdout);
        Self::read(Arc::clone(&output), stderr);
        output
    }

    fn read(output: Arc<Self>, pipe: impl Read + Send + 'static) {
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                output.lines.lock().expect("lines").said.push(line);
                output.changed.notify_all();
            }
            output.lines.lock().expect("lines").ended += 1;
            output.changed.notify_all();
        });
    }

    /// Waits for the line that says where the service listens.
    fn wait_for_address(&self) -> Option<String> {
        let address = |lines: &Lines| {
            lines.said.iter().find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                let end = rest.find(|c: char| c.is_whitespace() || c == '"');
                Some(rest[..end.unwrap_or(rest.len())].to_owned())
            })
        };
        let lines = self.lines.lock().expect("lines");
        let waits = |lines: &mut Lines| address(lines).is_none() && lines.ended < 2;
        let (lines, _) = self
            .changed
            .wait_timeout_while(lines, DEADLINE, waits)
            .expect("lines");
        address(&lines)
    }

    fn wait_for_end(&self) {
        let lines = self.lines.lock().expect("lines");
        let _ended = self
            .changed
            .wait_timeout_while(lines, DEADLINE, |lines| lines.ended < 2)
            .expect("lines");
    }

    fn all(&self) -> String {
        self.last(usize::MAX)
    }

    fn last(&self, count: usize) -> String {
        let lines = self.lines.lock().expect("lines");
        let skipped = lines.said.len().saturating_sub(count);
        lines.said[skipped..].join("\n")
    }
}
