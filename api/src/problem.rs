//! Problems: how everything that was not done is told to the client (RFC 9457).
//!
//! [`Problem`] is the error type of every handler. Constructors are named after what went wrong;
//! the application's errors come in through `From`, matched exhaustively, so a new refusal does
//! not compile until it has a code. A problem travels to the [door](crate::door) as a response
//! extension and is rendered there, in one place, with the request's id; its source is logged
//! there, once, and never shown.

pub mod code;

use std::borrow::Cow;
use std::sync::Arc;

use application::error::{Error, Refusal};
use application::ports::Unavailable;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::card::CardRefusal;
use domain::catalogue::CatalogueRefusal;
use domain::entitlements::Standing;
use domain::ids::TenantId;
use domain::subscription::SubscriptionRefusal;
use domain::usage::AdmissionRefusal;
use serde::Serialize;
use utoipa::ToSchema;

pub use self::code::Code;

/// A source error.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was not done.
#[derive(Debug)]
pub struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    body: ProblemBody,
    source: Option<Source>,
}

/// A problem document (RFC 9457): why a request was not done. The page at `type` documents
/// every code.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Where the code is documented.
    #[serde(rename = "type")]
    #[schema(example = "/docs/problems#validation_failed")]
    pub type_uri: Cow<'static, str>,
    /// A short summary, the same for every problem of this code.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, for people.
    pub detail: Cow<'static, str>,
    /// What happened, for programs: stable, snake_case.
    #[schema(example = "validation_failed")]
    pub code: &'static str,
    /// The request's id, as in the header `X-Request-Id`.
    pub request_id: String,
    /// Which fields are wrong, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// With a 402: what is missing.
    #[serde(flatten)]
    pub missing: Missing,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Which: `holder.name`.
    pub field: Cow<'static, str>,
    /// What is wrong, for programs: `too_long`.
    pub code: Cow<'static, str>,
    /// What is wrong, for people.
    pub detail: Cow<'static, str>,
}

/// What a payment would fix; only with status 402.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Missing {
    /// Whose plan or payment it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub tenant: Option<TenantId>,
    /// Where to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade_url: Option<String>,
    /// `upgrade_required`: the feature asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature: Option<String>,
    /// `upgrade_required`: the lowest price level whose plans have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_level: Option<u32>,
    /// `upgrade_required`: the price level now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_level: Option<u32>,
    /// `quota_exceeded`: the most cards in circulation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// `quota_exceeded`: the cards in circulation now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// `quota_exceeded`: how many more were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<u64>,
    /// `quota_exceeded`: by how many the request would exceed the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_by: Option<u64>,
}

impl FieldError {
    /// `field` is wrong.
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field: field.into(),
            code: code.into(),
            detail: detail.into(),
        }
    }
}

impl Problem {
    /// A problem of this code; `detail` says what happened this time.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            body: ProblemBody {
                type_uri: format!("/docs/problems#{}", code.as_str()).into(),
                title: code.title(),
                status: code.status().as_u16(),
                detail: detail.into(),
                code: code.as_str(),
                request_id: String::new(),
                errors: Vec::new(),
                missing: Missing::default(),
            },
            source: None,
        }))
    }

    /// There is no such thing, or none that the asker may know of.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// Fields of the body cannot be.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.field.is_empty() => one.detail.to_string(),
            [one] => format!("{}: {}", one.field, one.detail),
            many => format!("{} fields are not valid", many.len()),
        };
        Self::new(Code::ValidationFailed, detail).with_errors(errors)
    }

    /// A parameter of the query string cannot be.
    pub fn invalid_query(error: FieldError) -> Self {
        let detail = format!("{}: {}", error.field, error.detail);
        Self::new(Code::InvalidQuery, detail).with_errors(vec![error])
    }

    /// Something that the code holds impossible has happened.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::new(Code::Internal, "something went wrong here").caused_by(source)
    }

    /// The problem that an error response without one stands for: what the router or a library
    /// answered by itself.
    pub fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            StatusCode::NOT_ACCEPTABLE => Code::NotAcceptable,
            StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
            StatusCode::URI_TOO_LONG => Code::UriTooLong,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            status if status.is_client_error() => Code::InvalidQuery,
            _ => Code::Internal,
        };
        let detail = match code {
            Code::NotFound => "there is no such path",
            Code::MethodNotAllowed => "this path does not have this method",
            _ => code.title(),
        };
        Self::new(code, detail)
    }

    /// Adds which fields are wrong.
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.body.errors = errors;
        self
    }

    fn missing(mut self, missing: Missing) -> Self {
        self.0.body.missing = missing;
        self
    }

    fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.0.code.status()
    }

    /// What is told to the client, before the request's id is filled in.
    pub fn body(&self) -> &ProblemBody {
        &self.0.body
    }

    /// Why it happened; for the log only.
    pub fn source(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }
}

