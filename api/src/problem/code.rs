//! Every code that a problem can have: stable, snake_case, one status each.

use axum::http::StatusCode;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// Why a request was not done, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As clients see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)+ }
            }

            /// A short summary, the same for every problem of this code.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// What it means and what to do about it, for the page that documents every code.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+),)+ }
            }
        }
    };
}

codes! {
    /// The body is not JSON. Send what the media type promises.
    MalformedJson = "malformed_json", BAD_REQUEST, "Malformed JSON";
    /// The query string has an unknown parameter, or a value that cannot be; `errors` says which.
    InvalidQuery = "invalid_query", BAD_REQUEST, "Invalid query";
    /// The cursor is damaged, or belongs to a list with other filters or another order. Begin
    /// at the first page.
    InvalidCursor = "invalid_cursor", BAD_REQUEST, "Invalid cursor";
    /// A header (`Idempotency-Key`, `If-Match`) does not have the form it must have.
    InvalidHeader = "invalid_header", BAD_REQUEST, "Invalid header";
    /// There is no API key, or none that is in force. Send `Authorization: Bearer KEY`.
    Unauthorized = "unauthorized", UNAUTHORIZED, "No valid API key";
    /// The tenant's plan does not have the feature. `feature`, `required_level` and
    /// `current_level` say what is missing, `upgrade_url` where it is sold.
    UpgradeRequired = "upgrade_required", PAYMENT_REQUIRED, "Upgrade required";
    /// More cards would be in circulation than the plan allows: `limit`, `used`, `requested`,
    /// and `over_by`, by how much the request would exceed the limit. Revoke cards, or upgrade.
    QuotaExceeded = "quota_exceeded", PAYMENT_REQUIRED, "Quota exceeded";
    /// The subscription is suspended. Cards stay readable; nothing is deleted.
    SubscriptionSuspended = "subscription_suspended", PAYMENT_REQUIRED, "Subscription suspended";
    /// The subscription is over. Cards stay readable; nothing is deleted.
    SubscriptionCancelled = "subscription_cancelled", PAYMENT_REQUIRED, "Subscription cancelled";
    /// The key's role may not do this.
    Forbidden = "forbidden", FORBIDDEN, "Forbidden";
    /// There is no such thing, or none that this key may know of.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// The feature was not granted beside the plan, so it cannot be taken back.
    FeatureNotGranted = "feature_not_granted", NOT_FOUND, "Feature not granted";
    /// No plan change is scheduled, so there is none to take off: it was never scheduled, it has
    /// happened, or another one or a cancellation took its place.
    NothingScheduled = "nothing_scheduled", NOT_FOUND, "Nothing scheduled";
    /// No trial is running: it has ended, was converted, or never began.
    NoTrial = "no_trial", NOT_FOUND, "No trial";
    /// The path exists, but not with this method; `Allow` lists those it has.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// None of the media types in `Accept` can be had here.
    NotAcceptable = "not_acceptable", NOT_ACCEPTABLE, "Not acceptable";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "Request timeout";
    /// The state of the card or the subscription does not allow it.
    InvalidTransition = "invalid_transition", CONFLICT, "Invalid transition";
    /// The tenant has not paid, so it can go over to a lower plan but not to a higher one, nor try
    /// one. Reinstate the subscription first.
    PlanChangesBlocked = "plan_changes_blocked", CONFLICT, "Plan changes blocked";
    /// The tenant has tried this plan before; there is one trial a plan, ever.
    TrialUsed = "trial_used", CONFLICT, "Trial used";
    /// Another trial runs; there is one at a time. Cancel it, or wait for its end.
    TrialRunning = "trial_running", CONFLICT, "Trial running";
    /// Others kept changing the same resource. Try again.
    VersionConflict = "version_conflict", CONFLICT, "Version conflict";
    /// A request with the same `Idempotency-Key` is being worked on. Try again.
    RequestInProgress = "request_in_progress", CONFLICT, "Request in progress";
    /// Every shard is closed for new tenants. Open one, or add one.
    NoOpenShard = "no_open_shard", CONFLICT, "No open shard";
    /// The tenant would get a database of its own, but the shard's login may not make databases.
    /// Grant it `CREATEDB`, or ask for `shared`.
    NoDedicatedDatabase = "no_dedicated_database", CONFLICT, "No database can be made";
    /// The service runs on the embedded store, where every tenant has a file of its own.
    NoShards = "no_shards", CONFLICT, "No shards here";
    /// There is another shard of this name.
    ShardExists = "shard_exists", CONFLICT, "Shard exists";
    /// A plan that is for sale grants the feature, so it cannot go out of sale. Take it out of the
    /// plan first.
    FeatureInUse = "feature_in_use", CONFLICT, "Feature in use";
    /// A limit cannot be switched off. Switch off what it limits.
    NoKillSwitch = "no_kill_switch", CONFLICT, "No kill switch";
    /// The catalogue has as many entries of this kind as it can have.
    CatalogueFull = "catalogue_full", CONFLICT, "Catalogue full";
    /// Another tenant has this slug.
    SlugTaken = "slug_taken", CONFLICT, "Slug taken";
    /// A usage audit is running, on this node or another: one does at a time. Try again when it is
    /// over.
    AuditRunning = "audit_running", CONFLICT, "Audit running";
    /// The resource is not at the version that `If-Match` names. Read it again.
    PreconditionFailed = "precondition_failed", PRECONDITION_FAILED, "Precondition failed";
    /// The body is larger than accepted.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "Body too large";
    /// The request's headers are larger than accepted.
    HeadersTooLarge = "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "Headers too large";
    /// As many requests of this tenant are being worked on as it can have at a time. Try again after
    /// `Retry-After` seconds.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    /// There are as many API keys as there can be. Revoke one.
    TooManyKeys = "too_many_keys", CONFLICT, "Too many keys";
    /// The path is longer than accepted.
    UriTooLong = "uri_too_long", URI_TOO_LONG, "URI too long";
    /// The body is of a media type that is not read here.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// The body is well-formed, but one or more fields cannot be; `errors` says which and why.
    ValidationFailed = "validation_failed", UNPROCESSABLE_ENTITY, "Validation failed";
    /// The `Idempotency-Key` was used before for another request.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "Idempotency key reused";
    /// Something went wrong here. The `request_id` finds it in the logs.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// The tenant has the feature, but this version of the service does not have the module.
    ModuleNotAvailable = "module_not_available", NOT_IMPLEMENTED, "Module not available";
    /// A dependency did not answer. Try again after `Retry-After` seconds, with the same
    /// `Idempotency-Key`.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Temporarily unavailable";
    /// This node does not reach the shard's database; its log says why. Make it reachable from every
    /// node, then try again.
    ShardUnreachable = "shard_unreachable", SERVICE_UNAVAILABLE, "Shard unreachable";
    /// The provider has switched the feature off for everybody, for the time being. No upgrade
    /// would help; when it is there again, everything is as it was.
    FeatureDisabled = "feature_disabled", SERVICE_UNAVAILABLE, "Feature switched off";
    /// More requests are being worked on than accepted. Try again after `Retry-After` seconds.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Overloaded";
    /// The read model has not reached the asked position in time. Try again.
    ReadModelBehind = "read_model_behind", SERVICE_UNAVAILABLE, "Read model behind";
    /// The process cannot take traffic now; `errors` says what is wrong.
    NotReady = "not_ready", SERVICE_UNAVAILABLE, "Not ready";
}

