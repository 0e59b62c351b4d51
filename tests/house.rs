//! The rules of the house that a machine can check. Each failure says what to do.

use std::fs;
use std::path::{Path, PathBuf};

/// The most lines a file may have before it should be two.
const LINES_MAX: usize = 500;

#[test]
fn the_domain_depends_on_no_other_room() {
    may_depend_on("domain", &[]);
}

#[test]
fn the_application_depends_on_the_domain_only() {
    may_depend_on("application", &["domain"]);
}

#[test]
fn the_infrastructure_depends_on_application_and_domain_only() {
    may_depend_on("infrastructure", &["application", "domain"]);
}

#[test]
fn only_the_wiring_names_adapters() {
    for file in rust_files(&["api/src"]) {
        if shown(&file).starts_with("api/src/wiring") {
            continue;
        }
        for (number, line) in read(&file).lines().enumerate() {
            assert!(
                !line.contains("infrastructure::") || is_comment(line),
                "{}:{} names an adapter: take it through a port, and choose the adapter in \
                 api/src/wiring.rs or beside it",
                shown(&file),
                number + 1,
            );
        }
    }
}

#[test]
fn the_inner_rooms_know_nothing_of_http_and_sql() {
    for (room, strangers) in [
        ("domain", &["sqlx", "axum", "hyper"][..]),
        ("application", &["sqlx", "axum", "hyper", "utoipa"][..]),
        ("infrastructure", &["axum", "hyper", "utoipa"][..]),
    ] {
        let dependencies = dependencies(room);
        for stranger in strangers {
            assert!(
                !dependencies.iter().any(|name| name == stranger),
                "{room}/Cargo.toml depends on {stranger}: that belongs in a room further out",
            );
        }
    }
}

#[test]
fn no_module_hides_in_a_mod_rs() {
    for file in all_rust_files() {
        assert!(
            !file.ends_with("mod.rs"),
            "{}: name the file after its module (`cards.rs` beside `cards/`)",
            shown(&file),
        );
    }
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    for file in all_rust_files() {
        assert!(
            read(&file).starts_with("//!"),
            "{}: begin with `//!`: what it is, why it is so, what is deliberately absent",
            shown(&file),
        );
    }
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    for file in all_rust_files() {
        let lines = read(&file).lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines, more than {LINES_MAX}: make it two, by noun",
            shown(&file),
        );
    }
}

#[test]
fn no_test_sleeps_and_none_is_ignored() {
    // In two halves, so that this file does not find itself.
    let (sleeps, ignored) = (concat!("sleep", "("), concat!("#[", "ignore"));
    for file in rust_files(&["tests", "domain/tests"]) {
        for (number, line) in read(&file).lines().enumerate() {
            assert!(
                !line.contains(sleeps) || line.contains("a person would wait"),
                "{}:{} sleeps: wait for what the test needs, with a deadline",
                shown(&file),
                number + 1,
            );
            assert!(
                !line.trim_start().starts_with(ignored),
                "{}:{} is ignored: a test that does not run says nothing",
                shown(&file),
                number + 1,
            );
        }
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!(")];
    for file in all_rust_files() {
        for (number, line) in read(&file).lines().enumerate() {
            assert!(
                !marks.iter().any(|mark| line.contains(mark)),
                "{}:{} is unfinished",
                shown(&file),
                number + 1,
            );
        }
    }
}

fn may_depend_on(room: &str, allowed: &[&str]) {
    let rooms = ["domain", "application", "infrastructure", "api"];
    for name in dependencies(room) {
        assert!(
            !rooms.contains(&name.as_str()) || allowed.contains(&name.as_str()),
            "{room}/Cargo.toml depends on {name}: dependencies point inwards, \
             domain <- application <- infrastructure, api; turn the call into a port",
        );
    }
}

/// The names in every dependency table of a room's manifest.
fn dependencies(room: &str) -> Vec<String> {
    let manifest = read(&root().join(room).join("Cargo.toml"));
    let mut names = Vec::new();
    let mut within = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            within = table.trim_end_matches(']').ends_with("dependencies");
        } else if within && !line.is_empty() && !line.starts_with('#') {
            let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            names.push(line[..end.unwrap_or(line.len())].to_owned());
        }
    }
    assert!(!names.is_empty(), "{room}/Cargo.toml has no dependencies");
    names
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn all_rust_files() -> Vec<PathBuf> {
    rust_files(&["domain", "application", "infrastructure", "api", "tests"])
}

fn rust_files(under: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for part in under {
        collect(&root().join(part), &mut found);
    }
    assert!(!found.is_empty(), "no Rust files under {under:?}");
    found
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("a file of the repository")
}

/// The path as a reader of the repository knows it.
fn shown(file: &Path) -> String {
    file.strip_prefix(root())
        .unwrap_or(file)
        .display()
        .to_string()
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the api crate is in the workspace")
        .to_owned()
}