impl IntoResponse for Problem {
    /// A response that carries the problem; the door writes the document.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Forbidden => Self::new(Code::Forbidden, detail),
            Error::NotFound(_) => Self::new(Code::NotFound, detail),
            Error::Refused(refusal) => refusal.into(),
            Error::PreconditionFailed { .. } => Self::new(Code::PreconditionFailed, detail),
            Error::VersionConflict => Self::new(Code::VersionConflict, detail),
            Error::KeyReused => Self::new(Code::IdempotencyKeyReused, detail),
            Error::InProgress => Self::new(Code::RequestInProgress, detail),
            Error::Busy => Self::new(Code::Overloaded, detail),
            Error::Behind { .. } => Self::new(Code::ReadModelBehind, detail),
            Error::Unavailable(source) => source.into(),
            Error::ShardUnreachable(source) => {
                Self::new(Code::ShardUnreachable, detail).caused_by(source)
            }
            Error::Internal(source) => Self::internal(source),
        }
    }
}

impl From<Unavailable> for Problem {
    fn from(source: Unavailable) -> Self {
        Self::new(Code::Unavailable, "a dependency did not answer").caused_by(source)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Card(refusal) => refusal.into(),
            Refusal::Subscription(refusal) => refusal.into(),
            Refusal::Catalogue(refusal) => refusal.into(),
            Refusal::FeatureDisabled { .. } => Self::new(Code::FeatureDisabled, detail),
            Refusal::NotAdmitted { tenant, refusal } => not_admitted(tenant, refusal),
            Refusal::UpgradeRequired {
                tenant,
                feature,
                required_level,
                current_level,
            } => Self::new(Code::UpgradeRequired, detail).missing(Missing {
                tenant: Some(tenant),
                feature: Some(feature),
                required_level: Some(required_level),
                current_level: Some(current_level),
                ..Missing::default()
            }),
            Refusal::Invalid {
                field,
                code,
                detail,
            } => Self::validation(vec![FieldError::new(field, code, detail)]),
            Refusal::NoOpenShard => Self::new(Code::NoOpenShard, detail),
            Refusal::NoDedicatedDatabase(_) => Self::new(Code::NoDedicatedDatabase, detail),
            Refusal::NoShards => Self::new(Code::NoShards, detail),
            Refusal::ShardExists => Self::new(Code::ShardExists, detail),
            Refusal::TooManyKeys { .. } => Self::new(Code::TooManyKeys, detail),
            Refusal::SlugTaken => Self::new(Code::SlugTaken, detail),
            Refusal::AuditRunning => Self::new(Code::AuditRunning, detail),
        }
    }
}

impl From<CardRefusal> for Problem {
    fn from(refusal: CardRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            CardRefusal::NotIssued => Self::new(Code::NotFound, detail),
            CardRefusal::AlreadyIssued => Self::new(Code::VersionConflict, detail),
            CardRefusal::InvalidTransition { .. } | CardRefusal::NotDue => {
                Self::new(Code::InvalidTransition, detail)
            }
            CardRefusal::ExpiryNotInFuture => expiry_not_in_future(),
        }
    }
}