impl Code {
    /// In how many seconds it is worth trying again, if at all.
    pub const fn retry_after_seconds(self) -> Option<u64> {
        match (self.status(), self) {
            (_, Self::FeatureDisabled) => Some(60),
            (_, Self::RateLimited | Self::Overloaded | Self::ReadModelBehind) => Some(1),
            (StatusCode::SERVICE_UNAVAILABLE, _) => Some(5),
            (_, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_words_and_none_is_used_twice() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(
                text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{text} is not snake_case"
            );
            assert!(seen.insert(text), "{text} is used twice");
        }
    }

    #[test]
    fn what_a_payment_fixes_is_402_and_nothing_else_is() {
        let paid: Vec<_> = Code::ALL
            .iter()
            .filter(|code| code.status() == StatusCode::PAYMENT_REQUIRED)
            .map(|code| code.as_str())
            .collect();
        assert_eq!(
            paid,
            [
                "upgrade_required",
                "quota_exceeded",
                "subscription_suspended",
                "subscription_cancelled"
            ]
        );
    }

    #[test]
    fn a_429_and_every_503_says_when_to_try_again() {
        for code in Code::ALL {
            let passes = [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::SERVICE_UNAVAILABLE,
            ];
            let told = code.retry_after_seconds().is_some();
            assert_eq!(told, passes.contains(&code.status()), "{}", code.as_str());
        }
    }
}
