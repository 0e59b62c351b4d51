//! Fields of a body: parsed into domain types, with every wrong one collected, so that a client
//! hears of all of them at once.

use std::borrow::Cow;

use application::shards::InvalidUrlReference;
use chrono::{DateTime, Datelike, Utc};
use domain::catalogue::InvalidKey;
use domain::ids::InvalidSlug;
use domain::text::InvalidText;

use crate::problem::{FieldError, Problem};

/// The wrong fields found so far.
#[derive(Debug, Default)]
pub struct Fields {
    errors: Vec<FieldError>,
}

/// Why a field's text is refused, with a code for programs.
pub trait FieldRefusal: std::fmt::Display {
    /// The code: `too_long`.
    fn code(&self) -> &'static str;
}

impl FieldRefusal for InvalidText {
    fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong { .. } => "too_long",
            Self::ControlCharacter => "control_character",
            Self::NotAnEmailAddress => "not_an_email_address",
        }
    }
}

impl FieldRefusal for InvalidSlug {
    fn code(&self) -> &'static str {
        "invalid_slug"
    }
}

impl FieldRefusal for InvalidUrlReference {
    fn code(&self) -> &'static str {
        "invalid_reference"
    }
}

impl FieldRefusal for InvalidKey {
    fn code(&self) -> &'static str {
        "invalid_key"
    }
}

impl Fields {
    /// The field's text as a `T`; `None` (and noted) if it cannot be one.
    pub fn text<T>(&mut self, field: &'static str, text: String) -> Option<T>
    where
        T: TryFrom<String>,
        T::Error: FieldRefusal,
    {
        match T::try_from(text) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.note(field, refusal.code(), refusal.to_string());
                None
            }
        }
    }

    /// As [`Self::text`], of a field that may be absent.
    pub fn optional_text<T>(
        &mut self,
        field: &'static str,
        text: Option<String>,
    ) -> Option<Option<T>>
    where
        T: TryFrom<String>,
        T::Error: FieldRefusal,
    {
        match text {
            Some(text) => self.text(field, text).map(Some),
            None => Some(None),
        }
    }

    /// The field's RFC 3339 time, in UTC, as the stores keep it: to the microsecond, a leap second
    /// as the one after it, the year of four digits.
    pub fn time(&mut self, field: &'static str, text: &str) -> Option<DateTime<Utc>> {
        let time = DateTime::parse_from_rfc3339(text)
            .ok()
            .and_then(|time| DateTime::from_timestamp_micros(time.timestamp_micros()))
            .filter(|time| (0..=9999).contains(&time.year()));
        if time.is_none() {
            let detail = "must be an RFC 3339 time, like 2027-01-31T12:00:00Z";
            self.note(field, "invalid_time", detail);
        }
        time
    }

    /// As [`Self::time`], of a field that may be absent.
    pub fn optional_time(
        &mut self,
        field: &'static str,
        text: Option<&str>,
    ) -> Option<Option<DateTime<Utc>>> {
        match text {
            Some(text) => self.time(field, text).map(Some),
            None => Some(None),
        }
    }

    /// Notes a wrong field.
    pub fn note(
        &mut self,
        field: &'static str,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) {
        self.errors.push(FieldError::new(field, code, detail));
    }

    /// What the fields make up, if none is wrong; `whole` is `None` only where one was noted.
    ///
    /// # Errors
    ///
    /// `validation_failed`, with every wrong field.
    pub fn finish<T>(self, whole: Option<T>) -> Result<T, Problem> {
        match whole {
            Some(whole) if self.errors.is_empty() => Ok(whole),
            _ => Err(Problem::validation(self.errors)),
        }
    }

    /// As [`Self::finish`], for a query string.
    ///
    /// # Errors
    ///
    /// `invalid_query`, with the first wrong parameter.
    pub fn finish_query<T>(self, whole: Option<T>) -> Result<T, Problem> {
        match (whole, self.errors.into_iter().next()) {
            (Some(whole), None) => Ok(whole),
            (_, Some(error)) => Err(Problem::invalid_query(error)),
            (None, None) => Err(Problem::validation(Vec::new())),
        }
    }
}

/// The field error behind a serde error. Serde has only its message to tell the kinds apart;
/// its wording is stable and a test here holds it.
pub fn of_serde(path: &serde_path_to_error::Path, message: &str) -> FieldError {
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message);
    let named = |rest: &str| rest.split('`').nth(1).unwrap_or_default().to_owned();
    let path = match path.to_string() {
        path if path == "." || path == "?" => String::new(),
        path => path,
    };
    let below = |name: String| match path.rsplit_once('.') {
        _ if path.is_empty() => name,
        Some((_, last)) if last == name => path.clone(),
        None if path == name => path.clone(),
        _ => format!("{path}.{name}"),
    };
    let (field, code) = if message.starts_with("missing field") {
        (below(named(message)), "required")
    } else if message.starts_with("unknown field") {
        (below(named(message)), "unknown_field")
    } else if message.starts_with("duplicate field") {
        (below(named(message)), "duplicate")
    } else if message.starts_with("invalid type") {
        (path, "wrong_type")
    } else if message.starts_with("unknown variant") {
        (path, "unknown_value")
    } else {
        (path, "invalid")
    };
    // The names of this program's types mean nothing to its clients.
    let detail = match message.split_once(", expected struct ") {
        Some((found, _)) => format!("{found}, expected an object"),
        None => message.to_owned(),
    };
    FieldError::new(field, code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_that_the_stores_keep_and_answers_can_show() {
        let read = |text: &str| {
            let mut fields = Fields::default();
            let time = fields.time("expires_at", text);
            fields.finish(time).ok().map(|time| time.to_rfc3339())
        };
        let read_as = |text: &str, kept: &str| assert_eq!(read(text).as_deref(), Some(kept));
        read_as("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00+00:00");
        read_as(
            "2027-01-31T12:00:00.1234567Z",
            "2027-01-31T12:00:00.123456+00:00",
        );
        read_as("2027-06-30T23:59:60Z", "2027-07-01T00:00:00+00:00");
        for bad in [
            "9999-12-31T23:59:60Z",
            "+10000-01-01T00:00:00Z",
            "2027-01-31",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
