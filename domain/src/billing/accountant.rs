//! A tenant's bill, made from what its published messages say.
//!
//! The accountant knows nothing of ledgers or subscriptions but what messages tell, as any biller
//! would. What it was not told it cannot bill. It says so where that can be seen: when the beginning
//! is missing, or something cannot have happened after what came before. A card whose message never
//! came is not missed, because sequences have gaps for all that billing is not told of.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};

use super::{Bill, BilledPlan, Period, days_touched};
use crate::card::Status;
use crate::catalogue::FeatureSlug;
use crate::ids::Position;
use crate::subscription::GrantKind;

/// How many doubts are kept a tenant; more are only counted.
const DOUBTS_KEPT: usize = 20;

/// What one message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the tenant's ledger.
    pub sequence: Position,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened.
    pub fact: Fact,
}

/// What matters to a bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The subscription began on this plan.
    Started(BilledPlan),
    /// It went over to this plan.
    PlanChanged(BilledPlan),
    /// A feature was granted beside the plan, in the place of an earlier grant of the same.
    Granted {
        /// Which.
        feature: FeatureSlug,
        /// On top of the plan, or in its place.
        kind: GrantKind,
        /// When it ends by itself.
        expires_at: Option<DateTime<Utc>>,
    },
    /// A grant was taken back.
    GrantRevoked(FeatureSlug),
    /// Service stopped.
    Suspended,
    /// Service resumed.
    Reinstated,
    /// Service ends, for good.
    Cancelled {
        /// When.
        ends_at: DateTime<Utc>,
    },
    /// A card went from one status to another; a new one comes from none.
    CardMoved {
        /// The status it had.
        from: Option<Status>,
        /// The status it has.
        to: Status,
    },
    /// Nothing that a bill depends on.
    WithoutEffect,
    /// Something of this type, which is not known here. It may matter.
    Unknown(String),
}

/// Why a bill may be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The first messages are missing: a ledger begins with its subscription.
    #[error("messages are missing before {0}")]
    Missing(Position),
    /// A type of message that is not known here.
    #[error("message {sequence} is of the type {name}, which this program does not know")]
    Unknown {
        /// Its place.
        sequence: Position,
        /// The type.
        name: String,
    },
    /// It came more than once, and not always said the same.
    #[error(
        "message {0} came again and said something else: is the ledger an older copy, restored?"
    )]
    Contradicted(Position),
    /// It cannot have happened after what came before it.
    #[error("message {0} does not fit what came before it")]
    Impossible(Position),
}

/// A bill, and how far it can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The bill.
    pub bill: Bill,
    /// The place of the last message that was seen; 0 if there is none.
    pub through: Position,
    /// The latest moment that any message told of.
    pub latest: Option<DateTime<Utc>>,
    /// Why it may be wrong: the first reasons.
    pub doubts: Vec<Doubt>,
    /// How many more reasons there are.
    pub doubts_more: u64,
}

/// Makes one tenant's bill for a period out of its messages, entered in order.
#[derive(Clone, Debug)]
pub struct Accountant {
    period: Period,
    account: Account,
    /// How far time has come in the subscription: what was in force until then is charged.
    served_until: DateTime<Utc>,
    /// How far time has come among the cards.
    cards_until: DateTime<Utc>,
    last: Position,
    service: Service,
    plan: Option<BilledPlan>,
    grants: BTreeMap<FeatureSlug, Grant>,
    in_circulation: u64,
    plan_days: BTreeMap<NaiveDate, BilledPlan>,
    suspended_days: BTreeSet<NaiveDate>,
    add_on_days: BTreeMap<FeatureSlug, BTreeSet<NaiveDate>>,
}

#[derive(Clone, Copy, Debug)]
enum Service {
    NotStarted,
    Given,
    Suspended,
    GivenUntil(DateTime<Utc>),
}

#[derive(Clone, Debug)]
struct Grant {
    kind: GrantKind,
    expires_at: Option<DateTime<Utc>>,
}

impl Accountant {
    /// Begins with empty books.
    pub fn new(period: Period) -> Self {
        Self {
            period,
            account: Account::default(),
            served_until: DateTime::UNIX_EPOCH,
            cards_until: DateTime::UNIX_EPOCH,
            last: 0,
            service: Service::NotStarted,
            plan: None,
            grants: BTreeMap::new(),
            in_circulation: 0,
            plan_days: BTreeMap::new(),
            suspended_days: BTreeSet::new(),
            add_on_days: BTreeMap::new(),
        }
    }

    /// Whether what comes later no longer matters, because it is after the period.
    pub fn is_over(&self) -> bool {
        self.served_until.min(self.cards_until) >= self.period.end()
    }

    /// Enters the next message. One that was entered before, or comes too late to be put in
    /// order, is passed over: what is missing was said when the next one came.
    pub fn enter(&mut self, entry: &Entry) {
        if self.is_over() || entry.sequence <= self.last {
            return;
        }
        if self.last == 0 && entry.sequence != 1 {
            self.doubt(Doubt::Missing(entry.sequence));
        }
        self.last = entry.sequence;
        self.account.through = entry.sequence;
        self.account.latest = self.account.latest.max(Some(entry.at));
        match &entry.fact {
            Fact::WithoutEffect => {}
            Fact::Unknown(name) => {
                if entry.at < self.period.end() {
                    let (sequence, name) = (entry.sequence, name.clone());
                    self.doubt(Doubt::Unknown { sequence, name });
                }
            }
            fact => {
                let now = self.pass_time(fact, entry.at);
                if now < self.period.end() && !self.apply(fact) {
                    self.doubt(Doubt::Impossible(entry.sequence));
                }
            }
        }
    }

