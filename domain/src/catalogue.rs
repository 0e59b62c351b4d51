//! What is for sale: features, the modules they make up, and the plans that bundle them.
//!
//! One catalogue, in the landlord's own ledger; what may be done to it is in `change`. The terms of
//! a plan are copied into the events of the subscriptions that take it, so history
//! replays without the catalogue and a later version of a plan changes nobody's terms.

mod change;
mod event;
mod migration;
mod standard;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::change::{
    CatalogueCommand, CatalogueRefusal, FEATURES_MAX, MODULES_MAX, PLANS_MAX, PlanContent,
};
pub use self::event::{CatalogueEvent, MigrationFailure};
pub use self::migration::{MigratedPage, PlanMigration};

/// The slug of a feature: 1 to 60 of `a-z`, `0-9`, `_` and `.`, beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FeatureSlug(String);

/// The key of a plan; the same alphabet as a feature's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlanKey(String);

/// The key of a module; the same alphabet as a feature's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleKey(String);

/// The text is no feature's slug, and neither a plan's nor a module's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 60 characters of a-z, 0-9, '_' and '.', beginning with a letter")]
pub struct InvalidKey;

macro_rules! key {
    ($name:ident) => {
        impl $name {
            /// The key as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidKey;

            fn try_from(text: String) -> Result<Self, InvalidKey> {
                is_key(&text).then_some(Self(text)).ok_or(InvalidKey)
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                key.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// Map look-ups by a plain `&str`, without allocating.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

key!(FeatureSlug);
key!(PlanKey);
key!(ModuleKey);

fn is_key(text: &str) -> bool {
    let alphabet = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.';
    (1..=60).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(alphabet)
}

/// The slugs this code asks for by name.
pub mod feature {
    /// Issue, activate, suspend, reinstate, revoke, renew and replace one card; list and search.
    pub const CARDS_LIFECYCLE: &str = "cards.lifecycle";
    /// The most cards in circulation.
    pub const MAX_CARDS: &str = "max_cards";
    /// Bulk operations.
    pub const CARDS_BULK: &str = "cards.bulk";
    /// Exports in every format.
    pub const CARDS_EXPORT: &str = "cards.export";
    /// Live updates.
    pub const CARDS_LIVE: &str = "cards.live";
    /// Statistics.
    pub const CARDS_STATS: &str = "cards.stats";
    /// Exports as CSV only.
    pub const EXPORT_CSV: &str = "export_csv";
    /// More than one API key.
    pub const API_ACCESS: &str = "api_access";
    /// The tenant's own look on its cards.
    pub const CUSTOM_BRANDING: &str = "custom_branding";
}

/// What a feature is worth to who has it. As JSON: `true`, a whole number, or `"unlimited"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureValue {
    /// It may be used.
    On,
    /// It may be used up to this amount.
    Limit(u64),
    /// It may be used without a limit.
    Unlimited,
}

impl FeatureValue {
    /// The more generous of two values of the same feature.
    pub fn most_generous(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unlimited, _) | (_, Self::Unlimited) => Self::Unlimited,
            (Self::Limit(a), Self::Limit(b)) => Self::Limit(a.max(b)),
            (Self::On, value) | (value, Self::On) => value,
        }
    }
}

/// The JSON of a [`FeatureValue`], before its words are checked.
#[derive(Deserialize)]
#[serde(untagged)]
enum FeatureValueJson {
    Flag(bool),
    Limit(u64),
    Word(String),
}

impl Serialize for FeatureValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::On => serializer.serialize_bool(true),
            Self::Limit(limit) => serializer.serialize_u64(*limit),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

impl<'de> Deserialize<'de> for FeatureValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refuse = || serde::de::Error::custom("must be true, a whole number, or \"unlimited\"");
        match FeatureValueJson::deserialize(deserializer).map_err(|_| refuse())? {
            FeatureValueJson::Flag(true) => Ok(Self::On),
            FeatureValueJson::Limit(limit) => Ok(Self::Limit(limit)),
            FeatureValueJson::Word(word) if word == "unlimited" => Ok(Self::Unlimited),
            FeatureValueJson::Flag(false) | FeatureValueJson::Word(_) => Err(refuse()),
        }
    }
}

