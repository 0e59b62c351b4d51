//! Cursors: opaque places in a list, bound to the list they were handed out for.
//!
//! A cursor is the hexadecimal text of 8 bytes of SHA-256 over the list (its filters and order)
//! and the place, followed by the place as JSON. The digest is no secret: it tells a client that
//! it mixed up lists or damaged a cursor. A forged one reaches nothing that the list would not.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::problem::{Code, Problem};

const DIGEST_BYTES: usize = 8;

/// The cursor for `place` in the list that `list` describes.
pub fn write(list: &impl Serialize, place: &impl Serialize) -> Result<String, Problem> {
    let place = serde_json::to_vec(place).map_err(Problem::internal)?;
    let mut bytes = digest(list, &place)?.to_vec();
    bytes.extend_from_slice(&place);
    Ok(hex::encode(bytes))
}

/// The place that a cursor names in the list that `list` describes.
///
/// # Errors
///
/// `invalid_cursor` if it is damaged or of another list.
pub fn read<P: DeserializeOwned>(list: &impl Serialize, cursor: &str) -> Result<P, Problem> {
    let refuse = || {
        Problem::new(
            Code::InvalidCursor,
            "the cursor is damaged or belongs to another list",
        )
    };
    let bytes = hex::decode(cursor).map_err(|_| refuse())?;
    let (found, place) = bytes.split_at_checked(DIGEST_BYTES).ok_or_else(refuse)?;
    if digest(list, place)? != found {
        return Err(refuse());
    }
    serde_json::from_slice(place).map_err(|_| refuse())
}

fn digest(list: &impl Serialize, place: &[u8]) -> Result<[u8; DIGEST_BYTES], Problem> {
    let list = serde_json::to_vec(list).map_err(Problem::internal)?;
    let mut digest = Sha256::new();
    digest.update((list.len() as u64).to_be_bytes());
    digest.update(list);
    digest.update(place);
    let whole = digest.finalize();
    let mut first = [0; DIGEST_BYTES];
    first.copy_from_slice(&whole[..DIGEST_BYTES]);
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let cursor = write(&("cards", "name"), &("ada", 7)).expect("a cursor");
        let place: (String, u64) = read(&("cards", "name"), &cursor).expect("a place");
        assert_eq!(place, ("ada".to_owned(), 7));
    }

    #[test]
    fn a_cursor_of_another_list_or_a_damaged_one_is_refused() {
        let cursor = write(&("cards", "name"), &("ada", 7)).expect("a cursor");
        assert!(read::<(String, u64)>(&("cards", "-name"), &cursor).is_err());
        for place in 0..cursor.len() {
            let mut damaged = cursor.clone().into_bytes();
            damaged[place] = if damaged[place] == b'0' { b'1' } else { b'0' };
            let damaged = String::from_utf8(damaged).expect("text");
            let read = read::<(String, u64)>(&("cards", "name"), &damaged);
            assert!(read.is_err(), "{damaged}");
        }
        for bad in ["", "zz", "00", "ü"] {
            assert!(read::<(String, u64)>(&("cards", "name"), bad).is_err());
        }
    }
}
