//! A card's life: every command in every status, and the rules worth a sentence of their own.

use domain::card::{CardCommand, CardEvent, CardRefusal, DigitalCard, Issue, Status};

use crate::examples::{
    ada, adas_card, card_id, day, holder, issue, issued, issued_for_ever, issued_until, just_before,
};
use crate::given::{after, given};
use crate::table::{Cell, cells};

/// `same` is a success without events; a status is what the card has after at least one event;
/// the rest are refusals.
const EVERY_COMMAND_IN_EVERY_STATUS: &str = "
              | unissued | issued   | active    | suspended | revoked | expired | replaced
    issue     | issued   | taken    | taken     | taken     | taken   | taken   | taken
    activate  | missing  | active   | same      | invalid   | invalid | invalid | invalid
    suspend   | missing  | invalid  | suspended | same      | invalid | invalid | invalid
    reinstate | missing  | invalid  | same      | active    | invalid | invalid | invalid
    revoke    | missing  | revoked  | revoked   | revoked   | same    | revoked | invalid
    expire    | missing  | not due  | not due   | not due   | not due | same    | not due
    renew     | missing  | issued   | active    | suspended | invalid | active  | invalid
    replace   | missing  | replaced | replaced  | replaced  | invalid | invalid | same
    holder    | missing  | issued   | active    | suspended | invalid | expired | invalid
";

/// The row of the table that a command is in; a new command needs one.
fn row(command: &CardCommand) -> &'static str {
    match command {
        CardCommand::Issue(_) => "issue",
        CardCommand::Activate { .. } => "activate",
        CardCommand::Suspend { .. } => "suspend",
        CardCommand::Reinstate { .. } => "reinstate",
        CardCommand::Revoke { .. } => "revoke",
        CardCommand::Expire { .. } => "expire",
        CardCommand::Renew { .. } => "renew",
        CardCommand::Replace { .. } => "replace",
        CardCommand::UpdateHolder { .. } => "holder",
    }
}

/// Every command, with an effect that no card of the table has yet (but `replaced`, whose card
/// was replaced by the same one).
fn every_command() -> [CardCommand; 9] {
    let at = day(20);
    [
        issue(),
        CardCommand::Activate { at },
        CardCommand::Suspend { at },
        CardCommand::Reinstate { at },
        CardCommand::Revoke { at },
        CardCommand::Expire { at },
        CardCommand::Renew {
            expires_at: day(90),
            at,
        },
        CardCommand::Replace { by: card_id(2), at },
        CardCommand::UpdateHolder {
            holder: holder("Grace Hopper"),
            at,
        },
    ]
}

/// A history that ends in `status`, of a card that is not due on day 20 unless it has expired.
fn history(status: &str, end: i64) -> Vec<CardEvent> {
    let at = day(5);
    let from = Status::Active;
    let mut history = vec![issued_until(day(end)), CardEvent::CardActivated { at }];
    match status {
        "unissued" => history.clear(),
        "issued" => history.truncate(1),
        "active" => {}
        "suspended" => history.push(CardEvent::CardSuspended { at }),
        "revoked" => history.push(CardEvent::CardRevoked { from, at }),
        "expired" => history.push(CardEvent::CardExpired { from, at: day(end) }),
        "replaced" => history.push(CardEvent::CardReplaced {
            from,
            by: card_id(2),
            at,
        }),
        other => panic!("no such status: {other}"),
    }
    history
}

fn end(status: &str) -> i64 {
    if status == "expired" { 10 } else { 30 }
}

fn outcome(card: &DigitalCard, command: &CardCommand) -> String {
    let events = match card.decide(command) {
        Ok(events) if events.is_empty() => return "same".to_owned(),
        Ok(events) => events,
        Err(CardRefusal::NotIssued) => return "missing".to_owned(),
        Err(CardRefusal::AlreadyIssued) => return "taken".to_owned(),
        Err(CardRefusal::NotDue) => return "not due".to_owned(),
        Err(CardRefusal::ExpiryNotInFuture) => return "past".to_owned(),
        Err(CardRefusal::InvalidTransition { from, .. }) => {
            assert_eq!(Some(from), card.status(), "the refusal names the status");
            return "invalid".to_owned();
        }
    };
    let mut card = card.clone();
    for event in events {
        card.evolve(event);
    }
    let status = card.status().expect("an event makes a card");
    status.as_str().to_owned()
}

