//! Publishing again what was published, on request: for whoever reads the messages and has lost some.
//!
//! The request is an event in the tenant's ledger, and the publisher acts on it when it comes to it
//! on its way along the ledger. So it is done once its effect is confirmed, also after a crash and on
//! whichever node, and the history says who asked and why.

use domain::ids::{Position, TenantId};
use domain::subscription::{SubscriptionCommand, TenantSubscription};
use serde::{Deserialize, Serialize};

use crate::Application;
use crate::commands::{Decided, Done};
use crate::error::{Error, Refusal};
use crate::scope::{Command, Role};

/// What will be published again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Republication {
    /// Whose messages.
    pub tenant: TenantId,
    /// The position of the first event; the last is the one before the request.
    pub from: Position,
}

impl Application {
    /// Asks for a tenant's messages to be published again, from a position on. Without a broker,
    /// that is done when there is one.
    pub async fn republish(
        &self,
        command: &Command,
        tenant: TenantId,
        from: Position,
    ) -> Result<Done<Republication>, Error> {
        command.scope.require(&[Role::Landlord])?;
        let store = self.known_store(tenant).await?;
        // Another node may have moved it.
        store.ledger.heard(from).await?;
        let head = store.ledger.head().position;
        if from == 0 || from > head {
            return Err(Refusal::Invalid {
                field: "from",
                code: "out_of_range",
                detail: format!("must be a position in the ledger, 1 to {head}"),
            }
            .into());
        }
        self.commit(&store, command, || async {
            let staged = self
                .stage::<TenantSubscription>(
                    &store,
                    &tenant.to_string(),
                    false,
                    SubscriptionCommand::RequestRepublish {
                        from,
                        at: self.clock.now(),
                    },
                    command.metadata(),
                    command.if_match,
                )
                .await?;
            Ok(Decided {
                value: Republication { tenant, from },
                version: staged.version,
                streams: vec![staged.stream],
            })
        })
        .await
    }
}
