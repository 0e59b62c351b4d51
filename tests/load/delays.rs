//! From commit to read model, as the service itself measures it: the histogram
//! `subscriber_delay_seconds` of the cards' read model on `/metrics`.

use anyhow::Context;

use super::connection::Connection;

/// How many events became visible within each bound, in seconds; cumulative.
pub struct Delays(Vec<(f64, u64)>);

impl Delays {
    /// As of now.
    pub async fn read(connection: &mut Connection) -> anyhow::Result<Self> {
        connection.write_get("/metrics");
        let answer = connection.ask().await?;
        answer
            .body
            .lines()
            .filter(|line| {
                line.starts_with("subscriber_delay_seconds_bucket")
                    && line.contains("subscriber=\"cards\"")
            })
            .map(bucket)
            .collect::<anyhow::Result<_>>()
            .map(Self)
    }

    /// What has come in after `before`.
    pub fn since(mut self, before: &Self) -> Self {
        for (bound, count) in &mut self.0 {
            let earlier = before.0.iter().find(|(other, _)| other == bound);
            *count -= earlier.map_or(0, |(_, count)| *count);
        }
        self
    }

    /// The bound within which this share of events was visible: a histogram knows no more.
    pub fn percentile(&self, share: f64) -> String {
        let total = self.0.last().map_or(0, |(_, count)| *count);
        let wanted = total as f64 * share;
        let reached = self.0.iter().find(|(_, count)| *count as f64 >= wanted);
        match reached {
            Some((bound, _)) if total > 0 && bound.is_finite() => format!("≤ {} ms", bound * 1e3),
            Some(_) if total > 0 => "> 10 s".to_owned(),
            _ => "–".to_owned(),
        }
    }
}

fn bucket(line: &str) -> anyhow::Result<(f64, u64)> {
    let (labels, count) = line.rsplit_once(' ').context("a metric has a value")?;
    let (_, bound) = labels.split_once("le=\"").context("a bucket has a bound")?;
    let bound = bound.split('"').next().unwrap_or_default();
    Ok((bound.replace("+Inf", "inf").parse()?, count.parse()?))
}
