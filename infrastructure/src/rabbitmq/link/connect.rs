//! The publisher's connection, with everything declared that is needed.

use std::fmt;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection, ErrorKind};
use tokio::time::timeout;

use super::super::address::Address;
use super::super::dial::{HangUp, dial};
use super::super::topology;

/// How long one step of the conversation may take.
const STEP_MAX: Duration = Duration::from_secs(10);
/// What is there has other arguments (AMQP 0-9-1, 1.2).
const PRECONDITION_FAILED: u16 = 406;
/// Not allowed, no such virtual host, and the like: somebody must change something.
const REFUSALS: [u16; 4] = [402, 403, 404, 530];

/// Why there is no connection.
#[derive(Debug)]
pub enum Lost {
    /// It cannot be made, or was lost: another one may last.
    Broken(String),
    /// The broker refuses this user or address.
    Refused(String),
    /// Something else than is needed is at the broker.
    Conflict(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(why) => write!(f, "no connection to the broker: {why}"),
            Self::Refused(why) => write!(f, "the broker refuses: {why}"),
            Self::Conflict(why) => write!(
                f,
                "the broker has an exchange or queue of the same name with other arguments, which \
                 somebody must delete or change: {why}"
            ),
        }
    }
}

/// Connects, declares what is needed, and opens the channel to publish on.
pub async fn connect(address: &Address, hang_up: &HangUp) -> Result<(Connection, Channel), Lost> {
    let connecting = dial(address, hang_up, "digital-card publisher");
    let connection = step("connecting", connecting).await?;
    // On a channel of its own: a refusal closes it.
    let declaring = step("opening a channel", connection.create_channel()).await?;
    step("declaring", topology::declare(&declaring)).await?;
    let _ = step("closing a channel", declaring.close(200, "OK".into())).await;
    let channel = step("opening a channel", connection.create_channel()).await?;
    let confirming = channel.confirm_select(ConfirmSelectOptions { nowait: false });
    step("asking for confirms", confirming).await?;
    Ok((connection, channel))
}

/// Something that may take [`STEP_MAX`].
pub async fn step<T>(
    what: &'static str,
    work: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Lost> {
    match timeout(STEP_MAX, work).await {
        Ok(done) => done.map_err(Lost::of),
        Err(_) => Err(Lost::Broken(format!("{what}: no answer in time"))),
    }
}

impl Lost {
    fn of(error: lapin::Error) -> Self {
        let (code, why) = match error.kind() {
            ErrorKind::ProtocolError(said) => (Some(said.get_id()), said.get_message().to_string()),
            _ => (None, error.to_string()),
        };
        match code {
            Some(PRECONDITION_FAILED) => Self::Conflict(why),
            Some(code) if REFUSALS.contains(&code) => Self::Refused(why),
            _ => Self::Broken(why),
        }
    }
}