#[test]
fn every_command_in_every_status_does_what_the_table_says() {
    let table = cells(EVERY_COMMAND_IN_EVERY_STATUS);
    let commands = every_command();
    assert_eq!(table.len(), commands.len() * (Status::ALL.len() + 1));
    for command in &commands {
        for status in ["unissued"]
            .into_iter()
            .chain(Status::ALL.map(Status::as_str))
        {
            let card: DigitalCard = after(history(status, end(status)));
            let found = Cell {
                command: row(command),
                status,
                outcome: &outcome(&card, command),
            };
            assert!(table.contains(&found), "the table differs: {found:?}");
        }
    }
}

#[test]
fn a_lapsed_card_first_expires_and_then_answers_every_command_as_an_expired_one() {
    for from in [Status::Issued, Status::Active, Status::Suspended] {
        let lapsed: DigitalCard = after(history(from.as_str(), 10));
        let expired_event = CardEvent::CardExpired { from, at: day(10) };
        let mut expired = lapsed.clone();
        expired.evolve(expired_event.clone());
        for command in every_command()
            .iter()
            .filter(|command| command.at() >= day(10))
        {
            let as_expired = expired.decide(command).map(|mut events| {
                events.insert(0, expired_event.clone());
                events
            });
            assert_eq!(lapsed.decide(command), as_expired, "{from:?}, {command:?}");
        }
    }
}

#[test]
fn a_card_is_issued_with_all_its_particulars() {
    given::<DigitalCard>([])
        .when(issue())
        .then([issued_for_ever()]);
}

#[test]
fn a_card_may_be_active_from_the_start() {
    let active = Issue {
        activate: true,
        ..adas_card()
    };
    given::<DigitalCard>([])
        .when(CardCommand::Issue(active))
        .then([issued_for_ever(), CardEvent::CardActivated { at: day(0) }]);
}

#[test]
fn a_card_that_would_be_over_at_once_is_not_issued() {
    for end in [day(0), just_before(day(0))] {
        let over = Issue {
            expires_at: Some(end),
            ..adas_card()
        };
        given::<DigitalCard>([])
            .when(CardCommand::Issue(over))
            .refused(CardRefusal::ExpiryNotInFuture);
    }
}

#[test]
fn a_card_is_issued_once_even_with_the_same_particulars() {
    given::<DigitalCard>([issued_for_ever()])
        .when(issue())
        .refused(CardRefusal::AlreadyIssued);
}

#[test]
fn a_card_expires_at_the_moment_it_is_due_and_not_before() {
    given::<DigitalCard>([issued_until(day(10))])
        .when(CardCommand::Expire {
            at: just_before(day(10)),
        })
        .refused(CardRefusal::NotDue);
    given::<DigitalCard>([issued_until(day(10))])
        .when(CardCommand::Expire { at: day(10) })
        .then([CardEvent::CardExpired {
            from: Status::Issued,
            at: day(10),
        }]);
}

#[test]
fn an_expiry_recorded_late_has_the_time_at_which_it_was_due() {
    given::<DigitalCard>([issued_until(day(10))])
        .when(CardCommand::Expire { at: day(40) })
        .then([CardEvent::CardExpired {
            from: Status::Issued,
            at: day(10),
        }]);
}

#[test]
fn a_card_without_an_end_never_expires() {
    given::<DigitalCard>([issued_for_ever()])
        .when(CardCommand::Expire { at: day(36_500) })
        .refused(CardRefusal::NotDue);
}

#[test]
fn a_lapsed_card_is_not_activated_although_nothing_recorded_the_expiry() {
    given::<DigitalCard>([issued_until(day(10))])
        .when(CardCommand::Activate { at: day(10) })
        .refused(CardRefusal::InvalidTransition {
            from: Status::Expired,
            verb: "activated",
        });
}

#[test]
fn renewing_an_expired_card_makes_it_active() {
    given::<DigitalCard>([
        issued_until(day(10)),
        CardEvent::CardExpired {
            from: Status::Issued,
            at: day(10),
        },
    ])
    .when(CardCommand::Renew {
        expires_at: day(30),
        at: day(12),
    })
    .then([CardEvent::CardRenewed {
        from: Status::Expired,
        to: Status::Active,
        expires_at: day(30),
        at: day(12),
    }]);
}

#[test]
fn a_clock_that_runs_behind_does_not_mistake_the_end_of_an_expired_card_for_a_renewal_done() {
    given::<DigitalCard>(history("expired", 10))
        .when(CardCommand::Renew {
            expires_at: day(10),
            at: just_before(day(10)),
        })
        .then([CardEvent::CardRenewed {
            from: Status::Expired,
            to: Status::Active,
            expires_at: day(10),
            at: just_before(day(10)),
        }]);
}