/// Whether a feature is simply on, or counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureKind {
    /// On or absent.
    Flag,
    /// A number, or unlimited.
    Limit,
}

/// A feature as the catalogue describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its slug.
    pub slug: FeatureSlug,
    /// Its name, for people.
    pub name: String,
    /// Flag or limit.
    pub kind: FeatureKind,
    /// The lowest price level whose plans have it.
    pub price_level: u32,
    /// The module it belongs to, if any.
    pub module: Option<ModuleKey>,
    /// Whether it may be sold on its own.
    pub add_on: bool,
}

impl Feature {
    /// Whether `value` is of this feature's kind.
    pub const fn accepts(&self, value: FeatureValue) -> bool {
        matches!(
            (self.kind, value),
            (FeatureKind::Flag, FeatureValue::On)
                | (
                    FeatureKind::Limit,
                    FeatureValue::Limit(_) | FeatureValue::Unlimited
                )
        )
    }
}

/// A module: features that are installed and locked together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its key: `digital_card.basic`.
    pub key: ModuleKey,
    /// Its name, for people.
    pub name: String,
    /// The lowest price level whose plans install it.
    pub price_level: u32,
}

/// One version of a plan: what a subscription that takes it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanTerms {
    /// Its key: `free`.
    pub key: PlanKey,
    /// 1 for the first version.
    pub version: u32,
    /// The price level.
    pub price_level: u32,
    /// Its place among the plans: changing to a higher rank is an upgrade.
    pub rank: u32,
    /// What it grants.
    pub features: BTreeMap<FeatureSlug, FeatureValue>,
}

impl PlanTerms {
    fn has(&self, slug: &FeatureSlug) -> bool {
        self.features.contains_key(slug)
    }
}

/// Since when, by whom and why a feature is off for everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Since when.
    pub since: DateTime<Utc>,
    /// The API key that asked.
    pub by: String,
    /// Why, as the asker said.
    pub reason: Option<String>,
}

/// Everything that is, or was, for sale.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// By slug.
    pub features: BTreeMap<FeatureSlug, Feature>,
    /// In price order.
    pub modules: Vec<Module>,
    /// The newest version of each plan, by key.
    pub plans: BTreeMap<PlanKey, PlanTerms>,
    /// The features that are out of sale: who has one keeps it.
    pub archived_features: BTreeSet<FeatureSlug>,
    /// The plans that are out of sale: who is on one stays on it.
    pub archived_plans: BTreeSet<PlanKey>,
    /// The features that are off for everybody.
    pub kills: BTreeMap<FeatureSlug, Kill>,
    /// The last migration of each plan's tenants.
    pub migrations: BTreeMap<PlanKey, PlanMigration>,
}

impl Catalogue {
    /// The id of the one catalogue in the landlord's ledger.
    pub const ID: &str = "catalogue";

    /// The feature with this slug, archived or not.
    pub fn feature(&self, slug: &str) -> Option<&Feature> {
        self.features.get(slug)
    }

    /// The module with this key.
    pub fn module(&self, key: &str) -> Option<&Module> {
        self.modules
            .iter()
            .find(|module| module.key.as_str() == key)
    }

    /// The newest terms of the plan with this key, archived or not.
    pub fn plan(&self, key: &str) -> Option<&PlanTerms> {
        self.plans.get(key)
    }

    /// The newest terms of every plan that may be taken.
    pub fn plans_for_sale(&self) -> impl Iterator<Item = &PlanTerms> {
        let plans = self.plans.values();
        plans.filter(|plan| !self.archived_plans.contains(&plan.key))
    }

    /// Why a feature is off for everybody, if it is. Allocates nothing: this is asked on the
    /// request path.
    pub fn killed(&self, slug: &str) -> Option<&Kill> {
        self.kills.get(slug)
    }

    /// Those of these features that are off for everybody, and why.
    pub fn killed_of<'a>(
        &self,
        slugs: impl IntoIterator<Item = &'a FeatureSlug>,
    ) -> BTreeMap<FeatureSlug, Kill> {
        let slugs = slugs.into_iter();
        let killed = slugs.filter_map(|slug| Some((slug.clone(), self.kills.get(slug)?.clone())));
        killed.collect()
    }
}