impl From<SubscriptionRefusal> for Problem {
    fn from(refusal: SubscriptionRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            SubscriptionRefusal::NotStarted
            | SubscriptionRefusal::AlreadyStarted
            | SubscriptionRefusal::AlreadyOnPlan(_)
            | SubscriptionRefusal::Cancelled => Self::new(Code::InvalidTransition, detail),
            SubscriptionRefusal::PlanChangesBlocked(_) => {
                Self::new(Code::PlanChangesBlocked, detail)
            }
            SubscriptionRefusal::TrialUsed(_) => Self::new(Code::TrialUsed, detail),
            SubscriptionRefusal::TrialRunning(_) => Self::new(Code::TrialRunning, detail),
            SubscriptionRefusal::NoTrial => Self::new(Code::NoTrial, detail),
            SubscriptionRefusal::NothingScheduled => Self::new(Code::NothingScheduled, detail),
            SubscriptionRefusal::NotGranted(_) => Self::new(Code::FeatureNotGranted, detail),
            SubscriptionRefusal::ExpiryNotInFuture => expiry_not_in_future(),
            SubscriptionRefusal::EffectiveNotInFuture => {
                invalid("effective", "not_in_future", detail)
            }
            SubscriptionRefusal::EffectiveTooFar => invalid("effective", "too_far", detail),
            SubscriptionRefusal::TrialDays => invalid("days", "out_of_range", detail),
            SubscriptionRefusal::GraceDays => invalid("grace_days", "out_of_range", detail),
        }
    }
}

impl From<CatalogueRefusal> for Problem {
    fn from(refusal: CatalogueRefusal) -> Self {
        let detail = refusal.to_string();
        let invalid = |field: String, code: &'static str| {
            Self::validation(vec![FieldError::new(field, code, detail.clone())])
        };
        match &refusal {
            CatalogueRefusal::UnknownFeature(slug) => {
                invalid(format!("features.{slug}"), "unknown_feature")
            }
            CatalogueRefusal::FeatureIsArchived(slug) => {
                invalid(format!("features.{slug}"), "feature_archived")
            }
            CatalogueRefusal::WrongValue(slug) => invalid(format!("features.{slug}"), "wrong_type"),
            CatalogueRefusal::PriceLevelTooLow { .. } => invalid("price_level".into(), "too_low"),
            CatalogueRefusal::UnknownModule(_) => invalid("module".into(), "unknown_module"),
            CatalogueRefusal::KindIsFixed(_) => invalid("kind".into(), "immutable"),
            CatalogueRefusal::UnknownPlan(_) => Self::not_found("plan"),
            CatalogueRefusal::FeatureInUse { .. } => Self::new(Code::FeatureInUse, detail),
            CatalogueRefusal::LimitHasNoSwitch(_) => Self::new(Code::NoKillSwitch, detail),
            CatalogueRefusal::TooMany { .. } => Self::new(Code::CatalogueFull, detail),
        }
    }
}

fn not_admitted(tenant: TenantId, refusal: AdmissionRefusal) -> Problem {
    let detail = refusal.to_string();
    let of_tenant = Missing {
        tenant: Some(tenant),
        ..Missing::default()
    };
    match refusal {
        AdmissionRefusal::QuotaExceeded {
            limit,
            used,
            requested,
        } => Problem::new(Code::QuotaExceeded, detail).missing(Missing {
            limit: Some(limit),
            used: Some(used),
            requested: Some(requested),
            over_by: Some((used + requested).saturating_sub(limit)),
            ..of_tenant
        }),
        AdmissionRefusal::NotServed(Standing::Suspended) => {
            Problem::new(Code::SubscriptionSuspended, "the subscription is suspended")
                .missing(of_tenant)
        }
        AdmissionRefusal::NotServed(Standing::Ended) => {
            Problem::new(Code::SubscriptionCancelled, "the subscription is over").missing(of_tenant)
        }
        // No payment fixes this: it is not established what the tenant may do.
        AdmissionRefusal::NotServed(
            Standing::NotStarted | Standing::Good | Standing::Grace | Standing::Cancelled,
        ) => Problem::new(Code::Unavailable, "the subscription has not begun"),
    }
}

fn invalid(field: &'static str, code: &'static str, detail: String) -> Problem {
    Problem::validation(vec![FieldError::new(field, code, detail)])
}

fn expiry_not_in_future() -> Problem {
    Problem::validation(vec![FieldError::new(
        "expires_at",
        "not_in_future",
        "must lie in the future",
    )])
}
