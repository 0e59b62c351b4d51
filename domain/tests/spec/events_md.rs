//! `EVENTS.md`, the catalogue of events, says what the source says.

use domain::event::Event;

use crate::every_event::every_event;
use crate::samples::{UPDATE, samples, updating};
use crate::source::{self, Item, Member};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/EVENTS.md");

#[test]
fn the_event_catalogue_is_current() {
    let current = catalogue();
    if updating() {
        std::fs::write(PATH, &current).expect("EVENTS.md");
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        found == current,
        "EVENTS.md does not say what the source says: regenerate it with {UPDATE} and read the \
         difference"
    );
}

#[test]
fn every_field_that_holds_a_person_is_marked_as_personal_data() {
    let mut found = 0;
    for field in source::events()
        .iter()
        .flat_map(|item| &item.members)
        .flat_map(|event| &event.fields)
        .filter(|field| field.of_type.as_deref() == Some("Holder"))
    {
        assert!(is_personal(field), "say so in the doc comment: {field:?}");
        found += 1;
    }
    assert_eq!(found, 2, "cards are issued to a holder, and change theirs");
}

#[test]
fn every_event_and_field_is_documented() {
    for event in source::events().into_iter().flat_map(|item| item.members) {
        for member in std::iter::once(&event).chain(&event.fields) {
            assert!(member.doc.ends_with('.'), "{}: {member:?}", event.name);
        }
    }
}

fn is_personal(field: &Member) -> bool {
    field.doc.contains("personal data")
}

fn catalogue() -> String {
    let mut page = Page::default();
    page.paragraph("# Events");
    page.paragraph(
        "Everything that a tenant's ledger, or the landlord's own, can hold. Events are private to the ledger: what other \
         systems receive is mapped from them and documented with the messages. An event is stored \
         as JSON, `{\"CardActivated\": {\"at\": \"2026-01-01T09:00:00Z\"}}`; a field that is \
         absent is left out, never `null`. An old version is read as the newest \
         (`src/event.rs`); a version newer than the code is refused.",
    );
    page.paragraph(&format!(
        "Generated from the doc comments of the source by `{UPDATE}`. A frozen example of every \
         event and version is in [samples](samples)."
    ));
    for (item, kind) in source::events().iter().zip([
        "DigitalCard",
        "TenantSubscription",
        "Catalogue",
        "TenantUsage",
    ]) {
        page.paragraph(&format!("## {kind}"));
        for event in &item.members {
            page.event(event);
        }
    }
    page.types();
    page.what_travels_with_an_event();
    page.text.trim_end().to_owned() + "\n"
}

/// The page so far, and the types it has mentioned.
#[derive(Default)]
struct Page {
    text: String,
    mentioned: Vec<String>,
}

impl Page {
    fn paragraph(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push_str("\n\n");
    }

    fn event(&mut self, event: &Member) {
        let current = every_event()
            .iter()
            .find(|example| example.name() == event.name)
            .map(Event::version)
            .expect("an example of every event");
        self.paragraph(&format!("### {} {current}", event.name));
        self.paragraph(&event.doc);
        let prefix = format!("{}.", event.name);
        let versions: Vec<_> = samples()
            .into_keys()
            .filter_map(|file| {
                let version = file.strip_prefix(&prefix)?.strip_suffix(".json")?;
                Some(format!("[{version}](samples/{file})"))
            })
            .collect();
        self.paragraph(&format!("Samples: {}", versions.join(", ")));
        self.fields(&event.fields);
    }

    /// A table of fields, flattened ones in their place.
    fn fields(&mut self, fields: &[Member]) {
        self.text.push_str(
            "| field | type | optional | personal data | meaning |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for field in fields {
            self.field(field);
        }
        self.text.push('\n');
    }

    fn field(&mut self, field: &Member) {
        let written = field.of_type.as_deref().expect("a field has a type");
        if field.is_flattened() {
            for field in declared(written).members {
                self.field(&field);
            }
            return;
        }
        let (optional, of_type) = match generic(written, "Option") {
            Some(inner) => (true, inner),
            None => (false, written),
        };
        let yes = |applies| if applies { "yes" } else { "" };
        let (optional, personal) = (yes(optional), yes(is_personal(field)));
        let of_type = self.type_name(of_type);
        let (name, doc) = (&field.name, &field.doc);
        let row = format!("| `{name}` | {of_type} | {optional} | {personal} | {doc} |\n");
        self.text.push_str(&row);
    }

    /// A type as the page names it; the domain's own are explained further down.
    fn type_name(&mut self, written: &str) -> String {
        if let Some(items) = generic(written, "Vec") {
            return format!("list of {}", self.type_name(items));
        }
        if let Some(entries) = generic(written, "BTreeMap") {
            let (key, value) = entries.split_once(", ").expect("a key and a value");
            return format!(
                "map of {} to {}",
                self.type_name(key),
                self.type_name(value)
            );
        }
        match written {
            "DateTime<Utc>" => "time (RFC 3339, UTC)".to_owned(),
            "String" | "&'a str" => "text".to_owned(),
            "bool" => "flag (`true` or `false`)".to_owned(),
            "u32" | "u64" | "i64" | "Position" | "Version" => "whole number".to_owned(),
            own => {
                if !self.mentioned.iter().any(|mentioned| mentioned == own) {
                    self.mentioned.push(own.to_owned());
                }
                format!("[{own}](#{})", own.to_lowercase())
            }
        }
    }

    /// The types mentioned, including those that they mention themselves.
    fn types(&mut self) {
        self.paragraph("## Types");
        let mut explained = 0;
        while let Some(name) = self.mentioned.get(explained).cloned() {
            self.explain(&declared(&name));
            explained += 1;
        }
    }

    fn explain(&mut self, item: &Item) {
        self.paragraph(&format!("### {}", item.name));
        self.paragraph(&item.doc);
        if item.is_words() {
            for word in &item.members {
                let (name, doc) = (snake_case(&word.name), &word.doc);
                self.text.push_str(&format!("- `{name}`: {doc}\n"));
            }
            self.text.push('\n');
        } else if item.members.iter().all(|member| member.of_type.is_some()) {
            if !item.members.is_empty() {
                self.fields(&item.members);
            }
        } else {
            assert!(
                item.doc.contains("As JSON: "),
                "say what {} is as JSON in its doc comment",
                item.name
            );
        }
    }

    fn what_travels_with_an_event(&mut self) {
        self.paragraph("## What travels with an event");
        self.paragraph("### Metadata");
        let metadata = declared("Metadata");
        self.paragraph(&metadata.doc);
        self.fields(&metadata.members);
        self.paragraph("### Place and hash");
        self.paragraph(
            "A ledger stores each event at its position with the hash of everything below, so \
             that whoever knows the last hash knows the whole history. The hash of position 1 \
             follows 32 zero bytes. `payload` and `metadata` are hashed and kept exactly as \
             stored, never parsed and written again.",
        );
        self.fields(&declared("Link").members);
        let doc = source::function_doc("pub fn hash(&self, previous: &Hash)").expect("its doc");
        self.paragraph(&format!("`hash`: {doc}"));
    }
}

fn declared(name: &str) -> Item {
    source::item(name).unwrap_or_else(|| panic!("no declaration of {name} was found"))
}

/// What stands between the angle brackets of `outer<…>`.
fn generic<'a>(written: &'a str, outer: &str) -> Option<&'a str> {
    written
        .strip_prefix(outer)?
        .strip_prefix('<')?
        .strip_suffix('>')
}

fn snake_case(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}
