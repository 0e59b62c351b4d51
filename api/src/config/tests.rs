//! How the command line is read, and what is said of one that cannot be.

use super::*;

fn bad(arguments: &[&str]) -> String {
    let line = std::iter::once("digital-card").chain(arguments.iter().copied());
    match CommandLine::read(line) {
        Err(Stop::Bad(text)) => text,
        other => panic!("{arguments:?} gave {other:?}"),
    }
}

#[test]
fn bad_configuration_is_one_line_that_names_the_knob() {
    for (arguments, knob) in [
        (&["--listen", "nowhere"][..], "LISTEN"),
        (&["--store", "mysql:x"], "STORE"),
        (&["--store", "postgres:x"], "STORE"),
        (&["--landlord-api-key", "short"], "LANDLORD_API_KEY"),
        (&["--connections-max", "0"], "CONNECTIONS_MAX"),
        (&["--body-bytes-max", "many"], "BODY_BYTES_MAX"),
        (&["--header-timeout-s=-1"], "HEADER_TIMEOUT_S"),
        (&["--log-format", "xml"], "LOG_FORMAT"),
        (&["--migrate", "perhaps"], "MIGRATE"),
        (&["--usage-audit-at", "3am"], "USAGE_AUDIT_AT"),
        (&["--amqp-url", "http://broker"], "AMQP_URL"),
        (
            &["--amqp-url", "amqp://b", "--amqp-url-file", "f"],
            "AMQP_URL_FILE",
        ),
        (&["demo", "--listen", "0.0.0.0:8080"], "LISTEN"),
        (&["--nope"], "--nope"),
        (&["billing-report", "--report-only"], "--from"),
        (&["billing-report", "--from", "monday"], "--from"),
        (
            &["billing-report", "--from=2026-01-01", "--to=2026-02-01"],
            "AMQP_URL",
        ),
        (
            &[
                "billing-report",
                "--report-only",
                "--from=2026-01-02",
                "--to=2026-01-02",
            ],
            "--to",
        ),
        (
            &[
                "billing-report",
                "--follow",
                "--from=2026-01-02",
                "--amqp-url=amqp://b",
            ],
            "--to",
        ),
        (
            &["billing-report", "--follow", "--from-ledgers"],
            "--follow",
        ),
        (&["dance"], "dance"),
    ] {
        let text = bad(arguments);
        assert!(text.contains(knob), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn what_may_be_secret_is_not_shown() {
    assert!(!bad(&["--landlord-api-key", "opensesame"]).contains("opensesame"));
    for store in ["postgre://u:opensesame@h/db", "postgres:/u:opensesame@h/db"] {
        assert!(!bad(&["--store", store]).contains("opensesame"));
    }
    assert!(!bad(&["--amqp-url", "ampq://u:opensesame@h"]).contains("opensesame"));
}

#[test]
fn knobs_go_before_or_after_the_command() {
    for line in [
        ["digital-card", "--store", "sqlite:/a", "migrate"],
        ["digital-card", "migrate", "--store", "sqlite:/a"],
    ] {
        let read = CommandLine::read(line).expect("a command line");
        assert_eq!(read.store(), Store::Sqlite("/a".into()));
        assert!(matches!(read.role(), Role::Migrate));
    }
}
