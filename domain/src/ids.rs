//! Identifiers: each exists only when it is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A place in a ledger: 1 for its first event, without gaps, in commit order. 0 is "before the
/// first event".
pub type Position = u64;

/// The number of events that an aggregate has; also the `ETag` of its resource.
pub type Version = u64;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps an id made by the identity port (UUID version 7).
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The bare UUID.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

uuid_id!(
    /// The id of a tenant, and so of its ledger: a UUID.
    TenantId
);
uuid_id!(
    /// The id of a digital card: a UUID.
    CardId
);
uuid_id!(
    /// The id of an API key: a UUID, and its public half (safe to log and to show).
    KeyId
);

impl TenantId {
    /// The id under which the landlord keeps a ledger of its own, for the catalogue: no tenant has
    /// it, because theirs are of version 7.
    pub const LANDLORD: Self = Self(Uuid::nil());
}

/// The text is not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct InvalidId;

/// A tenant's short name in addresses: 3 to 40 of `a-z`, `0-9` and `-`, beginning and ending
/// with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

impl Slug {
    /// The shortest slug, in characters.
    pub const LENGTH_MIN: usize = 3;
    /// The longest slug, in characters.
    pub const LENGTH_MAX: usize = 40;

    /// The slug as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a [`Slug`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 3 to 40 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit"
)]
pub struct InvalidSlug;

impl TryFrom<String> for Slug {
    type Error = InvalidSlug;

    fn try_from(text: String) -> Result<Self, InvalidSlug> {
        let alphabet = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (Self::LENGTH_MIN..=Self::LENGTH_MAX).contains(&text.len())
            && text.bytes().all(alphabet)
            && !text.starts_with('-')
            && !text.ends_with('-');
        valid.then_some(Self(text)).ok_or(InvalidSlug)
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> Self {
        slug.0
    }
}

/// A card's number as printed on it: 16 digits, the last a Luhn check digit (ISO/IEC 7812-1),
/// unique within the tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CardNumber(String);

impl CardNumber {
    /// How many numbers a tenant has: 15 digits before the check digit.
    pub const CAPACITY: u64 = 1_000_000_000_000_000;

    /// Shares no factor with [`Self::CAPACITY`], so that multiplying by it visits
    /// every number once; neighbouring serials come out looking unrelated. Not a secret.
    const STRIDE: u64 = 618_033_988_749_909;

    /// The number of the tenant's `serial`-th card; different serials give different numbers.
    ///
    /// Serials are handed out by the ledger, which is what makes numbers unique. The one limit
    /// is [`Self::CAPACITY`] cards a tenant, after which serials repeat.
    pub fn from_serial(serial: u64) -> Self {
        let spread = u128::from(serial) * u128::from(Self::STRIDE) % u128::from(Self::CAPACITY);
        let body = format!("{spread:015}");
        let check = luhn_check_digit(body.bytes());
        Self(format!("{body}{check}"))
    }

    /// The number as 16 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a [`CardNumber`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 16 digits with a valid check digit")]
pub struct InvalidCardNumber;

impl TryFrom<String> for CardNumber {
    type Error = InvalidCardNumber;

    fn try_from(text: String) -> Result<Self, InvalidCardNumber> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits {
            return Err(InvalidCardNumber);
        }
        let (body, check) = text.as_bytes().split_at(15);
        let valid = check[0] == b'0' + luhn_check_digit(body.iter().copied());
        valid.then_some(Self(text)).ok_or(InvalidCardNumber)
    }
}

impl From<CardNumber> for String {
    fn from(number: CardNumber) -> Self {
        number.0
    }
}

/// The digit that makes `body` followed by it pass the Luhn test; `body` is ASCII digits.
fn luhn_check_digit(body: impl DoubleEndedIterator<Item = u8>) -> u8 {
    let sum: u32 = body
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            match place % 2 {
                0 if digit > 4 => digit * 2 - 9,
                0 => digit * 2,
                _ => digit,
            }
        })
        .sum();
    ((10 - sum % 10) % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_digit_is_that_of_the_usual_example() {
        assert_eq!(luhn_check_digit("7992739871".bytes()), 3);
    }

    #[test]
    fn card_numbers_of_a_million_serials_are_valid_and_different() {
        let numbers: std::collections::HashSet<_> =
            (0..1_000_000).map(CardNumber::from_serial).collect();
        assert_eq!(numbers.len(), 1_000_000);
        for number in numbers.into_iter().take(1_000) {
            assert_eq!(
                CardNumber::try_from(String::from(number.clone())),
                Ok(number)
            );
        }
    }

    #[test]
    fn the_stride_shares_no_factor_with_the_capacity() {
        assert!(!CardNumber::STRIDE.is_multiple_of(2));
        assert!(!CardNumber::STRIDE.is_multiple_of(5));
    }

    #[test]
    fn slugs_are_refused_outside_their_alphabet_and_length() {
        for bad in [
            "",
            "ab",
            "-abc",
            "abc-",
            "Abc",
            "a b",
            "a_b_c",
            "ä-bc",
            &"a".repeat(41),
        ] {
            assert_eq!(Slug::try_from(bad.to_owned()), Err(InvalidSlug), "{bad}");
        }
        for good in ["abc", "a-1", &"a".repeat(40)] {
            assert!(Slug::try_from(good.to_owned()).is_ok(), "{good}");
        }
    }
}
