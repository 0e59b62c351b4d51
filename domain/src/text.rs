//! Text that people typed: trimmed, of bounded length, without control characters.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// Nothing is left after trimming white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("must be at most {max} characters")]
    TooLong {
        /// The most characters allowed.
        max: usize,
    },
    /// Holds a control character (including line breaks and bidirectional overrides).
    #[error("must not hold control characters")]
    ControlCharacter,
    /// Not of the form `local@domain`.
    #[error("must be an e-mail address")]
    NotAnEmailAddress,
}

macro_rules! bounded_text {
    ($(#[$doc:meta])* $name:ident, $max:expr $(, $check:expr)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The most characters (Unicode scalar values).
            pub const LENGTH_MAX: usize = $max;

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidText;

            fn try_from(text: String) -> Result<Self, InvalidText> {
                let text = bounded(text, Self::LENGTH_MAX)?;
                $(let check: fn(&str) -> Result<(), InvalidText> = $check; check(&text)?;)?
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

bounded_text!(
    /// The name of a person who holds a card: 1 to 200 characters.
    HolderName,
    200
);
bounded_text!(
    /// An e-mail address: at most 254 characters (RFC 5321 section 4.5.3.1), one `@` with
    /// something on both sides. Whether it can be delivered to, only sending a mail can tell.
    Email,
    254,
    email_address
);
bounded_text!(
    /// The tenant's own reference for a card (a member number, say): 1 to 100 characters.
    ExternalRef,
    100
);
bounded_text!(
    /// A tenant's name for a kind of card (`standard`, `gold`): 1 to 40 characters.
    Tier,
    40
);
bounded_text!(
    /// Why somebody did something, for the record: 1 to 500 characters.
    Reason,
    500
);
bounded_text!(
    /// The name of a tenant or of a key, for people: 1 to 100 characters.
    DisplayName,
    100
);

impl Default for Tier {
    /// `standard`: the tier of a card for which nothing else was said.
    fn default() -> Self {
        Self("standard".to_owned())
    }
}

fn bounded(text: String, max: usize) -> Result<String, InvalidText> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(InvalidText::Empty);
    }
    if trimmed.chars().nth(max).is_some() {
        return Err(InvalidText::TooLong { max });
    }
    if trimmed.chars().any(is_disruptive) {
        return Err(InvalidText::ControlCharacter);
    }
    if trimmed.len() == text.len() {
        Ok(text)
    } else {
        Ok(trimmed.to_owned())
    }
}

/// Characters that change how the text around them is shown rather than show something: C0 and
/// C1 controls, line and paragraph separators, and bidirectional overrides (Unicode UAX 9).
fn is_disruptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn email_address(text: &str) -> Result<(), InvalidText> {
    let valid = match text.split_once('@') {
        Some((local, domain)) => {
            !local.is_empty()
                && !domain.is_empty()
                && !domain.contains('@')
                && !text.contains(char::is_whitespace)
        }
        None => false,
    };
    valid.then_some(()).ok_or(InvalidText::NotAnEmailAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_trimmed() {
        let name = HolderName::try_from("  Ada Lovelace ".to_owned()).expect("a name");
        assert_eq!(name.as_str(), "Ada Lovelace");
    }

    #[test]
    fn length_counts_characters_not_bytes() {
        assert!(HolderName::try_from("é".repeat(200)).is_ok());
        assert_eq!(
            HolderName::try_from("é".repeat(201)),
            Err(InvalidText::TooLong { max: 200 })
        );
    }

    #[test]
    fn control_characters_are_refused() {
        for bad in ["a\0b", "a\nb", "a\u{202E}b", "a\u{85}b"] {
            assert_eq!(
                HolderName::try_from(bad.to_owned()),
                Err(InvalidText::ControlCharacter)
            );
        }
    }

    #[test]
    fn an_address_needs_one_at_sign_with_something_on_both_sides() {
        for bad in ["ada", "@example.com", "ada@", "a@b@c", "a b@c"] {
            assert_eq!(
                Email::try_from(bad.to_owned()),
                Err(InvalidText::NotAnEmailAddress)
            );
        }
        assert!(Email::try_from("ada@example.com".to_owned()).is_ok());
    }
}
