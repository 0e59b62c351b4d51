//! Reads the declarations and doc comments of the domain's own source, as `rustfmt` lays it out.
//!
//! Lines are enough: an attribute, a doc comment, a name or a field each has its own. A line
//! inside a declaration that is none of these fails the test rather than go missing.

/// A declared type.
#[derive(Clone, Debug)]
pub struct Item {
    pub name: String,
    pub doc: String,
    attributes: Vec<String>,
    /// Fields of a struct, variants of an enum.
    pub members: Vec<Member>,
}

/// A field, or a variant with its fields.
#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    pub doc: String,
    attributes: Vec<String>,
    /// A field's type as written.
    pub of_type: Option<String>,
    pub fields: Vec<Member>,
}

impl Member {
    /// Whether the fields of its type stand in its place.
    pub fn is_flattened(&self) -> bool {
        has(&self.attributes, "#[serde(flatten)]")
    }
}

impl Item {
    /// Whether its variants are written as `snake_case` words.
    pub fn is_words(&self) -> bool {
        has(&self.attributes, "#[serde(rename_all = \"snake_case\")]")
    }
}

fn has(attributes: &[String], attribute: &str) -> bool {
    attributes.iter().any(|found| found == attribute)
}

const CARD_EVENTS: &str = include_str!("../../src/card/event.rs");
const SUBSCRIPTION_EVENTS: &str = include_str!("../../src/subscription/event.rs");
const CATALOGUE_EVENTS: &str = include_str!("../../src/catalogue/event.rs");
const USAGE_EVENTS: &str = include_str!("../../src/usage/event.rs");
/// Where the types of the events' fields, and what travels with events, are declared.
const OTHERS: [&str; 8] = [
    include_str!("../../src/card.rs"),
    include_str!("../../src/card/status.rs"),
    include_str!("../../src/catalogue.rs"),
    include_str!("../../src/chain.rs"),
    include_str!("../../src/event.rs"),
    include_str!("../../src/ids.rs"),
    include_str!("../../src/text.rs"),
    include_str!("../../src/usage.rs"),
];

/// The enums of events; their variants are the events.
pub fn events() -> [Item; 4] {
    [
        (CARD_EVENTS, "CardEvent"),
        (SUBSCRIPTION_EVENTS, "SubscriptionEvent"),
        (CATALOGUE_EVENTS, "CatalogueEvent"),
        (USAGE_EVENTS, "UsageEvent"),
    ]
    .map(|(source, name)| {
        let found = items(source).into_iter().find(|item| item.name == name);
        found.unwrap_or_else(|| panic!("no declaration of {name} was found"))
    })
}

/// The declaration of a type of the domain, if it has one.
pub fn item(name: &str) -> Option<Item> {
    [
        CARD_EVENTS,
        SUBSCRIPTION_EVENTS,
        CATALOGUE_EVENTS,
        USAGE_EVENTS,
    ]
    .into_iter()
    .chain(OTHERS)
    .flat_map(items)
    .find(|item| item.name == name)
}

/// The documentation of the function whose line begins so.
pub fn function_doc(line: &str) -> Option<String> {
    let sources = [
        CARD_EVENTS,
        SUBSCRIPTION_EVENTS,
        CATALOGUE_EVENTS,
        USAGE_EVENTS,
    ];
    let sources = sources.into_iter().chain(OTHERS);
    for source in sources {
        let mut gathered = Gathered::default();
        for found in source.lines().map(str::trim) {
            if found.starts_with(line) {
                return Some(gathered.take().0);
            }
            gathered.read_or_clear(found);
        }
    }
    None
}

/// Documentation and attributes of what comes next.
#[derive(Default)]
struct Gathered {
    doc: Vec<String>,
    attributes: Vec<String>,
}

impl Gathered {
    /// Whether the line belongs to what comes next.
    fn read(&mut self, line: &str) -> bool {
        if let Some(text) = line.strip_prefix("///") {
            self.doc.push(text.trim().to_owned());
        } else if line.starts_with("#[") {
            self.attributes.push(line.to_owned());
        } else {
            return line.starts_with("//");
        }
        true
    }

    fn read_or_clear(&mut self, line: &str) {
        if !self.read(line) {
            *self = Self::default();
        }
    }

    /// Paragraphs are kept, lines within them joined.
    fn take(&mut self) -> (String, Vec<String>) {
        let Self { doc, attributes } = std::mem::take(self);
        let paragraphs: Vec<_> = doc
            .split(String::is_empty)
            .map(|lines| lines.join(" "))
            .collect();
        (paragraphs.join("\n\n"), attributes)
    }
}

fn items(source: &str) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut gathered = Gathered::default();
    let mut lines = source.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if gathered.read(line) {
            continue;
        }
        let (doc, attributes) = gathered.take();
        let Some((name, opened)) = declaration(line, !doc.is_empty()) else {
            continue;
        };
        items.push(Item {
            name: name.to_owned(),
            doc,
            attributes,
            members: if opened {
                members(&mut lines, name)
            } else {
                vec![]
            },
        });
    }
    items
}

/// The name of the type that this line declares, and whether its members follow.
fn declaration(line: &str, documented: bool) -> Option<(&str, bool)> {
    let public = line
        .strip_prefix("pub enum ")
        .or_else(|| line.strip_prefix("pub struct "));
    if let Some(rest) = public {
        return Some((word(rest), line.ends_with('{')));
    }
    // The macros that declare ids and texts take a doc comment and then the bare name.
    let name = line.trim_end_matches(',');
    let bare = documented
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    bare.then_some((name, false))
}

/// The members up to the closing brace.
fn members(lines: &mut dyn Iterator<Item = &str>, within: &str) -> Vec<Member> {
    let mut found = Vec::new();
    let mut gathered = Gathered::default();
    while let Some(line) = lines.next() {
        if line == "}" || line == "}," {
            return found;
        }
        if line.is_empty() || gathered.read(line) {
            continue;
        }
        let (doc, attributes) = gathered.take();
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let name = word(line).to_owned();
        let rest = &line[name.len()..];
        let of_type = rest.strip_prefix(": ").map(|of| of.trim_end_matches(','));
        let of_type = of_type.map(str::to_owned);
        let fields = match rest {
            " {" => members(lines, &name),
            "," => vec![],
            // A variant with a bare value, `Limit(u64),`: its documentation says what it is.
            _ if rest.starts_with('(') && rest.ends_with("),") => vec![],
            _ if of_type.is_some() => vec![],
            _ => panic!("in {within}, this line is not understood: {line}"),
        };
        found.push(Member {
            name,
            doc,
            attributes,
            of_type,
            fields,
        });
    }
    panic!("{within} has no end");
}

/// The identifier at the beginning of `text`.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}
