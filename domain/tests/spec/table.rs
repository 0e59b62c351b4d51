//! Tables in a test's text: one row a command, one column a status, one cell what then happens.

/// One cell with its headings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell<'a> {
    /// The row's heading.
    pub command: &'a str,
    /// The column's heading.
    pub status: &'a str,
    /// What the table says happens.
    pub outcome: &'a str,
}

/// The cells of a table of words between bars; its first line holds the columns' headings.
pub fn cells(table: &str) -> Vec<Cell<'_>> {
    let mut lines = table
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let statuses = lines.next().expect("a line of headings");
    lines
        .flat_map(|row| {
            assert_eq!(row.len(), statuses.len(), "a cell for each status: {row:?}");
            let command = row[0];
            let outcomes = row.into_iter().skip(1);
            statuses
                .clone()
                .into_iter()
                .skip(1)
                .zip(outcomes)
                .map(move |(status, outcome)| Cell {
                    command,
                    status,
                    outcome,
                })
        })
        .collect()
}
