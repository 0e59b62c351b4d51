//! The load command: issues cards over HTTP and prints what that took as a Markdown table.

fn main() {}