    /// Notes why the bill may be wrong.
    pub fn doubt(&mut self, doubt: Doubt) {
        match self.account.doubts.len() < DOUBTS_KEPT {
            true => self.account.doubts.push(doubt),
            false => self.account.doubts_more += 1,
        }
    }

    /// The bill, with what was in force last until the end of the period.
    pub fn close(mut self) -> Account {
        self.serve_until(self.period.end());
        self.count_cards_until(self.period.end());
        let bill = &mut self.account.bill;
        for day in self.plan_days.keys() {
            self.suspended_days.remove(day);
        }
        bill.suspended_days = self.suspended_days.len() as u64;
        for plan in self.plan_days.into_values() {
            *bill.plan_days.entry(plan).or_default() += 1;
        }
        for (feature, days) in self.add_on_days {
            bill.add_on_days.insert(feature, days.len() as u64);
        }
        self.account
    }

    /// Lets time pass for what the fact is about, the subscription or the cards; how far it is then.
    fn pass_time(&mut self, fact: &Fact, at: DateTime<Utc>) -> DateTime<Utc> {
        match fact {
            Fact::CardMoved { .. } => {
                self.count_cards_until(at);
                self.cards_until
            }
            Fact::Started(_)
            | Fact::PlanChanged(_)
            | Fact::Granted { .. }
            | Fact::GrantRevoked(_)
            | Fact::Suspended
            | Fact::Reinstated
            | Fact::Cancelled { .. } => {
                self.serve_until(at);
                self.served_until
            }
            Fact::WithoutEffect | Fact::Unknown(_) => at,
        }
    }

    /// Charges for what was in force since the subscription last changed.
    fn serve_until(&mut self, until: DateTime<Utc>) {
        let start = self.served_until.max(self.period.start());
        let end = until.min(self.period.end());
        self.served_until = until.max(self.served_until);
        match self.service {
            Service::NotStarted => {}
            Service::Suspended => self.suspended_days.extend(days_touched(start, end)),
            Service::Given => self.charge(start, end),
            Service::GivenUntil(ends_at) => self.charge(start, ends_at.min(end)),
        }
    }

    /// Looks at how many cards there were since the last of them moved.
    fn count_cards_until(&mut self, until: DateTime<Utc>) {
        let start = self.cards_until.max(self.period.start());
        let end = until.min(self.period.end());
        self.cards_until = until.max(self.cards_until);
        if start < end {
            let peak = &mut self.account.bill.peak_in_circulation;
            *peak = self.in_circulation.max(*peak);
        }
    }

    /// Charges for a stretch of service.
    fn charge(&mut self, start: DateTime<Utc>, end: DateTime<Utc>) {
        for day in days_touched(start, end) {
            let Some(plan) = &self.plan else { continue };
            let dearest = self.plan_days.entry(day).or_insert_with(|| plan.clone());
            if *dearest < *plan {
                *dearest = plan.clone();
            }
        }
        for (feature, grant) in &self.grants {
            if grant.kind == GrantKind::Override {
                continue;
            }
            let end = grant.expires_at.map_or(end, |expiry| expiry.min(end));
            let mut days = days_touched(start, end).peekable();
            if days.peek().is_some() {
                let charged = self.add_on_days.entry(feature.clone()).or_default();
                charged.extend(days);
            }
        }
    }

    /// Enters what has changed; whether it fits.
    fn apply(&mut self, fact: &Fact) -> bool {
        let started = self.plan.is_some();
        match fact {
            Fact::Started(plan) => {
                self.plan = Some(plan.clone());
                self.service = Service::Given;
                self.grants.clear();
                !started
            }
            Fact::PlanChanged(plan) => {
                self.plan = started.then(|| plan.clone());
                started
            }
            Fact::Granted {
                feature,
                kind,
                expires_at,
            } => {
                let (kind, expires_at) = (*kind, *expires_at);
                if started {
                    let grant = Grant { kind, expires_at };
                    self.grants.insert(feature.clone(), grant);
                }
                started
            }
            Fact::GrantRevoked(feature) => self.grants.remove(feature).is_some(),
            Fact::Suspended => self.serve(started, Service::Suspended),
            Fact::Reinstated => self.serve(started, Service::Given),
            Fact::Cancelled { ends_at } => self.serve(started, Service::GivenUntil(*ends_at)),
            Fact::CardMoved { from, to } => self.move_card(*from, *to),
            Fact::WithoutEffect | Fact::Unknown(_) => true,
        }
    }

    fn serve(&mut self, started: bool, service: Service) -> bool {
        if started {
            self.service = service;
        }
        started
    }

    fn move_card(&mut self, from: Option<Status>, to: Status) -> bool {
        if from.is_none() {
            self.account.bill.cards_issued += u64::from(self.cards_until >= self.period.start());
        }
        let came = to.in_circulation();
        let was = from.is_some_and(Status::in_circulation);
        let fits = self.in_circulation > 0 || !was;
        self.in_circulation = (self.in_circulation + u64::from(came)).saturating_sub(was.into());
        fits
    }
}