#[test]
fn renewing_a_suspended_card_leaves_it_suspended() {
    given::<DigitalCard>(history("suspended", 10))
        .when(CardCommand::Renew {
            expires_at: day(30),
            at: day(8),
        })
        .then([CardEvent::CardRenewed {
            from: Status::Suspended,
            to: Status::Suspended,
            expires_at: day(30),
            at: day(8),
        }]);
}

#[test]
fn renewing_to_the_end_it_has_changes_nothing() {
    given::<DigitalCard>([issued_until(day(10))])
        .when(CardCommand::Renew {
            expires_at: day(10),
            at: day(1),
        })
        .then_nothing();
}

#[test]
fn a_card_is_not_renewed_into_the_past() {
    given::<DigitalCard>([issued_for_ever()])
        .when(CardCommand::Renew {
            expires_at: day(5),
            at: day(5),
        })
        .refused(CardRefusal::ExpiryNotInFuture);
}

#[test]
fn a_renewed_card_expires_at_its_new_end() {
    let renewed: DigitalCard = after([
        issued_until(day(10)),
        CardEvent::CardRenewed {
            from: Status::Issued,
            to: Status::Issued,
            expires_at: day(30),
            at: day(8),
        },
    ]);
    let expire = |at| renewed.decide(&CardCommand::Expire { at });
    assert_eq!(expire(day(10)), Err(CardRefusal::NotDue));
    assert_eq!(
        expire(day(30)),
        Ok(vec![CardEvent::CardExpired {
            from: Status::Issued,
            at: day(30),
        }])
    );
}

#[test]
fn a_revoked_card_stays_revoked_when_its_time_is_over() {
    given::<DigitalCard>(history("revoked", 10))
        .when(CardCommand::Expire { at: day(10) })
        .refused(CardRefusal::NotDue);
}

#[test]
fn an_expired_card_may_still_be_revoked() {
    given::<DigitalCard>(history("expired", 10))
        .when(CardCommand::Revoke { at: day(11) })
        .then([CardEvent::CardRevoked {
            from: Status::Expired,
            at: day(11),
        }]);
}

#[test]
fn a_replaced_card_knows_the_card_that_took_its_place() {
    let old: DigitalCard = after(history("replaced", 30));
    assert_eq!(old.replaced_by(), Some(card_id(2)));
    let new: DigitalCard = after([issued(Issue {
        replaces: Some(card_id(1)),
        ..adas_card()
    })]);
    let particulars = new.particulars().expect("an issued card");
    assert_eq!(particulars.replaces, Some(card_id(1)));
    assert_eq!(new.replaced_by(), None);
}

#[test]
fn a_replaced_card_is_not_replaced_by_yet_another() {
    given::<DigitalCard>(history("replaced", 30))
        .when(CardCommand::Replace {
            by: card_id(3),
            at: day(6),
        })
        .refused(CardRefusal::InvalidTransition {
            from: Status::Replaced,
            verb: "replaced",
        });
}

#[test]
fn the_same_holder_again_changes_nothing() {
    given::<DigitalCard>([issued_for_ever()])
        .when(CardCommand::UpdateHolder {
            holder: ada(),
            at: day(1),
        })
        .then_nothing();
}

#[test]
fn a_new_holder_replaces_the_old_one_whole() {
    let card: DigitalCard = after([
        issued_for_ever(),
        CardEvent::CardHolderUpdated {
            holder: holder("Grace Hopper"),
            at: day(1),
        },
    ]);
    let particulars = card.particulars().expect("an issued card");
    assert_eq!(particulars.holder, holder("Grace Hopper"));
    assert_eq!(particulars.holder.email, None);
}

#[test]
fn a_card_that_was_never_issued_stays_so_whatever_a_broken_history_says() {
    for event in history("replaced", 30).into_iter().skip(1) {
        assert_eq!(after::<DigitalCard>([event]), DigitalCard::Unissued);
    }
}

#[test]
fn a_refusal_says_what_the_card_is_and_what_it_cannot_be() {
    let refusal = after::<DigitalCard>(history("revoked", 30))
        .decide(&CardCommand::Activate { at: day(6) })
        .expect_err("a revoked card cannot be activated");
    assert_eq!(
        refusal.to_string(),
        "a card that is revoked cannot be activated"
    );
}
